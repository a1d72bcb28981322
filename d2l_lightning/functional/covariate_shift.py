"""Covariate shift: weights from a domain classifier's log-odds, what they are worth, whether there is any."""

import math

import torch
from torch import Tensor

from d2l_lightning.errors import InputError, require_finite, require_positive

# Rows that are dealt out at a time.
CHUNK = 4_000_000


def importance_weights(h: Tensor, num_source: int, num_target: int, cap: float) -> Tensor:
    """Return how much more frequent examples are in the target than in the source, at most c.

    Args:
        h: A domain classifier's log-odds that each example is of the target, any shape.
        num_source: Rows of the source that the odds are for: those that the classifier was trained on, n.
        num_target: Those of the target, m.
        cap: c, the greatest weight.

    Returns:
        ``min(n / m * exp(h), c)``, of that shape, in double precision. The factor is 1 in the book, which has
        n = m; without it, odds of 1 would say no more than that the target has fewer rows.

    Raises:
        InputError: If a number is out of its range or h is not finite.

    Source: Section 4.9.3, eqs. 4.9.4 to 4.9.7.

    Example:
        >>> importance_weights(torch.tensor([0.0, 5.0]), 100, 100, cap=20.0)
        tensor([ 1., 20.], dtype=torch.float64)
    """
    require_positive(num_source=num_source, num_target=num_target, cap=cap)
    require_finite(h=h)
    return (h.double() + math.log(num_source / num_target)).exp().clamp(max=cap)


def effective_sample_size(weights: Tensor) -> float:
    """Return how many examples without weights would tell as much as these: ``(sum w)^2 / sum w^2``.

    Args:
        weights: Not negative, shape ``(n,)``.

    Returns:
        A number from 1 to n.

    Raises:
        InputError: If a weight is negative or not finite, or all are 0.

    Source: Kish, *Survey Sampling* (1965).
    """
    require_finite(weights=weights)
    if not len(weights) or weights.min() < 0 or weights.max() == 0:
        raise InputError("weights must not be negative, and not all 0")
    shares = weights.double() / weights.max().double()  # squares of small weights would be 0
    return (shares.sum() ** 2 / shares.square().sum()).item()


def uncovered_share(source_scores: Tensor, target_scores: Tensor) -> float:
    """Return the share of the target's examples that look more like the target than any of the source's.

    Where the target has mass and the source has none, no weight can make up for what was never seen.

    Args:
        source_scores: A domain classifier's scores of the source, shape ``(n,)``; greater is more like the
            target.
        target_scores: Those of the target, shape ``(m,)``.

    Raises:
        InputError: If a side is empty or a score not finite.

    Source: Section 4.9.3, covariate shift correction.
    """
    _require_scores(source_scores, target_scores)
    return (target_scores > source_scores.max()).double().mean().item()


def area_under_curve(source_scores: Tensor, target_scores: Tensor) -> float:
    """Return the probability that a random example of the target has the greater score; ties count half.

    Args:
        source_scores: Shape ``(n,)``.
        target_scores: Shape ``(m,)``.

    Returns:
        The area under the receiver operating characteristic; 0.5 where scores tell nothing.

    Raises:
        InputError: If a side is empty or a score not finite.

    Source: Mann and Whitney (1947).
    """
    _require_scores(source_scores, target_scores)
    ranks = _mid_ranks(torch.cat([source_scores, target_scores]))
    return _area(ranks[len(source_scores) :].sum(), len(source_scores), len(target_scores)).item()


def permutation_p_value(
    source_scores: Tensor, target_scores: Tensor, num_permutations: int, generator: torch.Generator
) -> float:
    """Return how often scores dealt out to the two sides at random have so great an area under the curve.

    The scores must be of examples that the classifier was not trained on; then, without shift, they are
    exchangeable, and the p-value is at most p with a probability of at most p, however small the sample.

    Args:
        source_scores: Shape ``(n,)``.
        target_scores: Shape ``(m,)``.
        num_permutations: P.
        generator: What deals them out, on the CPU.

    Returns:
        ``(1 + how many are as great) / (1 + P)``.

    Raises:
        InputError: If a side is empty, a score not finite or the number not positive.

    Source: Exercise 2 of Section 4.9; Phipson and Smyth (2010).
    """
    require_positive(num_permutations=num_permutations)
    _require_scores(source_scores, target_scores)
    n, m = len(source_scores), len(target_scores)
    ranks = _mid_ranks(torch.cat([source_scores, target_scores]).cpu())
    few = min(n, m)  # the smaller side's ranks tell all, as those of both have one sum
    observed, greater = ranks[n:].sum(), 0
    for at_once in torch.arange(num_permutations).split(max(1, CHUNK // (n + m))):
        keys = torch.rand(len(at_once), n + m, generator=generator)
        sums = ranks[keys.topk(few, sorted=False).indices].sum(dim=1)
        greater += int(((ranks.sum() - sums if few < m else sums) >= observed).sum())
    return (1 + greater) / (1 + num_permutations)


def _require_scores(source_scores: Tensor, target_scores: Tensor) -> None:
    for name, scores in (("source_scores", source_scores), ("target_scores", target_scores)):
        if scores.ndim != 1 or not len(scores):
            raise InputError(f"{name} must hold a score for each row, not the shape {tuple(scores.shape)}")
        require_finite(**{name: scores})


def _mid_ranks(values: Tensor) -> Tensor:
    """Return each value's place in their order, from 1 on; equal values share the mean of theirs."""
    _, group, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2)[group].double()


def _area(rank_sum: Tensor, n: int, m: int) -> Tensor:
    return (rank_sum - m * (m + 1) / 2) / (n * m)
