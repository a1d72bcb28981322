"""The group of processes that train together; without a group there is one, and nothing is exchanged."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, distributed

Value = TypeVar("Value")


def num_processes() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if _is_grouped() else 1


def process() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if _is_grouped() else 0


def broadcast(value: Value) -> Value:
    """Return the value that process 0 passes. All processes must call this, and the value can be pickled."""
    if num_processes() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def sum_over_processes(tensors: Sequence[Tensor], mean: bool = False) -> list[Tensor]:
    """Return the sums of tensors over the processes, or the means, which all get the same bits.

    All processes must call this, with tensors of the same shapes, types and order. Tensors of the same type
    travel together.
    """
    sums = list(tensors)
    if num_processes() == 1:
        return sums
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        places = [place for place, tensor in enumerate(tensors) if tensor.dtype == dtype]
        flat = torch.cat([tensors[place].reshape(-1) for place in places])
        distributed.all_reduce(flat)
        if mean:
            flat /= num_processes()
        parts = flat.split([tensors[place].numel() for place in places])
        for place, part in zip(places, parts, strict=True):
            sums[place] = part.view(tensors[place].shape)
    return sums


def _is_grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized()
