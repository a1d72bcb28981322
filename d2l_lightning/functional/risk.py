"""Empirical risk, plain and weighted."""

from torch import Tensor


def empirical_risk(losses: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean loss of examples, each multiplied by its weight if there are weights.

    The mean is over the number of examples, not over their weight: a minibatch is then as good an estimate of
    all examples' risk whatever its examples happen to weigh. An example that weighs 0 is none, such as those
    that fill up a batch; a batch of nothing else has a risk of 0.

    Args:
        losses: Shape ``(n,)``.
        weight: Not negative, with a mean of about 1 over all examples, shape ``(n,)``.

    Returns:
        A scalar.

    Source: Section 4.9.3, eqs. 4.9.1 and 4.9.5.

    Example:
        >>> empirical_risk(Tensor([1.0, 2.0, 9.0]), Tensor([0.5, 1.5, 0.0]))
        tensor(1.7500)
    """
    return losses.mean() if weight is None else (weight * losses).sum() / num_examples(weight)


def num_examples(weight: Tensor) -> Tensor:
    """Return how many examples weigh anything, at least 1: shape ``(...)`` for weights ``(..., n)``."""
    return (weight != 0).sum(dim=-1).clamp(min=1)
