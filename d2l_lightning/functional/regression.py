"""Losses and errors of regression, per example and over a set of examples."""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from d2l_lightning.errors import require_same_shape


def squared_loss(y_hat: Tensor, y: Tensor) -> Tensor:
    """Return half the squared error of each example, ``(y_hat - y)**2 / 2``, in the square of the unit of y.

    Raises:
        InputError: If the shapes differ.

    Source: Section 3.1, eq. 3.1.5.
    """
    return squared_error(y_hat, y) / 2


def squared_error(y_hat: Tensor, y: Tensor) -> Tensor:
    """Return the squared error of each example, ``(y_hat - y)**2``, in the square of the unit of y.

    Raises:
        InputError: If the shapes differ.

    Source: Section 3.5.2.
    """
    require_same_shape(y_hat=y_hat, y=y)
    return (y_hat - y).square()


def absolute_error(y_hat: Tensor, y: Tensor) -> Tensor:
    """Return the absolute error of each example, ``|y_hat - y|``, in the unit of y.

    Raises:
        InputError: If the shapes differ.
    """
    require_same_shape(y_hat=y_hat, y=y)
    return (y_hat - y).abs()


def huber_loss(y_hat: Tensor, y: Tensor, threshold: float) -> Tensor:
    """Return the Huber loss of each example, in the square of the unit of y.

    With the error e, it is ``e**2 / 2`` up to the threshold and ``threshold * (|e| - threshold / 2)`` beyond.

    Raises:
        InputError: If the shapes differ.

    Source: Huber, "Robust Estimation of a Location Parameter" (1964).
    """
    require_same_shape(y_hat=y_hat, y=y)
    return F.huber_loss(y_hat, y, reduction="none", delta=threshold)


def squared_log_error(y_hat: Tensor, y: Tensor, floor: Tensor | float = 1.0) -> Tensor:
    """Return the squared error of each logarithm, ``(log(max(y_hat, floor)) - log(y))**2``, without a unit.

    Raises:
        InputError: If the shapes differ.

    Source: Section 4.10, a summand of eq. 4.10.2; the targets are positive.
    """
    require_same_shape(y_hat=y_hat, y=y)
    return (y_hat.clamp(min=floor).log() - y.log()).square()


def log_rmse(y_hat: Tensor, y: Tensor) -> Tensor:
    """Return the root mean squared error of the logarithms, over all examples at once: a scalar.

    With an error of ``d``, predictions are typically off by a factor of ``exp(d)``. Predictions below 1 count
    as 1. Source: Section 4.10, eq. 4.10.2.

    Example:
        >>> log_rmse(torch.tensor([100.0, 300.0]), torch.tensor([200.0, 300.0]))
        tensor(0.4901)
    """
    return squared_log_error(y_hat, y).mean().sqrt()
