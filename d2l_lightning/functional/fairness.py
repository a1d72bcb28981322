"""Decisions about people: errors of groups, costs of errors, and feedback on the data (Section 4.9.5)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from d2l_lightning.errors import InputError, require_not_negative, require_positive, require_same_shape


def group_means(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Return the mean of each group's values: shape ``(G,)``; NaN for a group without values.

    Args:
        values: A value of each example, such as whether it was classified correctly, shape ``(n,)``.
        groups: The group of each example, from 0 to G - 1, shape ``(n,)``.
        num_groups: The number of groups, G.

    Raises:
        InputError: If the shapes differ.
    """
    require_same_shape(groups=groups, values=values)
    sums = torch.zeros(num_groups, dtype=torch.float64).index_add_(0, groups, values.double())
    return sums / torch.bincount(groups, minlength=num_groups)


def best_threshold(false_positive: float, false_negative: float) -> float:
    """Return the probability from which on it costs less to decide for class 1: ``c_fp / (c_fp + c_fn)``.

    With the probability p, class 1 costs ``(1 - p) * c_fp`` on average, and class 0 costs ``p * c_fn``. If
    both errors cost the same, the threshold is 1/2.

    Args:
        false_positive: The cost of deciding for class 1 where the label is 0, c_fp.
        false_negative: The cost of deciding for class 0 where the label is 1, c_fn.

    Raises:
        InputError: If a cost is not positive.

    Source: Section 4.9.5; Elkan, "The Foundations of Cost-Sensitive Learning" (2001).
    """
    require_positive(false_positive=false_positive, false_negative=false_negative)
    return false_positive / (false_positive + false_negative)


def decision_rates(probabilities: Tensor, y: Tensor, thresholds: Tensor) -> dict[str, Tensor]:
    """Return for each threshold the shares of all examples that are decided wrongly, shape ``(T,)``.

    They are ``false_positive``, class 1 where the label is 0, and ``false_negative``, class 0 where it is 1.

    Args:
        probabilities: The probability of class 1 of each example, shape ``(n,)``.
        y: The labels, 0 or 1, shape ``(n,)``.
        thresholds: The probabilities from which on the decision is for class 1, shape ``(T,)``.

    Raises:
        InputError: If the shapes of probabilities and labels differ.
    """
    require_same_shape(probabilities=probabilities, y=y)
    # The number of examples of a label with a probability below the threshold.
    below = [torch.searchsorted(probabilities[y == label].sort().values, thresholds) for label in (0, 1)]
    wrong = {"false_positive": (y == 0).sum() - below[0], "false_negative": below[1]}
    return {name: count.double() / len(y) for name, count in wrong.items()}


def patrol_shares(
    discoveries: Tensor,
    patrols: int,
    crime: float,
    focus: float,
    corrected: bool,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Yield without end the share of patrols that the first of two districts with equal crime gets.

    Each round has the four steps of Section 4.9.5. The share, of shape ``(R,)``, is that before the round.

    1. Patrols are sent to the districts in proportion to a power of the predicted crime.
    2. Each patrol discovers a crime with the same probability in both districts.
    3. The discoveries are added to those of earlier rounds, from which crime is predicted.
    4. The next round begins with these predictions.

    Args:
        discoveries: The crimes that are known before the first round, found by half of ``patrols`` in each
            district, shape ``(R, 2)`` for R repetitions.
        patrols: The number of patrols in a round.
        crime: The probability that a patrol discovers a crime.
        focus: The power of the predicted crime: 1 for shares in proportion to it, more for a focus on the
            district with more of it.
        corrected: Whether predictions are discoveries for each patrol, so that each discovery has a weight of
            1 over the patrols that were there; if not, they are the numbers of discoveries.
        generator: The source of randomness; if not given, patrols make as many discoveries as are expected.

    Raises:
        InputError: If the number of patrols is not positive, the focus is negative, or crime is not from 0
            to 1.

    Source: Section 4.9.5; Ensign et al., "Runaway Feedback Loops in Predictive Policing" (2018).
    """
    require_positive(patrols=patrols)
    require_not_negative(focus=focus)
    if not 0 < crime <= 1:
        raise InputError(f"crime must be above 0 and at most 1, not {crime}")
    found, sent = discoveries.double(), torch.full_like(discoveries, patrols / 2, dtype=torch.float64)
    while True:
        predicted = found / sent if corrected else found
        predicted = (predicted / predicted.amax(dim=1, keepdim=True)) ** focus  # no power is infinite
        share = predicted[:, 0] / predicted.sum(dim=1)
        yield share
        first = share * patrols
        if generator is not None:
            first = first.round()
        now = torch.stack([first, patrols - first], dim=1)
        if generator is None:
            found = found + crime * now
        else:
            found = found + torch.binomial(now, torch.full_like(now, crime), generator)
        sent = sent + now
