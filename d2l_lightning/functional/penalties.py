"""Penalties on the size of weights."""

import torch
from torch import Tensor


def l2_penalty(w: Tensor) -> Tensor:
    """Return half the squared Euclidean norm of w, a scalar.

    Of a matrix W, it is half the squared Frobenius norm, ``tr(W^T W) / 2``.

    Source: Section 3.7, eq. 3.7.2 and exercise 4; Section 4.5.
    """
    return (w**2).sum() / 2


def l1_penalty(w: Tensor) -> Tensor:
    """Return the sum of the absolute values of w, a scalar. Source: Section 3.7.6, exercise 3."""
    return w.abs().sum()


def soft_threshold(w: Tensor, threshold: Tensor | float) -> Tensor:
    """Return w, each element moved to 0 by the threshold: ``sign(w) * max(|w| - threshold, 0)``, elementwise.

    This is the proximal operator of the l1 penalty: the v that minimises
    ``threshold * l1_penalty(v) + ((v - w)**2).sum() / 2``. The threshold, not negative, may be a tensor that
    broadcasts to the shape of w.

    Source: Section 3.7.6, exercise 3; Parikh and Boyd, "Proximal Algorithms" (2014), Section 6.5.2.
    """
    return w.sign() * (w.abs() - threshold).clamp(min=0)


def soft_threshold_(w: Tensor, threshold: float) -> Tensor:
    """Soft-threshold w in place, by one operation; the threshold is a number. See ``soft_threshold``."""
    return torch.ops.aten.softshrink.out(w, threshold, out=w)
