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


def skewness(x: Tensor) -> Tensor:
    """Return the mean cubed distance from the mean, in standard deviations: 0 for symmetric values.

    x has shape ``(n,)``, the result is a scalar.
    """
    return ((x - x.mean()) / x.std(correction=0)).pow(3).mean()


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


def count_negative_log_likelihood(y_hat: Tensor, y: Tensor, std: Tensor) -> Tensor:
    """Return the negative log-likelihood of each count under normal noise; all arguments broadcast.

    The probability of a count y is that of the numbers from ``y - 1/2`` to ``y + 1/2``. So it can be compared
    with the probability that a Poisson distribution gives the count. Source: Section 3.1.6, exercise 8.1.
    """
    # The ends, in standard deviations. Those above the mean are mirrored, so that neither probability is
    # rounded to 1.
    middle, half = -(y - y_hat).abs() / std, 0.5 / std
    upper, lower = torch.special.log_ndtr(middle + half), torch.special.log_ndtr(middle - half)
    return -upper - torch.log(-torch.expm1(lower - upper))
