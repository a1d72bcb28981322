"""Means over the examples of an epoch."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torchmetrics.metric import Metric

from d2l_lightning.functional.risk import num_examples


class ExampleMean(Metric):
    """The weighted mean over an epoch's examples, of shape ``()``, or ``(K,)`` for K models side by side.

    Args:
        shape: The shape.
        dtype: The type of the sums.
        settings: Settings of a ``torchmetrics.Metric``.

    Example:
        >>> mean = ExampleMean()
        >>> mean.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
        >>> mean.update(torch.tensor([9.0, 5.0]), torch.tensor([1.0, 0.0]))
        >>> mean.compute()
        tensor(4.)
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(
        self, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32, **settings: Any
    ) -> None:
        super().__init__(**settings)
        for name in ("total", "weight"):
            self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def update(self, values: Tensor, weight: Tensor) -> None:
        """Add a batch: values and weights of shape ``shape + (B,)``, or values that broadcast to it."""
        self.total += (weight * values).sum(dim=-1)
        self.weight += weight.sum(dim=-1)

    def compute(self) -> Tensor:
        """Return the means, of shape ``shape``; NaN where no example had any weight."""
        return self.total / self.weight


def sum_first(values: Tensor) -> Tensor:
    """Return sums over the first dimension, whose order does not depend on how many there are."""
    return values.movedim(0, -1).contiguous().sum(dim=-1)


def batch_counts(weights: Sequence[Tensor | int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the number of examples of each batch and the sum of their weights, given weights or numbers."""
    sizes = [weight for weight in weights if isinstance(weight, int)]
    if len(sizes) == len(weights):
        # A list of numbers would be copied to the device.
        runs = [(size, len([*run])) for size, run in groupby(sizes)]
        counts = torch.cat([torch.full((n,), size, device=device) for size, n in runs])
        return counts, counts.to(torch.float32)
    tensors = [torch.ones(weight, device=device) if isinstance(weight, int) else weight for weight in weights]
    counts = torch.stack([num_examples(weight) for weight in tensors])
    return counts, torch.stack([weight.sum(dim=-1) for weight in tensors])
