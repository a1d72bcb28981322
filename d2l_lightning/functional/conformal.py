"""Split conformal prediction: intervals from the errors of a model on rows that it was not trained on."""

import math

import torch
from torch import Tensor

from d2l_lightning.errors import InputError


def require_coverage(coverage: float) -> None:
    """Raise an InputError unless the coverage is between 0 and 1."""
    if not 0 < coverage < 1:
        raise InputError(f"coverage must be between 0 and 1, not {coverage}")


def rows_needed(coverage: float) -> int:
    """Return the least number of residuals that give a finite interval of a coverage."""
    n = max(1, math.ceil(coverage / (1 - coverage)) - 1)
    while _rank(n, coverage) > n:
        n += 1
    return n


def _rank(n: int, coverage: float) -> int:
    # Without rounding, 10 * 0.7 would be just above 7, and its ceiling 8.
    return math.ceil(round((n + 1) * coverage, 9))


def conformal_quantile(residuals: Tensor, coverage: float) -> Tensor:
    """Return how far from a prediction the true value is, at most, with a probability of ``coverage``.

    It is a scalar: the residual of rank ``ceil((n + 1) * coverage)`` by size, infinite if that is above n.
    If the residuals and that of a new row are exchangeable, the probability is at least ``coverage``, and at
    most ``coverage + 1 / (n + 1)`` if no two residuals are equal in size.

    Args:
        residuals: Errors of predictions, of either sign, for rows that no model was trained on: ``(n,)``.
        coverage: The probability, between 0 and 1.

    Raises:
        InputError: If the coverage is not between 0 and 1, or a residual is not a number.

    Source: Lei et al., "Distribution-Free Predictive Inference for Regression" (2018), Section 2.2.

    Example:
        >>> conformal_quantile(torch.tensor([1.0, -4.0, 2.0, 3.0]), coverage=0.6)
        tensor(3.)
        >>> conformal_quantile(torch.tensor([1.0, -4.0, 2.0, 3.0]), coverage=0.9)
        tensor(inf)
    """
    require_coverage(coverage)
    if residuals.isnan().any():
        raise InputError("a residual is not a number")
    rank = _rank(len(residuals), coverage)
    if rank > len(residuals):
        return residuals.new_tensor(math.inf)
    return residuals.abs().kthvalue(rank).values


def interval(predictions: Tensor, quantile: Tensor, log: bool = False) -> tuple[Tensor, Tensor]:
    """Return the ends of the intervals around predictions of shape ``(m,)``.

    They are ``predictions -+ quantile``. With ``log``, the quantile is one of errors of logarithms, and they
    are ``predictions * exp(-+quantile)``; the predictions are positive.

    Example:
        >>> interval(torch.tensor([1.0, 2.0]), torch.tensor(2.0).log(), log=True)
        (tensor([0.5000, 1.0000]), tensor([2., 4.]))
    """
    if log:
        return predictions * torch.exp(-quantile), predictions * torch.exp(quantile)
    return predictions - quantile, predictions + quantile
