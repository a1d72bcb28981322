"""Which arm of a bandit to pull next, for R bandits of K arms at once."""

import math

import torch
from torch import Tensor

from d2l_lightning.errors import InputError, require_positive, require_same_shape
from d2l_lightning.functional.dropout import require_probability


def epsilon_greedy(
    totals: Tensor, counts: Tensor, epsilon: float, generator: torch.Generator | None = None
) -> Tensor:
    """Pull the arm that has paid best so far or, with a probability of epsilon, any arm.

    Args:
        totals: What each arm has paid so far, shape ``(R, K)``.
        counts: How often each was pulled, of that shape; arms that never were come first.
        epsilon: The probability of an arm at random, from 0 to 1: 0 is greedy, 1 is blind.
        generator: Where chance comes from.

    Returns:
        Arms, shape ``(R,)``.

    Raises:
        InputError: If the shapes differ or epsilon is no probability.

    Source: Section 4.9.4; Sutton and Barto, "Reinforcement Learning" (2018), Section 2.2.
    """
    require_probability(epsilon=epsilon)
    _require_arms(totals, counts)
    best = _best(totals / counts, counts, generator)
    any_arm = torch.randint(totals.shape[1], best.shape, generator=generator)
    explores = torch.rand(best.shape, generator=generator) < epsilon
    return torch.where(explores, any_arm, best)


def upper_confidence_bound(
    totals: Tensor, counts: Tensor, step: int, generator: torch.Generator | None = None
) -> Tensor:
    """Pull the arm that may pay best: its mean payment plus ``sqrt(2 ln t / n)``.

    Args:
        totals: What each arm has paid so far, from 0 to 1 a time, shape ``(R, K)``.
        counts: How often each was pulled, n, of that shape; arms that never were come first.
        step: The number of the pull, t, from 1 on.
        generator: Where chance among equals comes from.

    Returns:
        Arms, shape ``(R,)``.

    Raises:
        InputError: If the shapes differ or the step is not positive.

    Source: Section 4.9.4; Auer, Cesa-Bianchi and Fischer (2002), UCB1.
    """
    require_positive(step=step)
    _require_arms(totals, counts)
    return _best(totals / counts + (2 * math.log(step) / counts).sqrt(), counts, generator)


def _require_arms(totals: Tensor, counts: Tensor) -> None:
    require_same_shape(totals=totals, counts=counts)
    if totals.ndim != 2:
        raise InputError(f"totals must be of shape (R, K), not {tuple(totals.shape)}")


def _best(values: Tensor, counts: Tensor, generator: torch.Generator | None) -> Tensor:
    values = torch.where(counts > 0, values, torch.inf)
    # Among equals any: always the first of them would favour it.
    tied = values == values.amax(dim=1, keepdim=True)
    return (torch.rand(values.shape, generator=generator) * tied).argmax(dim=1)
