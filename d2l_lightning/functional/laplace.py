"""The likelihood of targets under noise with exponential tails, the Laplace distribution."""

import math

from torch import Tensor

from d2l_lightning.errors import require_positive
from d2l_lightning.functional.regression import absolute_error


def laplace_negative_log_likelihood(y_hat: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
    """Return the negative log-likelihood of targets, ``(n,)``, under noise of the density below: a scalar.

    The density is ``exp(-|e| / scale) / (2 scale)``. So the likelihood is greatest where the sum of the
    absolute errors is least.

    Raises:
        InputError: If the scale is not positive, or the shapes differ.

    Source: Section 3.1.6, exercise 5.1, where the scale is 1.
    """
    require_positive(scale=scale)
    return absolute_error(y_hat, y).sum() / scale + len(y) * math.log(2 * scale)
