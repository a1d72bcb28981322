"""Dropout, written out."""

import torch
from torch import Tensor

from d2l_lightning.errors import InputError


def dropout_layer(X: Tensor, dropout: float) -> Tensor:
    """Set elements to zero at random, and scale the others so that each keeps its expected value.

    Args:
        X: Any shape.
        dropout: The probability that an element is dropped, from 0 to 1 inclusive.

    Returns:
        0 with probability ``dropout``, else ``X / (1 - dropout)``: that shape.

    Raises:
        InputError: If the probability is outside 0 to 1.

    Source: Section 4.6, eq. 4.6.1.
    """
    require_probability(dropout=dropout)
    if dropout == 1:  # where the scale would be infinite
        return torch.zeros_like(X)
    if dropout == 0:
        return X
    return X * (torch.rand_like(X) >= dropout) / (1 - dropout)


def require_probability(**values: float) -> None:
    """Raise an InputError that names the first of these arguments that is not from 0 to 1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise InputError(f"{name} must be from 0 to 1, not {value}")
