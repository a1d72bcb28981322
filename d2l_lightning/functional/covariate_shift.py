"""Covariate shift: importance weights, how much they are worth, and the statistics of a test for shift."""

import math

import torch
from torch import Tensor

from d2l_lightning.errors import InputError, require_finite, require_positive, require_same_shape

# Random keys of a permutation test that are in memory at a time.
CHUNK = 4_000_000


def importance_weights(h: Tensor, num_source: int, num_target: int, cap: float) -> Tensor:
    """Return by which factor examples are more frequent in the target: ``min(n / m * exp(h), c)``, float64.

    The book has n = m, so its factor is 1.

    Args:
        h: A domain classifier's log-odds that each example is from the target, any shape.
        num_source: Number of source rows that the classifier was trained on, n.
        num_target: Number of target rows that it was trained on, m.
        cap: The greatest weight, c.

    Raises:
        InputError: If a number is out of its range or h is not finite.

    Source: Section 4.9.3, eqs. 4.9.4 to 4.9.7.
    """
    require_positive(num_source=num_source, num_target=num_target, cap=cap)
    require_finite(h=h)
    return (h.double() + math.log(num_source / num_target)).exp().clamp(max=cap)


def effective_sample_size(weights: Tensor) -> float:
    """Return how many unweighted examples hold as much information: ``(sum w)^2 / sum w^2``, from 1 to n.

    Raises:
        InputError: If a weight is negative or not finite, or all are 0.

    Source: Kish, *Survey Sampling* (1965).
    """
    require_finite(weights=weights)
    if not len(weights) or weights.min() < 0 or weights.max() == 0:
        raise InputError("weights must not be negative, and not all 0")
    shares = weights.double() / weights.max().double()  # squares of small weights would be 0
    return (shares.sum() ** 2 / shares.square().sum()).item()


def importance_weighted_mean(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return an estimate of the target's mean of values known for the source, and its standard error.

    The values, such as losses, and the importance weights have shape ``(n,)``. The standard error takes the
    weights as given.

    Raises:
        InputError: If the shapes differ.

    Source: Sugiyama, Krauledat and Müller, "Covariate Shift Adaptation by Importance Weighted Cross
    Validation" (2007).
    """
    require_same_shape(values=values, weights=weights)
    shares = weights / weights.sum()
    mean = (shares * values).sum()
    return mean, (shares * (values - mean)).square().sum().sqrt()


def mean_differences(source: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return how far the target's mean of each feature is above the source's, in standard deviations.

    The result is float64, shape ``(d,)``; 0 for a feature that does not vary. The source has shape
    ``(n, d)``, the target ``(m, d)``, and the importance weights of the source are float64 ``(n,)``.
    """
    source, target = source.double(), target.double()
    deviation = torch.cat([source, target]).std(dim=0)
    deviation[deviation < 1e-6] = torch.inf
    mean = source.mean(dim=0) if weights is None else weights @ source / weights.sum()
    return (target.mean(dim=0) - mean) / deviation


def uncovered_share(source_scores: Tensor, target_scores: Tensor) -> float:
    """Return the share of the target whose scores are above all scores of the source.

    Weights cannot replace examples that the source does not have. The scores are those of a domain
    classifier, shapes ``(n,)`` and ``(m,)``; a greater score means more like the target.

    Raises:
        InputError: If there are no scores or a score is not finite.

    Source: Section 4.9.3, covariate shift correction.
    """
    _require_scores(source_scores, target_scores)
    return (target_scores > source_scores.max()).double().mean().item()


def area_under_curve(source_scores: Tensor, target_scores: Tensor) -> float:
    """Return the probability that a random target example has the greater score; ties count half.

    This is the area under the receiver operating characteristic (AUC): 0.5 for scores without information.
    The scores have the shapes ``(n,)`` and ``(m,)``.

    Raises:
        InputError: If there are no scores or a score is not finite.

    Source: Mann and Whitney (1947).
    """
    _require_scores(source_scores, target_scores)
    n, m = len(source_scores), len(target_scores)
    rank_sum = _mid_ranks(torch.cat([source_scores, target_scores]))[n:].sum()
    return ((rank_sum - m * (m + 1) / 2) / (n * m)).item()


def permutation_p_value(
    source_scores: Tensor, target_scores: Tensor, num_permutations: int, generator: torch.Generator
) -> float:
    """Return the p-value of the AUC, ``(1 + number of permutations with as great an AUC) / (1 + P)``.

    P is the number of random permutations of the scores, whose shapes are ``(n,)`` and ``(m,)``. The
    classifier must not have been trained on these examples. Then their scores are exchangeable if there is no
    shift, and the test is exact for samples of any size. The generator is on the CPU.

    Raises:
        InputError: If there are no scores, a score is not finite or P is not positive.

    Source: Exercise 2 of Section 4.9; Phipson and Smyth (2010).
    """
    require_positive(num_permutations=num_permutations)
    _require_scores(source_scores, target_scores)
    n, m = len(source_scores), len(target_scores)
    ranks = _mid_ranks(torch.cat([source_scores, target_scores]).cpu())
    smaller = min(n, m)  # the rank sums of both sides add up to a constant, so the smaller side is enough
    observed, as_great = ranks[n:].sum(), 0
    for chunk in torch.arange(num_permutations).split(max(1, CHUNK // (n + m))):
        keys = torch.rand(len(chunk), n + m, generator=generator)
        sums = ranks[keys.topk(smaller, sorted=False).indices].sum(dim=1)
        as_great += int(((ranks.sum() - sums if smaller < m else sums) >= observed).sum())
    return (1 + as_great) / (1 + num_permutations)


def _require_scores(source_scores: Tensor, target_scores: Tensor) -> None:
    for name, scores in (("source_scores", source_scores), ("target_scores", target_scores)):
        if scores.ndim != 1 or not len(scores):
            raise InputError(f"{name} must hold a score for each row, not the shape {tuple(scores.shape)}")
        require_finite(**{name: scores})


def _mid_ranks(values: Tensor) -> Tensor:
    """Return the rank of each value, counted from 1; equal values share the mean of their ranks."""
    _, group, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2)[group].double()
