"""Batches for members that train side by side: each step brings one batch for every member."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from d2l_lightning.batches import StackedBatches
from d2l_lightning.errors import InputError, require_finite

Batch = tuple[Tensor, Tensor, Tensor]


class _StackedLoader:
    """Gathers batches, X ``(K, B, ...)``, y and weight ``(K, B)``, out of one pool of rows.

    A ``DataLoader`` would do the same at 30 microseconds a step. Lightning sets the sampler's epoch.
    """

    def __init__(
        self, X: Tensor, y: Tensor, offset: Tensor, sampler: StackedBatches, weights: Tensor | None
    ) -> None:
        self.X, self.y, self.offset, self.sampler, self.weights = X, y, offset, sampler, weights

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        for rows, weight in self.sampler:
            places = rows + self.offset
            if self.weights is not None:
                weight = weight * self.weights.gather(1, rows)
            yield self.X[places], self.y[places], weight


class StackedData(LightningDataModule):
    """The data of K members that train side by side on rows of their own.

    Training batches are X ``(K, B, ...)``, y and weight ``(K, B)``. The validation batch holds all n rows:
    X and y, and as weight a mapping from each stage (``train``, ``val``) to its rows' membership ``(K, n)``.

    Args:
        X: Features, ``(n, ...)`` where the members share them or ``(K, n, ...)`` where each has its own.
        y: Targets, ``(n,)`` or ``(K, n)`` likewise.
        rows: The rows of each member by stage: K index tensors each. The ``train`` rows are trained on.
        batch_size: Rows of each member in a step.
        seed: What, with the epoch, decides the order of the rows.
        same_order: Whether members with the same rows take them in the same order.
        weights: What each row weighs for each member by stage, ``(K, n)``, not negative; 1 if not given.

    Raises:
        InputError: If shapes do not match, a number is not finite, a weight is negative, or as
            ``StackedBatches`` says.
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
    ) -> None:
        super().__init__()
        if X.shape[: y.ndim] != y.shape:
            raise InputError(f"X of shape {tuple(X.shape)} does not go with y of shape {tuple(y.shape)}")
        require_finite(X=X, y=y)
        self.X, self.y, self.rows = X, y, rows
        self.weights = {} if weights is None else dict(weights)
        for stage, weight in self.weights.items():
            if stage not in rows or weight.shape != (len(rows[stage]), y.shape[-1]):
                raise InputError(
                    f"weights of shape {tuple(weight.shape)} do not go with {y.shape[-1]} rows of "
                    f"the stage {stage}"
                )
            require_finite(**{f"weights of stage {stage}": weight})
            if weight.min() < 0:
                raise InputError(
                    f"weights of stage {stage} must not be negative; one is {weight.min().item()}"
                )
        self.batches = StackedBatches(rows["train"], batch_size, seed, same_order)

    def train_dataloader(self) -> _StackedLoader:
        """Return the loader of stacked training batches."""
        X, y, offset = self.X, self.y, torch.tensor(0)
        if y.ndim > 1:  # each member has features of its own: one pool of K * n rows
            offset = torch.arange(len(y))[:, None] * y.shape[1]
            X, y = X.flatten(0, 1), y.flatten()
        if self.trainer is not None:  # rows are gathered where they are used
            X, y = (tensor.to(self.trainer.strategy.root_device) for tensor in (X, y))
        weights = self.weights.get("train")
        return _StackedLoader(X, y, offset, self.batches, None if weights is None else weights.to(X.dtype))

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the one validation batch."""
        weight = {}
        for stage, members in self.rows.items():
            weight[stage] = torch.zeros(len(members), self.y.shape[-1])
            for member, rows in zip(weight[stage], members, strict=True):
                member[rows] = 1
            if stage in self.weights:
                weight[stage] *= self.weights[stage]
        return DataLoader(cast(Dataset[Any], [(self.X, self.y, weight)]), batch_size=None)
