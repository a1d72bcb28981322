"""The training and validation rows of K-fold cross-validation."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from d2l_lightning.errors import InputError, require_positive

Folds = tuple[list[Tensor], list[Tensor]]
SCHEMES = "contiguous, shuffled, stratified or group:COLUMN"


def k_fold(n: int, k: int, shuffle_seed: int | None = None) -> Folds:
    """Return the training rows and the validation rows of each of k folds: two lists of sorted index tensors.

    The sizes of folds differ by one at most, and no row is dropped; Section 4.10.6 drops n mod k rows.

    Args:
        n: Number of rows.
        k: Number of folds.
        shuffle_seed: Seed of a permutation of the rows; None for contiguous folds, as in the book.

    Raises:
        InputError: If k is not from 2 to n.
    """
    _require_k(k, n)
    rows = torch.arange(n) if shuffle_seed is None else torch.randperm(n, generator=_generator(shuffle_seed))
    fold_of = torch.empty(n, dtype=torch.long)
    for fold, own in enumerate(rows.tensor_split(k)):
        fold_of[own] = fold
    return _folds(fold_of, k)


def stratified_k_fold(y: Tensor, k: int, shuffle_seed: int = 0) -> Folds:
    """Return folds, as ``k_fold`` does, in which the label y, shape ``(n,)``, has the same quantiles.

    The rows are sorted by label. Of each k rows that follow each other, each fold gets one, at random. So the
    numbers of rows below any value differ by one at most from fold to fold, but for equal labels.

    Raises:
        InputError: If k is not from 2 to n.
    """
    n = len(y)
    _require_k(k, n)
    order = y.argsort(stable=True)
    dealt = torch.rand(-(-n // k), k, generator=_generator(shuffle_seed)).argsort(dim=1).flatten()[:n]
    return _folds(torch.empty(n, dtype=torch.long).index_copy_(0, order, dealt), k)


def group_k_fold(groups: Sequence[Hashable], k: int, shuffle_seed: int | None = None) -> Folds:
    """Return folds, as ``k_fold`` does, that never split a group: all its rows are validated together.

    Groups are taken by size, the largest first, and each goes to the fold with the fewest rows. So the sizes
    of folds differ by the size of the largest group at most.

    Args:
        groups: The group of each row.
        k: Number of folds.
        shuffle_seed: Seed of the order in which groups of about the same size are taken; if None, it is their
            order in the rows.

    Raises:
        InputError: If k is not from 2 to the number of groups.
    """
    sizes = Counter(groups)
    if not 2 <= k <= len(sizes):
        raise InputError(f"k must be from 2 to the number of groups, {len(sizes)}; it is {k}")
    names = list(sizes)
    if shuffle_seed is None:
        names.sort(key=lambda name: -sizes[name])
    else:
        names = [names[i] for i in torch.randperm(len(names), generator=_generator(shuffle_seed)).tolist()]
        names.sort(key=lambda name: -sizes[name].bit_length())
    rows, fold_of = [0] * k, {}
    for name in names:
        fold_of[name] = rows.index(min(rows))
        rows[fold_of[name]] += sizes[name]
    return _folds(torch.tensor([fold_of[group] for group in groups]), k)


def make_folds(
    folds: str,
    k: int,
    y: Tensor,
    repeats: int = 1,
    seed: int = 0,
    groups: Callable[[str], Sequence[Hashable]] | None = None,
) -> tuple[list[Tensor], list[Tensor], list[str]]:
    """Return the training rows, the validation rows and the name of each of ``k * repeats`` members.

    Args:
        folds: How rows are assigned to folds: in their order (``contiguous``), at random (``shuffled``), at
            random with the same quantiles of the label in each fold (``stratified``), or so that rows with
            the same value in a column are in the same fold (``group:COLUMN``).
        k: Number of folds.
        y: The labels, shape ``(n,)``.
        repeats: How often the rows are assigned to k folds, each time at random.
        seed: Seed of the folds. The first k are those of ``repeats=1``.
        groups: Returns the values of a column.

    Raises:
        InputError: If folds is unknown, contiguous folds are to be repeated, or k is out of its range.
    """
    scheme, _, column = folds.partition(":")
    require_positive(repeats=repeats)
    if scheme == "group" and column and groups is not None:
        of_column = groups(column)
    elif folds not in ("contiguous", "shuffled", "stratified"):
        raise InputError(f"folds must be {SCHEMES}, not {folds!r}")
    if folds == "contiguous" and repeats > 1:
        raise InputError(f"contiguous folds are the same in all {repeats} repeats; use shuffled folds")
    train_rows: list[Tensor] = []
    val_rows: list[Tensor] = []
    for own_seed in [seed, *np.random.SeedSequence(seed).generate_state(repeats - 1).tolist()]:
        if scheme == "group":
            train, val = group_k_fold(of_column, k, own_seed)
        elif scheme == "stratified":
            train, val = stratified_k_fold(y, k, own_seed)
        else:
            train, val = k_fold(len(y), k, own_seed if scheme == "shuffled" else None)
        train_rows += train
        val_rows += val
    names = [f"fold_{fold}" for fold in range(1, k + 1)]
    if repeats > 1:
        names = [f"{name}_repeat_{repeat}" for repeat in range(1, repeats + 1) for name in names]
    return train_rows, val_rows, names


def _require_k(k: int, n: int) -> None:
    if not 2 <= k <= n:
        raise InputError(f"k must be from 2 to the number of training rows, {n}; it is {k}")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _folds(fold_of: Tensor, k: int) -> Folds:
    """Return the rows outside each fold, and those in it, from the fold of each row."""
    inside = [fold_of == fold for fold in range(k)]
    return [(~rows).nonzero().squeeze(1) for rows in inside], [rows.nonzero().squeeze(1) for rows in inside]
