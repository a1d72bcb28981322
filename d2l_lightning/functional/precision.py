"""Single precision within mixed precision: for outputs that half precision would round too much."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(X: Tensor) -> AbstractContextManager[None]:
    """Return a context in which operations on the device of X keep the types of their inputs."""
    device = X.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def single(X: Tensor) -> Tensor:
    """Return X, converted to single precision if it has half precision because of autocast."""
    return X.float() if X.dtype.itemsize == 2 and torch.is_autocast_enabled(X.device.type) else X
