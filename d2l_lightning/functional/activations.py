"""Activation functions and their derivatives, written out."""

import torch
from torch import Tensor


def relu(x: Tensor) -> Tensor:
    """Return ``max(x, 0)``, elementwise. Source: Section 4.1.2, eq. 4.1.4."""
    return torch.where(x <= 0, 0.0, x)  # clamp has a gradient of 1 at 0; NaN stays NaN here


def relu_derivative(x: Tensor) -> Tensor:
    """Return 1 where x is positive and 0 elsewhere (at 0 by convention). Source: Section 4.1.2."""
    return (x > 0).to(x.dtype)


def prelu(x: Tensor, alpha: float | Tensor) -> Tensor:
    """Return ``max(0, x) + alpha min(0, x)``, elementwise. Source: Section 4.1.2, eq. 4.1.5."""
    return torch.where(x > 0, x, alpha * x)


def prelu_derivative(x: Tensor, alpha: float) -> Tensor:
    """Return 1 where x is positive and alpha elsewhere (at 0 by convention). Source: Section 4.1.2."""
    return torch.where(x > 0, torch.ones_like(x), alpha)


def sigmoid(x: Tensor) -> Tensor:
    """Return ``1 / (1 + exp(-x))``, elementwise, without overflow. Source: Section 4.1.2, eq. 4.1.6."""
    positive = x >= 0
    power = torch.where(positive, -x, x).exp()  # exp(-|x|) would have a gradient of 0 at 0
    return torch.where(positive, 1.0, power) / (1 + power)


def sigmoid_derivative(x: Tensor) -> Tensor:
    """Return ``sigmoid(x) (1 - sigmoid(x))``, at most 0.25. Source: Section 4.1.2, eq. 4.1.7."""
    return sigmoid(x) * sigmoid(-x)


def tanh(x: Tensor) -> Tensor:
    """Return ``(1 - exp(-2x)) / (1 + exp(-2x))``, elementwise. Source: Section 4.1.2, eq. 4.1.8."""
    return 2 * sigmoid(2 * x) - 1


def tanh_derivative(x: Tensor) -> Tensor:
    """Return ``1 - tanh(x)^2``, at most 1. Source: Section 4.1.2, eq. 4.1.9."""
    return 4 * sigmoid(2 * x) * sigmoid(-2 * x)
