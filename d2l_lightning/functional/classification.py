"""Probabilities, losses and hits of classification, per example."""

import torch
from torch import Tensor

from d2l_lightning.errors import InputError


def softmax(logits: Tensor) -> Tensor:
    """The probabilities that belong to logits.

    Args:
        logits: One for each class in the last dimension, shape ``(..., q)``.

    Returns:
        ``exp(o_j) / sum_k exp(o_k)``, of that shape. The greatest logit is subtracted first, which changes
        nothing but that nothing overflows.

    Source: Sections 3.4 and 3.6 of the 0.16 edition.

    Example:
        >>> softmax(torch.tensor([0.0, 1000.0]))
        tensor([0., 1.])
    """
    powers = (logits - logits.amax(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """The negative log-probability of each example's class, straight from the logits.

    Args:
        logits: Shape ``(B, q)``.
        y: Classes from 0 to q - 1, shape ``(B,)``, of an integer type.

    Returns:
        ``log(sum_k exp(o_k)) - o_y``, shape ``(B,)``: the logarithm of a softmax that never becomes 0.

    Raises:
        InputError: If y does not go with the logits, see ``require_classes``.

    Source: Section 3.7 of the 0.16 edition.
    """
    require_classes(logits, y)
    greatest = logits.amax(dim=-1, keepdim=True)
    log_sum = (logits - greatest).exp().sum(dim=-1).log() + greatest.squeeze(-1)
    return log_sum - logits.gather(-1, y[..., None]).squeeze(-1)


def hits(logits: Tensor, y: Tensor) -> Tensor:
    """Whether each example's greatest logit is that of its class: 1.0 or 0.0, shape ``(B,)``."""
    return (logits.argmax(dim=-1) == y).to(logits.dtype)


def require_classes(logits: Tensor, y: Tensor) -> None:
    """Raise an InputError unless y holds an integer for each row of the logits."""
    if logits.shape[:-1] != y.shape:
        raise InputError(f"logits of shape {tuple(logits.shape)} do not go with y of shape {tuple(y.shape)}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InputError(f"y must hold classes, integers, not {y.dtype}")
