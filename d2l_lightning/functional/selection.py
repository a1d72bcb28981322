"""The choice of a setting by a validation set, and what it costs that the set is small."""

import torch
from torch import Tensor

from d2l_lightning.errors import InputError, require_finite


def choose_by_validation_sets(losses: Tensor, num_sets: int) -> tuple[Tensor, Tensor]:
    """Return the settings that validation sets choose, and how far their loss is above the least one.

    The rows are divided into validation sets. Each one chooses the setting with the least mean loss on its
    own rows. The excess is the mean loss of this setting over all rows, divided by the least such mean, minus
    1. Both have the shape ``(S,)``.

    Args:
        losses: The losses of K settings on n rows, shape ``(K, n)``.
        num_sets: The number of sets, S, which must divide n.

    Raises:
        InputError: If a loss is not finite, or the rows cannot be divided into sets of equal size.

    Source: Section 3.7.6, exercise 2.
    """
    require_finite(losses=losses)
    if losses.ndim != 2 or num_sets < 1 or losses.shape[1] < 1 or losses.shape[1] % num_sets:
        raise InputError(f"losses of shape {tuple(losses.shape)} cannot be divided into {num_sets} sets")
    chosen = losses.unflatten(1, (num_sets, -1)).mean(dim=2).argmin(dim=0)
    means = losses.mean(dim=1)
    return chosen, means[chosen] / means.min() - 1


def prior_deviation(lambd: Tensor | float, noise: float, num_rows: int) -> Tensor:
    """Return the standard deviation of the normal prior of each weight that weight decay stands for.

    With normal noise, the negative logarithm of the posterior is, up to a constant and a factor, half the
    mean squared error plus ``lambd / 2`` times the squared norm of w, if the weights have the mean 0 and the
    variance ``noise**2 / (lambd * num_rows)``. So the most probable weights are those of weight decay.

    Args:
        lambd: The regularization constant; 0 stands for a flat prior, with an infinite deviation.
        noise: The standard deviation of the noise in the labels.
        num_rows: The number of training rows.

    Source: Section 3.7.6, exercise 6.
    """
    return noise / (torch.as_tensor(lambd, dtype=torch.float64) * num_rows).sqrt()


def most_probable_weights(X: Tensor, y: Tensor, noise: float, prior: float) -> tuple[Tensor, Tensor]:
    """Return the weights, shape ``(d,)``, and the bias, shape ``()``, of the highest posterior density.

    The labels are ``X w + b`` plus normal noise. The weights have independent normal priors with the mean 0;
    the bias has a flat prior. It is the exact solution of weight decay, see ``prior_deviation``.

    Args:
        X: Features, shape ``(n, d)``; d may exceed n.
        y: Labels, shape ``(n,)``.
        noise: The standard deviation of the noise.
        prior: The standard deviation of each weight's prior.

    Source: Section 3.7.6, exercise 6.
    """
    X, y = X.double(), y.double()
    centred = X - X.mean(dim=0)
    # The matrix of n rows has the same solution as that of d features, and is smaller here.
    kernel = centred @ centred.T + (noise / prior) ** 2 * torch.eye(len(X), dtype=X.dtype)
    w = centred.T @ torch.linalg.solve(kernel, y - y.mean())
    return w, y.mean() - X.mean(dim=0) @ w
