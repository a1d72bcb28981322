"""The normal distribution, and the likelihood of targets under normal noise."""

import math

import torch
from torch import Tensor

from d2l_lightning.errors import InputError, require_positive, require_same_shape


def require_deviation(**values: float) -> None:
    """Raise an InputError that names the first standard deviation that is not positive or has no square."""
    require_positive(**values)
    for name, value in values.items():
        if not 0 < value * value < math.inf:
            raise InputError(f"{name} must have a square that double precision holds, not {value}")


def normal_density(x: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Return the density of the normal distribution at the points x, in the inverse of the unit of x.

    Raises:
        InputError: If the standard deviation, or its square, is not a positive number.

    Source: Section 3.1, eq. 3.1.12.
    """
    require_deviation(std=std)
    return torch.exp(-((x - mean) ** 2) / (2 * std**2)) / math.sqrt(2 * math.pi * std**2)


def gaussian_negative_log_likelihood(y_hat: Tensor, y: Tensor, std: float = 1.0) -> Tensor:
    """Return the negative log-likelihood of targets, ``(n,)``, under normal noise: a scalar.

    They are predictions plus independent noise with this standard deviation; all have the same unit.

    Raises:
        InputError: If the standard deviation, or its square, is not a positive number, or the shapes differ.

    Source: Section 3.1, eq. 3.1.16.
    """
    require_deviation(std=std)
    require_same_shape(y_hat=y_hat, y=y)
    return (math.log(2 * math.pi * std**2) / 2 + (y - y_hat) ** 2 / (2 * std**2)).sum()
