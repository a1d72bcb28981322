"""Label shift: the class shares of a target without labels."""

import torch
from torch import Tensor

from d2l_lightning.errors import InputError, require_finite

# The greatest condition number of a confusion matrix: it bounds how much errors of the mean prediction grow.
MAX_CONDITION = 1e3
# The most steps of projected gradient descent.
STEPS = 5000


def confusion_matrix(probabilities: Tensor, y: Tensor) -> Tensor:
    """Return C, float64 ``(k, k)``, whose column j is the mean prediction of the rows of class j.

    The book describes fractions of all predictions, but eq. 4.9.10 needs the fractions within each class.

    Args:
        probabilities: Predictions for held-out rows of the source, shape ``(n, k)``; one-hot if hard.
        y: Classes, shape ``(n,)``.

    Raises:
        InputError: If the shapes do not match or a class is missing.

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
    """Raise an InputError unless y holds every class from 0 to k - 1 and nothing else."""
    missing = sorted(set(range(k)) - set(y.tolist()))
    if missing:
        raise InputError(f"the held-out rows of the source lack the classes {missing}; hold out more of them")
    if y.min() < 0 or y.max() >= k:
        raise InputError(f"classes must be from 0 to {k - 1}, but they are from {y.min()} to {y.max()}")


def label_distribution(C: Tensor, mean_prediction: Tensor) -> Tensor:
    """Return the class shares of the target: the solution p of ``C p = mu``, shape ``(k,)``.

    If that has negative entries, it is the distribution with the least ``|C p - mu|`` instead.

    Args:
        C: The confusion matrix, shape ``(k, k)``.
        mean_prediction: The classifier's mean prediction over the target's rows, mu, shape ``(k,)``.

    Raises:
        InputError: If the shapes do not match or C is nearly singular.

    Source: Section 4.9.3, eq. 4.9.10.
    """
    if C.ndim != 2 or C.shape != (len(mean_prediction),) * 2:
        shape = tuple(mean_prediction.shape)
        raise InputError(f"C of shape {tuple(C.shape)} does not go with mean_prediction of shape {shape}")
    C, mu = C.double(), mean_prediction.double()
    require_finite(C=C, mean_prediction=mu)
    condition = torch.linalg.cond(C).item()
    if not condition < MAX_CONDITION:
        raise InputError(
            f"the confusion matrix is singular or nearly so (condition number {condition:.3g}): the "
            "classifier does not separate the classes well enough"
        )
    p = torch.linalg.solve(C, mu)
    if p.min() >= 0:
        return p / p.sum()
    return _constrained_solution(C, mu)


def _constrained_solution(C: Tensor, mu: Tensor) -> Tensor:
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
        if (p - descend(p)).abs().max() < 1e-12:  # at p itself: the extrapolated point may still move
            break
    return p


def project_onto_simplex(v: Tensor) -> Tensor:
    """Return the distribution nearest to v, shape ``(k,)``.

    Source: Duchi et al., "Efficient Projections onto the l1-Ball" (2008), algorithm 1.
    """
    sorted_v = v.sort(descending=True).values
    excess = (sorted_v.cumsum(0) - 1) / torch.arange(1, len(v) + 1, dtype=v.dtype, device=v.device)
    threshold = excess[int((sorted_v > excess).nonzero().max())]
    return (v - threshold).clamp(min=0)
