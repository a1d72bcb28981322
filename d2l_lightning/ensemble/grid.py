"""Cross-validation of several candidates in one fit: a member for each candidate and fold."""

from collections.abc import Callable, Sequence

from torch import Tensor

from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.models.base import SupervisedModule


def cross_validation(
    names: Sequence[str],
    make_member: Callable[[], SupervisedModule],
    X: Tensor,
    y: Tensor,
    k: int,
    batch_size: int,
    seed: int,
) -> tuple[StackedModule, StackedData]:
    """Return C candidates on k folds, to be trained side by side, and their data.

    The C * k members are ordered by candidate, then by fold; their names are ``NAME_fold_1`` and so on.
    Members with the same rows take them in the same order.

    Args:
        names: The names of the C candidates.
        make_member: Returns a new member.
        X: The features of each candidate, shape ``(C, n, d)``.
        y: The targets, shape ``(n,)``.
        k: Number of folds.
        batch_size: Rows of each member in a step.
        seed: Seed of the order of the rows.
    """
    train_rows, val_rows = k_fold(len(y), k)
    member_names = [f"{name}_fold_{fold}" for name in names for fold in range(1, k + 1)]
    members = StackedModule([make_member() for _ in member_names], member_names)
    rows = {"train": train_rows * len(X), "val": val_rows * len(X)}
    own_X, own_y = X.repeat_interleave(k, dim=0), y.expand(len(X) * k, -1)
    return members, StackedData(own_X, own_y, rows, batch_size, seed, same_order=True)
