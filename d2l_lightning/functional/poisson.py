"""The Poisson distribution of counts, and its likelihood as a loss."""

import torch
from torch import Tensor

from d2l_lightning.errors import require_same_shape


def poisson_probability(k: Tensor, rate: Tensor) -> Tensor:
    """Return the probability of k events, ``rate**k * exp(-rate) / k!``; k and rate broadcast.

    Source: Section 3.1.6, exercise 8.2.

    Example:
        >>> poisson_probability(torch.arange(3.0), torch.tensor(1.0))
        tensor([0.3679, 0.3679, 0.1839])
    """
    return torch.exp(torch.xlogy(k, rate) - rate - torch.lgamma(k + 1))


def poisson_negative_log_likelihood(rate: Tensor, y: Tensor) -> Tensor:
    """Return the negative log-likelihood of each count y, given its rate: ``rate - y log(rate) + log(y!)``.

    Raises:
        InputError: If the shapes differ.

    Source: Section 3.1.6, exercise 8.3.
    """
    require_same_shape(rate=rate, y=y)
    return rate - torch.xlogy(y, rate) + torch.lgamma(y + 1)


def poisson_negative_log_likelihood_of_log(log_rate: Tensor, y: Tensor) -> Tensor:
    """Return the negative log-likelihood of each count y, given the logarithm of its rate, any number.

    It is ``exp(log_rate) - y log_rate + log(y!)``, a convex function whose derivative is the rate minus y.

    Raises:
        InputError: If the shapes differ.

    Source: Section 3.1.6, exercise 8.4.
    """
    require_same_shape(log_rate=log_rate, y=y)
    return log_rate.exp() - y * log_rate + torch.lgamma(y + 1)


def poisson_deviance(rate: Tensor, y: Tensor) -> Tensor:
    """Return the deviance of each count y: ``2 (y log(y / rate) - y + rate)``, which is 0 if y is the rate.

    It is twice the difference to the least negative log-likelihood that any rate gives the count. The rates
    are positive.

    Raises:
        InputError: If the shapes differ.
    """
    require_same_shape(rate=rate, y=y)
    return 2 * (torch.xlogy(y, y / rate) - y + rate)
