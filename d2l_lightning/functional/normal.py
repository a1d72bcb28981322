"""The normal distribution, and the likelihood of targets under normal noise."""

import math

import torch
from torch import Tensor

from d2l_lightning.errors import require_positive, require_same_shape


def normal_density(x: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Return the density of the normal distribution at the points x, in the inverse of the unit of x.

    Raises:
        InputError: If the standard deviation is not positive.

    Source: Section 3.1, eq. 3.1.12.
    """
    require_positive(std=std)
    return torch.exp(-((x - mean) ** 2) / (2 * std**2)) / math.sqrt(2 * math.pi * std**2)


def gaussian_negative_log_likelihood(y_hat: Tensor, y: Tensor, std: float = 1.0) -> Tensor:
    """Return the negative log-likelihood of targets, ``(n,)``, under normal noise: a scalar.

    They are predictions plus independent noise with this standard deviation; all have the same unit.

    Raises:
        InputError: If the standard deviation is not positive, or the shapes differ.

    Source: Section 3.1, eq. 3.1.16.
    """
    require_positive(std=std)
    require_same_shape(y_hat=y_hat, y=y)
    return (math.log(2 * math.pi * std**2) / 2 + (y - y_hat) ** 2 / (2 * std**2)).sum()
