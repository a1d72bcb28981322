"""Values that are not missing at random: which of them a table lacks depends on how large they are."""

import torch
from torch import Tensor

from d2l_lightning.errors import InputError, require_finite, require_not_negative


def missing_probabilities(values: Tensor, share: float, strength: float) -> Tensor:
    """Return the probability that each value is missing, ``share * (1 + s) * u^s``: shape ``(n,)``, float64.

    u is the rank of a value among all values, as a share from 0 to 1; equal values have the mean of their
    ranks. The mean of the probabilities is about ``share``. With a strength s of 0, values are missing at
    random.

    Args:
        values: The values, shape ``(n,)``.
        share: The share of values that are missing.
        strength: How much more often large values are missing, s.

    Raises:
        InputError: If a value is not finite, a number is out of its range, or a probability is above 1.

    Source: Section 4.10, exercise 3.
    """
    require_finite(values=values)
    require_not_negative(strength=strength)
    if not 0 < share < 1:
        raise InputError(f"share must be between 0 and 1, not {share}")
    if share * (1 + strength) > 1:
        most = 1 / share - 1
        raise InputError(f"strength must be at most {most:g} with the share {share}; it is {strength}")
    values = values.contiguous()
    ordered = values.sort().values
    below, up_to = (torch.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    ranks = (below + up_to).double() / (2 * len(values))
    return share * (1 + strength) * ranks**strength
