"""Label shift: which share each class has in a target whose labels nobody has seen."""

import torch
from torch import Tensor

from d2l_lightning.errors import InputError, require_finite

# Of the confusion matrix. Beyond it, an error in the mean prediction comes back a thousand times as large.
MAX_CONDITION = 1e3
STEPS = 5000


def confusion_matrix(probabilities: Tensor, y: Tensor) -> Tensor:
    """Return what a classifier makes of each class on held-out rows of the source.

    Args:
        probabilities: The classifier's, shape ``(n, k)``; one-hot rows for hard predictions.
        y: Classes, shape ``(n,)``.

    Returns:
        C, shape ``(k, k)``, double precision: column j is the mean prediction where the class is j. (The book
        tells fractions of all predictions; eq. 4.9.10 holds for those of each class.)

    Raises:
        InputError: If the shapes do not match, or a class is absent.

    Source: Section 4.9.3.
    """
    if probabilities.ndim != 2 or y.shape != probabilities.shape[:1]:
        raise InputError(
            f"probabilities of shape {tuple(probabilities.shape)} do not go with y of shape {tuple(y.shape)}"
        )
    require_finite(probabilities=probabilities)
    k = probabilities.shape[1]
    require_all_classes(y, k)
    counts = torch.bincount(y, minlength=k)
    sums = torch.zeros(k, k, dtype=torch.float64, device=y.device)
    sums.index_add_(0, y, probabilities.double())
    return (sums / counts[:, None]).T


def require_all_classes(y: Tensor, k: int) -> None:
    """Raise an InputError that names the classes from 0 to k - 1 that y lacks, or what else it holds."""
    lacking = sorted(set(range(k)) - set(y.tolist()))
    if lacking:
        raise InputError(f"the held-out rows of the source lack the classes {lacking}; hold out more of them")
    if y.min() < 0 or y.max() >= k:
        raise InputError(f"classes must be from 0 to {k - 1}; there are some from {y.min()} to {y.max()}")


def label_distribution(C: Tensor, mean_prediction: Tensor) -> Tensor:
    """Return the shares of the classes, p(y), that explain a classifier's mean prediction on the target.

    Args:
        C: The confusion matrix, shape ``(k, k)``.
        mean_prediction: The mean over the target's rows of what the classifier predicts, mu, shape ``(k,)``.

    Returns:
        The p with ``C p = mu``, shape ``(k,)``; where that is no distribution, the one with the least
        ``|C p - mu|``.

    Raises:
        InputError: If the shapes do not match, or C is too near to a singular matrix for p to be found.

    Source: Section 4.9.3, eq. 4.9.10.
    """
    if C.ndim != 2 or C.shape != (len(mean_prediction),) * 2:
        raise InputError(
            f"C of shape {tuple(C.shape)} does not go with mean_prediction of shape "
            f"{tuple(mean_prediction.shape)}"
        )
    C, mu = C.double(), mean_prediction.double()
    require_finite(C=C, mean_prediction=mu)
    condition = torch.linalg.cond(C).item()
    if not condition < MAX_CONDITION:
        raise InputError(
            f"the confusion matrix is singular or nearly so (condition {condition:.3g}): the classifier does "
            "not tell the classes apart well enough"
        )
    p = torch.linalg.solve(C, mu)
    if p.min() >= 0:
        return p / p.sum()
    return _on_simplex(C, mu)


def _on_simplex(C: Tensor, mu: Tensor) -> Tensor:
    """Return the distribution p with the least |C p - mu|, by accelerated projected gradient descent."""
    step = 1 / torch.linalg.matrix_norm(C, 2) ** 2

    def descend(q: Tensor) -> Tensor:
        return project_onto_simplex(q - step * C.T @ (C @ q - mu))

    p = point = project_onto_simplex(torch.linalg.solve(C, mu))
    momentum = 1.0
    for _ in range(STEPS):
        before, p = p, descend(point)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        point = p + (momentum - 1) / following * (p - before)
        momentum = following
        if (p - descend(p)).abs().max() < 1e-12:  # p itself, not the point ahead of it, has come to rest
            break
    return p


def project_onto_simplex(v: Tensor) -> Tensor:
    """Return the distribution that is nearest to v, shape ``(k,)``.

    Source: Duchi et al., "Efficient Projections onto the l1-Ball" (2008), algorithm 1.
    """
    sorted_v = v.sort(descending=True).values
    excess = (sorted_v.cumsum(0) - 1) / torch.arange(1, len(v) + 1, dtype=v.dtype, device=v.device)
    threshold = excess[int((sorted_v > excess).nonzero().max())]
    return (v - threshold).clamp(min=0)
