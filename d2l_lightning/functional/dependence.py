"""Linear regression whose features depend linearly on each other, so that X^T X has no inverse."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from d2l_lightning.errors import InputError, require_not_negative, require_positive
from d2l_lightning.functional.linear import least_squares


def null_space(X: Tensor) -> Tensor:
    """Return directions in which weights may move without a change of the predictions.

    They are the orthonormal columns of a matrix of shape ``(d, d - r)``. X has shape ``(n, d)`` and rank r.

    Source: Section 3.1.6, exercise 4.

    Example:
        >>> null_space(torch.tensor([[1.0, 1.0], [2.0, 2.0]])).abs()
        tensor([[0.7071],
                [0.7071]])
    """
    # The triangular matrix has the singular values and directions of X, and d rows at most.
    _, singular, Vh = torch.linalg.svd(torch.linalg.qr(X, mode="r").R, full_matrices=True)
    tolerance = max(X.shape) * torch.finfo(X.dtype).eps * singular.amax()
    return Vh[int((singular > tolerance).sum()) :].T


def least_norm_solution(X: Tensor, y: Tensor) -> Tensor:
    """Return the shortest of all weights that minimise the squared loss: shape ``(d,)``.

    X, of shape ``(n, d)``, may have any rank. All other solutions differ from this one by a vector in the
    ``null_space`` of X. Source: Section 3.1.6, exercise 4.
    """
    return torch.linalg.pinv(X) @ y


def ridge(X: Tensor, y: Tensor, lambd: float) -> Tensor:
    """Return the weights, shape ``(d,)``, that minimise the mean squared loss plus an l2 penalty.

    This is ``lambd * l2_penalty(w)``, as in Section 3.7. The solution is unique for X of any rank:
    ``(X^T X + n lambd I)^-1 X^T y``.

    Args:
        X: Features, shape ``(n, d)``.
        y: Targets, shape ``(n,)``.
        lambd: The regularization constant, positive.

    Raises:
        InputError: If the constant is not positive, or so small that the solution is not unique in this
            precision; else as ``least_squares``.
    """
    require_positive(lambd=lambd)
    d = X.shape[1]
    # The penalty is the loss of d more rows, so X^T X is not needed.
    rows = (len(X) * lambd) ** 0.5 * torch.eye(d, dtype=X.dtype, device=X.device)
    return least_squares(torch.cat([X, rows]), pad(y, (0, d)))


def expected_gram(X: Tensor, sigma: float) -> Tensor:
    """Return the expected value of ``Z^T Z``, shape ``(d, d)``, for features Z that are X plus noise.

    The noise is normal with standard deviation sigma, independent in each element. The expected value is
    ``X^T X + n sigma^2 I``, the matrix of ``ridge`` with ``lambd = sigma^2``.

    Raises:
        InputError: If sigma is negative.

    Source: Section 3.1.6, exercise 4.3.
    """
    require_not_negative(sigma=sigma)
    return X.T @ X + len(X) * sigma * sigma * torch.eye(X.shape[1], dtype=X.dtype, device=X.device)


def noise_on_features(
    X: Tensor, y: Tensor, sigma: float, draws: int, generator: torch.Generator
) -> dict[str, float]:
    """Return what normal noise on the features does to ``X^T X`` and to the solution, by name.

    ``added`` is what it adds to the diagonal of ``X^T X``, on average, and ``expected_added`` its expected
    value. ``condition`` is the condition number of the matrix (median of the draws), ``expected_condition``
    that of ``expected_gram``. Distances from the ``least_norm_solution`` are ``one_draw``, of the solution
    for one draw (median), ``all_draws``, of the solution for all draws as one data set, and ``ridge``, of
    ridge with ``lambd = sigma^2``.

    Args:
        X: Features, shape ``(n, d)``.
        y: Targets, shape ``(n,)``.
        sigma: Standard deviation of the noise, positive.
        draws: How often noise is drawn. Each draw is also taken with the opposite sign.
        generator: The random number generator.

    Raises:
        InputError: If there are fewer rows than features, or the noise is so small that the solution is not
            unique in the precision of X, or so large that its square is infinite.

    Source: Section 3.1.6, exercise 4.
    """
    n, d = X.shape
    if n < d:
        raise InputError(f"num_train must be at least {d}, a row for each feature, not {n}")
    require_positive(**{"the square of sigmas times num_train": n * sigma * sigma})
    condition = torch.linalg.cond(expected_gram(X, sigma)).item()
    if not condition < 0.01 / torch.finfo(X.dtype).eps:
        raise InputError(f"sigmas must be larger: with noise of {sigma:g}, X^T X is still singular")
    noise = sigma * torch.randn(draws, *X.shape, generator=generator, dtype=X.dtype)
    noisy = X + torch.cat([noise, -noise])
    grams, moments = noisy.mT @ noisy, noisy.mT @ y
    gram, shortest = grams.mean(dim=0), least_norm_solution(X, y)
    together = torch.linalg.solve(gram, moments.mean(dim=0))
    return {
        "sigma": sigma,
        "added": (gram - X.T @ X).diagonal().mean().item(),
        "expected_added": n * sigma**2,
        "condition": torch.linalg.cond(grams).median().item(),
        "expected_condition": condition,
        "one_draw": (torch.linalg.solve(grams, moments) - shortest).norm(dim=1).median().item(),
        "all_draws": (together - shortest).norm().item(),
        "ridge": (ridge(X, y, sigma**2) - shortest).norm().item(),
    }
