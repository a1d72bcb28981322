"""The rows that each fold of a K-fold cross-validation trains and validates on."""

import torch
from torch import Tensor

from d2l_lightning.errors import InputError


def k_fold(n: int, k: int, shuffle_seed: int | None = None) -> tuple[list[Tensor], list[Tensor]]:
    """Split n rows into k folds whose sizes differ by one at most, so that no row is dropped.

    Args:
        n: Number of rows.
        k: Number of folds, from 2 to n.
        shuffle_seed: None for contiguous folds, as in the book; else the seed of a permutation of the rows.

    Returns:
        The training rows and the validation rows of each fold: two lists of k sorted index tensors.

    Raises:
        InputError: If k is not in 2..n.

    Source: Section 4.10.6 (which leaves out the last n mod k rows).
    """
    if not 2 <= k <= n:
        raise InputError(f"k must be from 2 to the number of training rows, {n}; it is {k}")
    rows = torch.arange(n)
    if shuffle_seed is not None:
        rows = torch.randperm(n, generator=torch.Generator().manual_seed(shuffle_seed))
    val_rows = [fold.sort().values for fold in rows.tensor_split(k)]
    held_out = torch.zeros(k, n, dtype=torch.bool)
    for fold, val in zip(held_out, val_rows, strict=True):
        fold[val] = True
    return [(~fold).nonzero().squeeze(1) for fold in held_out], val_rows
