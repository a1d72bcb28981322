"""The linear model: its predictions, its analytic solution, and the step by which it learns."""

import math

import torch
from torch import Tensor

from d2l_lightning.errors import InputError, require_finite


def linear(X: Tensor, w: Tensor, b: Tensor | float = 0.0) -> Tensor:
    """The predictions of a linear model.

    Args:
        X: The design matrix, shape ``(n, d)``.
        w: One weight for each feature, shape ``(d,)``.
        b: The bias.

    Returns:
        ``X w + b``, shape ``(n,)``, in the unit of the bias.

    Raises:
        InputError: If X does not have as many features as w has weights.

    Source: Section 3.1, eq. 3.1.4.
    """
    if X.shape[-1] != w.shape[-1]:
        raise InputError(
            f"X has {X.shape[-1]} features and w has {w.shape[-1]} weights; they must be as many"
        )
    return X @ w + b


def least_squares(X: Tensor, y: Tensor) -> Tensor:
    """The weights that minimise the squared loss, by the singular value decomposition of the design matrix.

    It solves eq. 3.1.8 without forming ``X^T X``, whose condition number is that of X squared. For a model
    with a bias, X gets a column of ones.

    Args:
        X: The design matrix, shape ``(n, d)``, of rank d. Its columns may differ in scale.
        y: The targets, shape ``(n,)``.

    Returns:
        The weights, shape ``(d,)``.

    Raises:
        InputError: If shapes do not match, a number is not finite, or X has a rank below d.

    Source: Section 3.1, eq. 3.1.9.

    Example:
        >>> X = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
        >>> least_squares(X, torch.tensor([1.0, 3.0, 5.0])).round(decimals=4)
        tensor([2., 1.])
    """
    if X.ndim != 2 or y.shape != X.shape[:1]:
        raise InputError(f"X of shape {tuple(X.shape)} does not go with y of shape {tuple(y.shape)}")
    require_finite(X=X, y=y)
    scale = X.norm(dim=0)
    scale = torch.where(scale > 0, scale, 1)  # a column of zeros stays one, and lowers the rank
    U, singular, Vh = torch.linalg.svd(X / scale, full_matrices=False)
    # Rounding errors of n rows grow as the root of n.
    errors = max(math.sqrt(len(X)), X.shape[1]) * torch.finfo(X.dtype).eps
    rank = int((singular > errors * singular.amax()).sum()) if len(singular) else 0
    if rank < X.shape[1]:
        raise InputError(
            f"the design matrix X has rank {rank} and {X.shape[1]} columns, so its solution is not unique: "
            "drop the columns that depend on others, or add rows"
        )
    return Vh.T @ ((U.T @ y) / singular) / scale


def sgd_update(parameter: Tensor, gradient: Tensor, lr: float) -> Tensor:
    """One step of minibatch stochastic gradient descent.

    Args:
        parameter: The values before the step, any shape.
        gradient: The gradient of the batch's mean loss with respect to them, of that shape.
        lr: The learning rate.

    Returns:
        ``parameter - lr * gradient``.

    Source: Section 3.1, eq. 3.1.10.
    """
    return parameter - lr * gradient
