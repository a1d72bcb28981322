"""Random numbers of a batch that processes share: each gets those of its rows."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from d2l_lightning.distributed.shares import Share


class SharedDraws(TorchDispatchMode):
    """Draws random numbers for all rows of a batch, of which the process takes those of its share.

    So N processes draw the numbers that one process draws, and their generators stay alike. Numbers whose
    shape has not the rows of the share are the same in all processes.

    Args:
        share: The rows of this process.
        dim: The dimension of the rows: 0, or 1 for K members side by side, as they are below ``vmap``.
    """

    def __init__(self, share: Share, dim: int) -> None:
        super().__init__()
        self.share, self.dim = share, dim

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Carry out an operation; random ones for all rows of the batch."""
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        whole = [self._whole(value) for value in args]
        if all(given is value for given, value in zip(args, whole, strict=True)):
            return func(*args, **kwargs)
        results = func(*whole, **kwargs)
        for argument, given, value in zip(func._schema.arguments, args, whole, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                given.copy_(self._own(value))
        if func._schema.is_mutable:
            return args[0]
        if isinstance(results, Tensor):
            return self._own(results)
        return tuple(self._own(result) for result in results)

    def _whole(self, value: Any) -> Any:
        """Return a tensor or a shape that has the rows of the share with those of the batch."""
        shape = list(value.shape) if isinstance(value, Tensor) else value
        if not isinstance(shape, (list, tuple)) or len(shape) <= self.dim:
            return value
        if shape[self.dim] != self.share.count:
            return value
        shape = [*shape[: self.dim], self.share.total, *shape[self.dim + 1 :]]
        if not isinstance(value, Tensor):
            return shape
        rows = value.new_ones(shape)  # a valid parameter of all distributions
        self._view(rows).copy_(value)
        return rows

    def _own(self, result: Tensor) -> Tensor:
        return self._view(result).contiguous()

    def _view(self, values: Tensor) -> Tensor:
        return values.narrow(self.dim, self.share.first, self.share.count)
