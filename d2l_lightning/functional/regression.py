"""Losses and errors of regression, per example and over a set of examples."""

from torch import Tensor

from d2l_lightning.errors import require_same_shape


def squared_loss(y_hat: Tensor, y: Tensor) -> Tensor:
    """Half the squared error of each example.

    Args:
        y_hat: Predictions, any shape.
        y: Targets, of the same shape and unit.

    Returns:
        ``(y_hat - y)**2 / 2``, of that shape, in the square of the unit.

    Raises:
        InputError: If the shapes differ.

    Source: Section 3.1, eq. 3.1.5.
    """
    require_same_shape(y_hat=y_hat, y=y)
    return (y_hat - y).square() / 2


def squared_error(y_hat: Tensor, y: Tensor) -> Tensor:
    """The squared error of each example: the squared loss without its factor of a half.

    Args:
        y_hat: Predictions, any shape.
        y: Targets, of the same shape and unit.

    Returns:
        ``(y_hat - y)**2``, of that shape, in the square of the unit.

    Raises:
        InputError: If the shapes differ.

    Source: Section 3.5.2.
    """
    require_same_shape(y_hat=y_hat, y=y)
    return (y_hat - y).square()


def squared_log_error(y_hat: Tensor, y: Tensor) -> Tensor:
    """The squared error of each example's logarithm, with predictions below 1 taken as 1.

    Args:
        y_hat: Predictions, any shape.
        y: Positive targets, of the same shape and unit.

    Returns:
        ``(log(max(y_hat, 1)) - log(y))**2``, of that shape, without unit.

    Raises:
        InputError: If the shapes differ.

    Source: Section 4.10, the summand of eq. 4.10.2.
    """
    require_same_shape(y_hat=y_hat, y=y)
    return (y_hat.clamp(min=1).log() - y.log()).square()


def log_rmse(y_hat: Tensor, y: Tensor) -> Tensor:
    """The root mean squared error of the logarithms, over all examples at once.

    An error of ``d`` says that a prediction is typically off by a factor of ``exp(d)``.

    Args:
        y_hat: Predictions, shape ``(n,)``; those below 1 count as 1.
        y: Positive targets, shape ``(n,)``, in the same unit.

    Returns:
        A scalar without unit.

    Source: Section 4.10, eq. 4.10.2.

    Example:
        >>> log_rmse(torch.tensor([100.0, 300.0]), torch.tensor([200.0, 300.0]))
        tensor(0.4901)
    """
    return squared_log_error(y_hat, y).mean().sqrt()
