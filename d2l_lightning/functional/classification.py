"""Probabilities, losses and accuracy of classification, per example."""

import torch
from torch import Tensor

from d2l_lightning.errors import InputError


def softmax(logits: Tensor) -> Tensor:
    """Return the probabilities of logits, ``exp(o_j) / sum_k exp(o_k)``, shape ``(..., q)`` like the logits.

    Source: Sections 3.4 and 3.6 of the 0.16 edition.
    """
    # Subtracting the greatest logit prevents overflow and does not change the result.
    powers = (logits - logits.amax(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the negative log-probability of each class, ``log(sum_k exp(o_k)) - o_y``, shape ``(B,)``.

    It is finite even where the softmax underflows to 0.

    Args:
        logits: Shape ``(B, q)``.
        y: Classes from 0 to q - 1, shape ``(B,)``, of an integer type.

    Raises:
        InputError: If y does not match the logits, see ``require_classes``.

    Source: Section 3.7 of the 0.16 edition.
    """
    require_classes(logits, y)
    greatest = logits.amax(dim=-1, keepdim=True)
    log_sum = (logits - greatest).exp().sum(dim=-1).log() + greatest.squeeze(-1)
    return log_sum - logits.gather(-1, y[..., None]).squeeze(-1)


def correct_predictions(logits: Tensor, y: Tensor) -> Tensor:
    """Return 1.0 where the greatest logit is that of the example's class, else 0.0: shape ``(B,)``.

    Raises:
        InputError: If y does not match the logits, see ``require_classes``.
    """
    require_classes(logits, y)
    return (logits.argmax(dim=-1) == y).to(logits.dtype)


def confusion_matrix(logits: Tensor, y: Tensor) -> Tensor:
    """Return how many examples of class i, the row, have their greatest logit in column j: shape ``(q, q)``.

    Raises:
        InputError: If y does not match the logits, see ``require_classes``.
    """
    require_classes(logits, y)
    q = logits.shape[-1]
    return torch.bincount(y * q + logits.argmax(dim=-1), minlength=q * q).reshape(q, q)


def require_classes(logits: Tensor, y: Tensor) -> None:
    """Raise an InputError unless y has an integer for each row of the logits."""
    if logits.shape[:-1] != y.shape:
        raise InputError(f"logits of shape {tuple(logits.shape)} do not go with y of shape {tuple(y.shape)}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InputError(f"y must hold classes, integers, not {y.dtype}")
