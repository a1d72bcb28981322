"""Polynomials: features of several kinds, and exact least-squares fits of all degrees."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from d2l_lightning.errors import InputError, require_known, require_not_negative
from d2l_lightning.functional.linear import medians_by_amount
from d2l_lightning.functional.regression import squared_loss

Basis = Literal["factorial", "powers", "standardized", "orthogonal"]


def polynomial_features(x: Tensor, degree: int) -> Tensor:
    """Return ``x**i / i!`` for i from 0 to the degree, shape ``(n, degree + 1)``, for x of shape ``(n,)``.

    The first column is 1, so a model with these features needs no bias. Source: Section 4.4.4, eq. 4.4.2.

    Raises:
        InputError: If the degree is negative.

    Example:
        >>> polynomial_features(torch.tensor([2.0]), 3)
        tensor([[1.0000, 2.0000, 2.0000, 1.3333]])
    """
    require_not_negative(degree=degree)
    # A running product of x / i does not overflow; 200! alone would, even in float64.
    ratios = x[:, None] / torch.arange(1, degree + 1, dtype=x.dtype, device=x.device)
    return torch.cat([torch.ones_like(x)[:, None], ratios], dim=1).cumprod(dim=1)


def nested_features(X: Tensor) -> Tensor:
    """Return the features of d nested models, shape ``(d, n, d)``, for X of shape ``(n, d)``.

    Model i has the first i + 1 features of X, the others are 0. A feature of 0 has no gradient and no
    influence, so all models can have d weights.

    Example:
        >>> nested_features(torch.tensor([[5.0, 6.0]]))
        tensor([[[5., 0.]],
        <BLANKLINE>
                [[5., 6.]]])
    """
    d = X.shape[1]
    return X * torch.ones(d, d, dtype=torch.bool, device=X.device).tril()[:, None]


def quadratic_features(X: Tensor) -> Tensor:
    """Return the features, and their products ``x_i x_j`` with i <= j: shape ``(n, d + d (d + 1) / 2)``.

    A linear model of these is a quadratic function of X, of shape ``(n, d)``: a network whose first layer
    multiplies pairs of inputs. Source: Section 3.1.6, exercise 3.

    Example:
        >>> quadratic_features(torch.tensor([[2.0, 3.0]]))
        tensor([[2., 3., 4., 6., 9.]])
    """
    i, j = torch.triu_indices(X.shape[1], X.shape[1], device=X.device)
    return torch.cat([X, X[:, i] * X[:, j]], dim=1)


def basis_features(x: Tensor, degree: int, basis: Basis, num_train: int) -> Tensor:
    """Return features of x, shape ``(n, degree + 1)``, whose linear combinations are polynomials.

    Args:
        x: Shape ``(n,)``; the first ``num_train`` rows are for training.
        degree: The degree.
        basis: ``x**i / i!`` (factorial); ``x**i`` (powers); ``x**i`` minus its mean and divided by its
            standard deviation over the training rows (standardized); or polynomials whose products have mean
            0 and whose squares have mean 1 over the training rows (orthogonal). The first column is 1.
        num_train: Number of training rows.

    Raises:
        InputError: If the degree is negative, the basis is unknown, ``orthogonal`` or ``standardized`` has
            too few rows, or a power is too large for the type of x.

    Source: Section 4.4.6, exercise 3.
    """
    require_known("basis", basis, Basis)
    require_not_negative(degree=degree)
    if basis == "factorial":
        return polynomial_features(x, degree)
    if basis == "orthogonal":
        Q = orthogonal_polynomials(x.double(), num_train, degree)
        if Q.shape[1] <= degree:
            what = f"{num_train} training rows determine {Q.shape[1]} orthogonal polynomials"
            raise InputError(f"{what}, and degree {degree} needs {degree + 1}; take a lower degree")
        return (Q * num_train**0.5).to(x.dtype)
    powers = x[:, None] ** torch.arange(degree + 1, device=x.device)
    if not powers.isfinite().all():
        raise InputError(
            f"powers of x up to degree {degree} are too large for {x.dtype}; take a lower degree"
        )
    if basis == "powers" or not degree:
        return powers
    if len(x[:num_train].unique()) < 2:
        raise InputError("powers are standardized by training rows that differ in x; take at least two")
    rest = powers[:, 1:]
    rest = (rest - rest[:num_train].mean(dim=0)) / rest[:num_train].std(dim=0)
    return torch.cat([powers[:, :1], rest], dim=1)


def orthogonal_polynomials(x: Tensor, num_train: int, degree: int) -> Tensor:
    """Return polynomials of degree 0, 1, ... at x, orthonormal on the first ``num_train`` rows.

    The shape is ``(n, m)``, where m is ``degree + 1``, or the number of different x among the training rows
    if that is less. Powers of x are nearly dependent from degree 25 or so on, even in double precision.
    So each polynomial is x times the one before it, minus its projections on all before it (Arnoldi's
    algorithm), and the same recurrence gives the values at the other rows.

    Source: Brubeck, Nakatsukasa and Trefethen, "Vandermonde with Arnoldi" (2021).
    """
    m = min(degree + 1, len(x[:num_train].unique()))
    Q = x.new_zeros(len(x), m)
    Q[:, 0] = num_train**-0.5
    for k in range(1, m):
        q = x * Q[:, k - 1]
        for _ in range(2):  # the second projection removes the rounding errors of the first
            q = q - Q[:, :k] @ (Q[:num_train, :k].T @ q[:num_train])
        Q[:, k] = q / q[:num_train].norm()
    return Q


def exact_losses(x: Tensor, y: Tensor, num_train: int, degree: int) -> Tensor:
    """Return the mean squared losses of the least-squares polynomials of degree 0, 1, ..., shape ``(m, 2)``.

    The columns are the losses on the first ``num_train`` rows, which are fitted, and on the others. The last
    polynomial has the given degree; or it goes through all training rows; or it is the last whose loss is
    within the range of double precision.

    Source: Section 4.4.6, exercises 1 and 2.
    """
    x, residual, losses = x.double(), y.double(), []
    for q in orthogonal_polynomials(x, num_train, degree).T:
        residual = residual - q * (q[:num_train] @ residual[:num_train])
        squares = squared_loss(residual, torch.zeros_like(residual))
        losses.append(torch.stack([squares[:num_train].mean(), squares[num_train:].mean()]))
    stacked = torch.stack(losses)
    finite = stacked[:, : 1 + (num_train < len(x))].isfinite().all(dim=1)  # a mean over no rows is NaN
    return stacked[: int(finite.cumprod(dim=0).sum())]


def mean_fold_losses(
    x: Tensor, y: Tensor, train: Sequence[Tensor], val: Sequence[Tensor], degree: int
) -> Tensor:
    """Return ``exact_losses`` in K-fold cross-validation, means of the folds, for the rows of each fold."""
    folds = [
        exact_losses(x[torch.cat(rows)], y[torch.cat(rows)], len(rows[0]), degree)
        for rows in zip(train, val, strict=True)
    ]
    shortest = min(map(len, folds))
    return torch.stack([losses[:shortest] for losses in folds]).mean(dim=0)


def losses_by_amount(
    draw: Callable[[int], Iterable[tuple[Tensor, Tensor]]], degree: int, amounts: Sequence[int]
) -> dict[str, list[float]]:
    """Return the exact losses for several numbers of training rows: medians over several data sets.

    Args:
        draw: Returns data sets for a number of training rows, pairs of x and y. As many rows follow them, to
            test on.
        degree: The degree.
        amounts: The numbers of rows. Those that do not determine a polynomial of the degree are left out.

    Source: Section 4.4.6, exercise 2.
    """

    def measure(x: Tensor, y: Tensor) -> Tensor:
        losses = exact_losses(x, y, len(y) // 2, degree)
        if len(losses) <= degree:
            raise InputError("too few rows")
        return losses[degree]

    return medians_by_amount(measure, ["train_loss", "test_loss"], draw, amounts)
