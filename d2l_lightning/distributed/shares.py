"""The rows of a batch that one of several processes computes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from d2l_lightning.distributed.group import num_processes, process


@dataclass(frozen=True)
class Share:
    """The rows of a batch that a process computes: neighbours, about as many in each process.

    The loss of a share is multiplied by a factor. The mean over the processes, of losses and of gradients, is
    then that of the whole batch. A process without rows computes row 0, with the factor 0, so that it has a
    graph for backpropagation.

    Attributes:
        total: The number of rows of the batch, B.
        processes: The number of processes, N.
        first: The first row of the share.
        count: The number of rows that are computed.
        is_empty: Whether the process has no rows.
    """

    total: int
    processes: int
    first: int
    count: int
    is_empty: bool

    @classmethod
    def of_process(cls, total: int, r: int | None = None, n: int | None = None) -> "Share":
        """Return the share of process r of n in a batch of ``total`` rows; of this process if not given."""
        r, n = process() if r is None else r, num_processes() if n is None else n
        start, stop = total * r // n, total * (r + 1) // n
        if start == stop:
            return cls(total, n, 0, 1, True)
        return cls(total, n, start, stop - start, False)

    def take(self, X: Tensor, y: Tensor, weight: Any = None) -> tuple[Any, ...]:
        """Return the rows of a batch; its last entry is the weight if there is one.

        Args:
            X: Features, shape ``(B, ...)``, or ``(K, B, ...)`` where y has the shape ``(K, B)``.
            y: Targets, shape ``(B,)`` or ``(K, B)``.
            weight: The weights, shape ``(B,)`` or ``(K, B)``, or such weights by stage.
        """
        own = (self.rows(X, y.ndim - 1), self.rows(y, y.ndim - 1))
        if isinstance(weight, Mapping):
            return *own, {stage: self._weight(values) for stage, values in weight.items()}
        return own if weight is None else (*own, self._weight(weight))

    def rows(self, values: Tensor, dim: int) -> Tensor:
        """Return the share's part of a tensor that has the rows of the batch in a dimension."""
        return values.narrow(dim, self.first, self.count).contiguous()

    def factor(self, weight: Tensor | None, dtype: torch.dtype) -> float | Tensor:
        """Return the factor of the share's loss, of shape ``()``, or ``(K,)`` for K models side by side.

        Args:
            weight: The weights of the whole batch; rows of weight 0 do not count in a loss.
            dtype: The type of the loss.
        """
        if weight is None:
            return 0.0 if self.is_empty else self.processes * self.count / self.total
        dtype = torch.promote_types(dtype, torch.float32)
        counted, own = ((values != 0).sum(dim=-1).to(dtype) for values in (weight, self._weight(weight)))
        # Where no row counts, the loss may still have a penalty.
        return torch.where(counted > 0, self.processes * own / counted.clamp(min=1), 1.0)

    def _weight(self, weight: Tensor) -> Tensor:
        own: Any = self.rows(weight, weight.ndim - 1)
        if self.is_empty:
            own = torch.zeros_like(own)
        if hasattr(weight, "row_counts"):  # without this note, a step would ask a GPU where the weights are 0
            most, counts = 0 if self.is_empty else self.count, weight.row_counts
            own.row_counts = counts and [max(0, min(count - self.first, most)) for count in counts]
        return cast(Tensor, own)
