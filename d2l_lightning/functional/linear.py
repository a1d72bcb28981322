"""The linear model: predictions, exact solutions, and the step of gradient descent."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import torch
from torch import Tensor
from torch.nn.functional import pad

from d2l_lightning.errors import InputError, require_finite


def linear(X: Tensor, w: Tensor, b: Tensor | float = 0.0) -> Tensor:
    """Return predictions ``X w + b``, shape ``(n,)``, for X of shape ``(n, d)`` and w of shape ``(d,)``.

    Raises:
        InputError: If w is no vector or the number of features is not the number of weights.

    Source: Section 3.1, eq. 3.1.4.
    """
    if w.ndim != 1:
        raise InputError(f"w of shape {tuple(w.shape)} must be a vector, such as w.squeeze(-1)")
    if X.shape[-1] != w.shape[-1]:
        raise InputError(f"X has {X.shape[-1]} features and w has {w.shape[-1]} weights; they must match")
    return X @ w + b


def least_squares(X: Tensor, y: Tensor) -> Tensor:
    """Return the weights, shape ``(d,)``, that minimise the squared loss.

    They are computed from the singular value decomposition of X. This solves eq. 3.1.8 without ``X^T X``,
    whose condition number is the square of that of X.

    Args:
        X: The design matrix, shape ``(n, d)``, of rank d. Its columns may differ in scale.
        y: The targets, shape ``(n,)``.

    Raises:
        InputError: If shapes do not match, a number is not finite, or the rank of X is below d.

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
    scale = torch.where(scale > 0, scale, 1)  # a column of zeros is not scaled; it lowers the rank
    U, singular, Vh = torch.linalg.svd(X / scale, full_matrices=False)
    # The rounding errors of n rows grow with the square root of n.
    tolerance = max(math.sqrt(len(X)), X.shape[1]) * torch.finfo(X.dtype).eps
    rank = int((singular > tolerance * singular.amax()).sum()) if len(singular) else 0
    if rank < X.shape[1]:
        raise InputError(
            f"the design matrix X has rank {rank} and {X.shape[1]} columns, so its solution is not unique: "
            "drop the columns that depend on others, or add rows"
        )
    return Vh.T @ ((U.T @ y) / singular) / scale


def least_squares_with_bias(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ``least_squares`` weights, shape ``(d,)``, and bias, shape ``()``; X without ones."""
    solution = least_squares(pad(X, (0, 1), value=1.0), y)
    return solution[:-1], solution[-1]


def medians_by_amount(
    measure: Callable[[Tensor, Tensor], Tensor],
    names: Sequence[str],
    draw: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
    amounts: Sequence[int],
) -> dict[str, list[float]]:
    """Return the numbers of rows, named ``n``, and the medians of what is measured on data sets of that size.

    Args:
        measure: Returns m values, shape ``(m,)``, for X and y. Numbers of rows for which it raises an
            InputError, because they are too few, are left out.
        names: The names of the m values.
        draw: Returns several data sets, pairs of X and y, with a given number of rows to learn from.
        amounts: The numbers of rows.

    Source: Section 3.5.6, exercise 5; Section 4.4.6, exercise 2.
    """
    rows: list[list[float]] = []
    for n in amounts:
        with suppress(InputError):
            rows.append([n, *torch.stack([measure(*part) for part in draw(n)]).median(dim=0).values.tolist()])
    return {name: [row[i] for row in rows] for i, name in enumerate(("n", *names))}


def sgd_update(parameter: Tensor, gradient: Tensor, lr: float) -> Tensor:
    """Return ``parameter - lr * gradient``, a step of minibatch SGD; the gradient is that of the mean loss.

    Source: Section 3.1, eq. 3.1.10.
    """
    return parameter - lr * gradient
