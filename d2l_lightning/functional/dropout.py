"""Dropout, and predictions that are averaged over dropout masks (Section 4.6)."""

import torch
from torch import Tensor

from d2l_lightning.errors import InputError


def dropout_layer(X: Tensor, dropout: float) -> Tensor:
    """Return 0 with probability ``dropout``, else ``X / (1 - dropout)``, elementwise.

    Each element keeps its expected value. Integers become numbers of the default type.

    Raises:
        InputError: If the probability is outside 0 to 1.

    Source: Section 4.6, eq. 4.6.1.
    """
    require_probability(dropout=dropout)
    if not X.is_floating_point():
        X = X.to(torch.get_default_dtype())
    if dropout == 1:  # the scale would be infinite
        return torch.zeros_like(X)
    if dropout == 0:
        return X
    return X * (torch.rand_like(X) >= dropout) / (1 - dropout)


def average_over_masks(probabilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the predictions, confidence and spread of a classifier under S dropout masks, each ``(B,)``.

    From probabilities of shape ``(S, B, q)``: the class with the greatest mean probability, that mean, and
    the standard deviation of that probability over the masks.
    """
    confidence, predicted = probabilities.mean(dim=0).max(dim=1)
    index = predicted.expand(len(probabilities), -1)[..., None]
    return predicted, confidence, probabilities.gather(2, index).squeeze(2).std(dim=0, correction=0)


def require_probability(**values: float) -> None:
    """Raise an InputError that names the first argument that is not from 0 to 1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise InputError(f"{name} must be from 0 to 1, not {value}")
