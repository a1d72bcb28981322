"""Empirical risk, with or without weights."""

from torch import Tensor

from d2l_lightning.errors import require_same_shape


def empirical_risk(losses: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean of losses of shape ``(n,)``, each multiplied by its weight if given: a scalar.

    The sum is divided by the number of examples, not by the sum of their weights. The risk of a minibatch is
    then an unbiased estimate of the risk of all examples. Examples of weight 0 pad a batch and are not
    counted; the risk of a batch that has only those is 0. Weights, shape ``(n,)``, are not negative, with a
    mean of about 1 over all examples. Source: Section 4.9.3, eqs. 4.9.1 and 4.9.5.

    Raises:
        InputError: If losses and weights differ in shape.

    Example:
        >>> empirical_risk(Tensor([1.0, 2.0, 9.0]), Tensor([0.5, 1.5, 0.0]))
        tensor(1.7500)
    """
    if weight is None:
        return losses.mean()
    require_same_shape(weight=weight, losses=losses)
    return (weight * losses).sum() / num_examples(weight)


def num_examples(weight: Tensor) -> Tensor:
    """Return the number of nonzero weights, at least 1: shape ``(...)`` for weights of shape ``(..., n)``."""
    return (weight != 0).sum(dim=-1).clamp(min=1)
