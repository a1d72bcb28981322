"""Penalties on the size of weights."""

from torch import Tensor


def l2_penalty(w: Tensor) -> Tensor:
    """Half the squared Euclidean norm of all weights: a scalar.

    Source: Section 3.7, eq. 3.7.2; Section 4.5.
    """
    return (w**2).sum() / 2


def l1_penalty(w: Tensor) -> Tensor:
    """The sum of the weights' absolute values: a scalar.

    Source: Section 3.7.6, exercise 3.
    """
    return w.abs().sum()


def soft_threshold(w: Tensor, threshold: Tensor | float) -> Tensor:
    """Move every weight towards zero by the threshold, those nearer than that to zero itself.

    This is the proximal operator of the l1 penalty: of all v, the one with the least
    ``threshold * l1_penalty(v) + ((v - w)**2).sum() / 2``.

    Args:
        w: Weights, any shape.
        threshold: Not negative; a number, or a tensor that broadcasts to that shape.

    Returns:
        ``sign(w) * max(|w| - threshold, 0)``, of that shape.

    Source: Section 3.7.6, exercise 3; Parikh and Boyd, "Proximal Algorithms" (2014), Section 6.5.2.
    """
    return w.sign() * (w.abs() - threshold).clamp(min=0)
