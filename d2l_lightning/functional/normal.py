"""The normal distribution, and the likelihood of targets under normal noise."""

import math

import torch
from torch import Tensor

from d2l_lightning.errors import require_positive, require_same_shape


def normal_density(x: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """The density of the normal distribution.

    Args:
        x: Where, any shape.
        mean: The mean, in the unit of x.
        std: The standard deviation, in that unit.

    Returns:
        The density, of the shape of x, in the inverse of its unit.

    Raises:
        InputError: If the standard deviation is not positive.

    Source: Section 3.1, eq. 3.1.12.
    """
    require_positive(std=std)
    return torch.exp(-((x - mean) ** 2) / (2 * std**2)) / math.sqrt(2 * math.pi * std**2)


def gaussian_negative_log_likelihood(y_hat: Tensor, y: Tensor, std: float = 1.0) -> Tensor:
    """The negative log-likelihood of targets that are predictions plus independent normal noise.

    Args:
        y_hat: Predictions, shape ``(n,)``.
        y: Targets, of that shape and unit.
        std: The standard deviation of the noise, in that unit.

    Returns:
        The sum over all targets, a scalar.

    Raises:
        InputError: If the standard deviation is not positive, or the shapes differ.

    Source: Section 3.1, eq. 3.1.16.
    """
    require_positive(std=std)
    require_same_shape(y_hat=y_hat, y=y)
    return (math.log(2 * math.pi * std**2) / 2 + (y - y_hat) ** 2 / (2 * std**2)).sum()
