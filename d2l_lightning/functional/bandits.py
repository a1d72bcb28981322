"""Multi-armed bandits: strategies, their regret and its bound, for R bandits of K arms at once."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from d2l_lightning.errors import InputError, require_positive, require_same_shape
from d2l_lightning.functional.dropout import require_probability

# From total payments and counts of pulls, both (R, K), and the number of the pull to an arm for each bandit.
Strategy = Callable[[Tensor, Tensor, int, torch.Generator], Tensor]


def epsilon_greedy(
    totals: Tensor, counts: Tensor, epsilon: float, generator: torch.Generator | None = None
) -> Tensor:
    """Return the arms, ``(R,)``, with the best mean payment so far or, with probability epsilon, random arms.

    Args:
        totals: The total payment of each arm so far, shape ``(R, K)``.
        counts: The number of pulls of each arm, shape ``(R, K)``; arms without a pull come first.
        epsilon: The probability of a random arm, from 0 (greedy) to 1 (random).
        generator: The source of randomness.

    Raises:
        InputError: If the shapes differ or epsilon is not a probability.

    Source: Section 4.9.4; Sutton and Barto, "Reinforcement Learning" (2018), Section 2.2.
    """
    require_probability(epsilon=epsilon)
    _require_arms(totals, counts)
    best = _best(totals / counts, counts, generator)
    random_arm = torch.randint(totals.shape[1], best.shape, generator=generator)
    explores = torch.rand(best.shape, generator=generator) < epsilon
    return torch.where(explores, random_arm, best)


def upper_confidence_bound(
    totals: Tensor, counts: Tensor, step: int, generator: torch.Generator | None = None
) -> Tensor:
    """Return the arms, ``(R,)``, with the greatest upper bound: mean payment plus ``sqrt(2 ln t / n)``.

    Args:
        totals: The total payment of each arm so far, each payment from 0 to 1, shape ``(R, K)``.
        counts: The number of pulls of each arm, n, shape ``(R, K)``; arms without a pull come first.
        step: The number of this pull, t, counted from 1.
        generator: The source of randomness, which decides ties.

    Raises:
        InputError: If the shapes differ or the step is not positive.

    Source: Section 4.9.4; Auer, Cesa-Bianchi and Fischer (2002), UCB1.
    """
    require_positive(step=step)
    _require_arms(totals, counts)
    return _best(totals / counts + (2 * math.log(step) / counts).sqrt(), counts, generator)


def cumulative_regret(
    strategy: Strategy,
    probabilities: Tensor,
    num_bandits: int,
    pulls: Iterable[int],
    generator: torch.Generator,
) -> Tensor:
    """Return the regret of bandits that are played side by side, after every pull: shape ``(T, R)``.

    The regret is the expected payment of always pulling the best arm minus that of the arms pulled.

    Args:
        strategy: The strategy.
        probabilities: The probability that each arm pays 1 instead of 0, float64 ``(K,)``.
        num_bandits: Number of bandits, R.
        pulls: The numbers of the pulls, from 1 to T.
        generator: The source of randomness.
    """
    totals = torch.zeros(num_bandits, len(probabilities), dtype=torch.float64)
    counts = torch.zeros_like(totals)
    gaps = probabilities.max() - probabilities
    regret = []
    for step in pulls:
        arm = strategy(totals, counts, step, generator)[:, None]
        pays = torch.rand(num_bandits, 1, dtype=torch.float64, generator=generator) < probabilities[arm]
        totals.scatter_add_(1, arm, pays.double())
        counts.scatter_add_(1, arm, torch.ones_like(arm, dtype=counts.dtype))
        regret.append(gaps[arm.squeeze(1)])
    return torch.stack(regret).cumsum(dim=0)


def ucb_bound(probabilities: Tensor, num_pulls: int) -> float:
    """Return the upper bound of UCB1's expected regret for arms with these payment probabilities, ``(K,)``.

    Source: Auer, Cesa-Bianchi and Fischer (2002), theorem 1.
    """
    gaps = probabilities.max() - probabilities
    gaps = gaps[gaps > 0]
    return (8 * math.log(num_pulls) / gaps).sum().item() + (1 + math.pi**2 / 3) * gaps.sum().item()


def _require_arms(totals: Tensor, counts: Tensor) -> None:
    require_same_shape(totals=totals, counts=counts)
    if totals.ndim != 2:
        raise InputError(f"totals must be of shape (R, K), not {tuple(totals.shape)}")


def _best(values: Tensor, counts: Tensor, generator: torch.Generator | None) -> Tensor:
    values = torch.where(counts > 0, values, torch.inf)
    # Ties are decided at random; taking the first arm would favour it.
    tied = values == values.amax(dim=1, keepdim=True)
    return (torch.rand(values.shape, generator=generator) * tied).argmax(dim=1)
