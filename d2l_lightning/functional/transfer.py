"""Moving values from a device to the CPU."""

from collections.abc import Sequence

import torch
from torch import Tensor


def to_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors on the CPU. All those of one type are moved at once, because each copy waits for a GPU.

    Example:
        >>> to_cpu([Tensor([[1.0], [2.0]]), torch.tensor(3)])
        [tensor([[1.],
                [2.]]), tensor(3)]
    """
    moved = list(tensors)
    for dtype in {x.dtype for x in tensors if not x.is_cpu}:
        places = [i for i, x in enumerate(tensors) if x.dtype == dtype and not x.is_cpu]
        values = torch.cat([tensors[i].reshape(-1) for i in places]).cpu()
        for i, value in zip(places, values.split([tensors[i].numel() for i in places]), strict=True):
            moved[i] = value.view(tensors[i].shape)
    return moved
