"""The data of members that train side by side: each step has one batch for every member."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from d2l_lightning.data.batches import (
    InMemoryData,
    RowLoader,
    StackedBatches,
    gather_from,
    loader_of,
    require_indices,
)
from d2l_lightning.errors import InputError, require_finite


class StackedData(InMemoryData):
    """The data of K members that train side by side, each on rows of its own.

    A training batch has X ``(K, B, ...)``, y ``(K, B)`` and weight ``(K, B)``. Each member takes as many
    steps in an epoch as its rows fill batches; in the other steps its weights are 0. The only validation
    batch has X and y of all n rows, and for each stage (``train``, ``val``) weights of shape ``(K, n)``,
    which are 0 for rows of other stages.

    Args:
        X: Features that all members share, shape ``(n, ...)``, or features of each, shape ``(K, n, ...)``.
        y: Targets, shape ``(n,)`` or ``(K, n)``.
        rows: By stage, the rows of each member: K index tensors. Members are trained on the ``train`` rows.
        batch_size: Rows of each member in a step.
        seed: Seed of the order of the rows, which also depends on the epoch.
        same_order: Whether members with the same rows take them in the same order.
        weights: By stage, the weight of each row for each member, shape ``(K, n)``; 1 if not given.
        drop_last: Whether the last rows of a member in an epoch are left out if they are fewer than
            ``batch_size``. If it has fewer rows in all, they make a batch.

    Attributes:
        batches: The rows of the training batches. ``batches.steps`` has each member's number of steps.
    """

    def __init__(
        self,
        X: Tensor,
        y: Tensor,
        rows: Mapping[str, Sequence[Tensor]],
        batch_size: int,
        seed: int,
        same_order: bool = False,
        weights: Mapping[str, Tensor] | None = None,
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        if X.shape[: y.ndim] != y.shape:
            raise InputError(f"X of shape {tuple(X.shape)} does not go with y of shape {tuple(y.shape)}")
        require_finite(X=X, y=y)
        if "train" not in rows:
            raise InputError("rows must have the stage train")
        members = len(rows["train"])
        if y.ndim > 2 or (y.ndim == 2 and len(y) != members):
            raise InputError(
                f"y of shape {tuple(y.shape)} does not go with {members} members; it must be (K, n)"
            )
        for stage, of_members in rows.items():
            if len(of_members) != members:
                raise InputError(f"rows of {len(of_members)} members for {stage} and of {members} for train")
            for k, own in enumerate(of_members, start=1):
                require_indices(**{f"rows of member {k} for {stage}": own})
                if len(own) and not 0 <= int(own.min()) <= int(own.max()) < y.shape[-1]:
                    raise InputError(f"rows of member {k} for {stage} must be from 0 to {y.shape[-1] - 1}")
        self.X, self.y, self.rows, n = X, y, rows, y.shape[-1]
        self.weights = dict(weights or {})
        for stage, weight in self.weights.items():
            shape = tuple(weight.shape)
            if stage not in rows or shape != (len(rows[stage]), n):
                raise InputError(f"weights of shape {shape} do not go with {n} rows of the stage {stage}")
            require_finite(**{f"weights of stage {stage}": weight})
            if weight.min() < 0:
                raise InputError(f"weights of stage {stage} must not be negative; one is {weight.min()}")
        self.batch_size = batch_size
        self.batches = StackedBatches(rows["train"], batch_size, seed, same_order, drop_last)

    def train_dataloader(self) -> RowLoader:
        """Return the loader of stacked training batches, gathered from one pool of rows."""
        X, y, offset = self.X, self.y, None
        if y.ndim > 1:  # a pool of K * n rows, because each member has features of its own
            offset = torch.arange(len(y))[:, None] * y.shape[1]
            X, y = X.flatten(0, 1), y.flatten()
        pool = gather_from(*self.on_device(X, y))
        weights = self.weights["train"].to(X.dtype) if "train" in self.weights else None

        def gather(batch: tuple[Tensor, Tensor], reuse: bool = False) -> tuple[Tensor, Tensor, Tensor]:
            rows, weight = batch
            indices = rows if offset is None else rows + offset
            X, y = (values.view(*rows.shape, *values.shape[1:]) for values in pool(indices.view(-1), reuse))
            return X, y, weight if weights is None else weight * weights.gather(1, rows)

        return RowLoader(self.batches, gather)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the only validation batch."""
        zeros = torch.zeros(self.y.shape[-1])
        weight = {}
        for stage, members in self.rows.items():
            weight[stage] = torch.stack([zeros.index_fill(0, rows, 1) for rows in members])
            if stage in self.weights:
                weight[stage] *= self.weights[stage]
        return loader_of((self.X, self.y, weight))
