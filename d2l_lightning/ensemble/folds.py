"""The training and validation rows of K-fold cross-validation."""

import torch
from torch import Tensor

from d2l_lightning.errors import InputError


def k_fold(n: int, k: int, shuffle_seed: int | None = None) -> tuple[list[Tensor], list[Tensor]]:
    """Return the training rows and the validation rows of each of k folds: two lists of sorted index tensors.

    The sizes of folds differ by one at most, and no row is dropped; Section 4.10.6 drops n mod k rows.

    Args:
        n: Number of rows.
        k: Number of folds.
        shuffle_seed: Seed of a permutation of the rows; None for contiguous folds, as in the book.

    Raises:
        InputError: If k is not from 2 to n.
    """
    if not 2 <= k <= n:
        raise InputError(f"k must be from 2 to the number of training rows, {n}; it is {k}")
    rows = torch.arange(n)
    if shuffle_seed is not None:
        rows = torch.randperm(n, generator=torch.Generator().manual_seed(shuffle_seed))
    val_rows = [fold.sort().values for fold in rows.tensor_split(k)]
    everything = torch.ones(n, dtype=torch.bool)
    return [everything.index_fill(0, rows, False).nonzero().squeeze(1) for rows in val_rows], val_rows
