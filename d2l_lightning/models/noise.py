"""Random noise in the layers of a network, beside standard dropout (Section 4.6.7, exercises 6 and 7)."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (its usual name)

from d2l_lightning.errors import InputError

Noise = Literal["dropout", "dropconnect", "gaussian", "uniform"]


class MultiplicativeNoise(nn.Module, ABC):
    """Multiplies each unit in training by a random number of mean 1 and variance ``p / (1 - p)``.

    These are the mean and the variance of dropout's factor. The probability is in a buffer, so that members
    side by side may differ in it. The buffer is not in a ``state_dict``.

    Args:
        p: The dropout probability, in [0, 1), whose variance the noise has.
    """

    p: Tensor

    def __init__(self, p: float) -> None:
        super().__init__()
        _require_below_1(p)
        self.register_buffer("p", torch.tensor(p), persistent=False)

    @abstractmethod
    def noise(self, X: Tensor) -> Tensor:
        """Return random numbers of mean 0 and variance 1 in the shape and type of X."""

    def forward(self, X: Tensor) -> Tensor:
        """Return X times noise in training, X itself in evaluation."""
        if not self.training:
            return X
        return X * (1 + (self.p / (1 - self.p)).sqrt().to(X.dtype) * self.noise(X))


class GaussianDropout(MultiplicativeNoise):
    """Multiplies each unit in training by a number from N(1, p / (1 - p)).

    Source: Srivastava et al., "Dropout" (2014), Section 10; Section 4.6.7, exercise 7.
    """

    def noise(self, X: Tensor) -> Tensor:
        """Return standard normal numbers in the shape and type of X."""
        return torch.randn_like(X)


class UniformDropout(MultiplicativeNoise):
    """Multiplies each unit in training by a uniform number of mean 1 and variance ``p / (1 - p)``.

    Source: Section 4.6.7, exercise 7.
    """

    def noise(self, X: Tensor) -> Tensor:
        """Return uniform numbers of mean 0 and variance 1 in the shape and type of X."""
        return (2 * torch.rand_like(X) - 1) * 3**0.5


class DropConnect(nn.Linear):
    """A linear layer that drops each weight with probability p in training, and scales the others.

    There is one mask for each batch. Wan et al. draw one for each example, at the cost of a weight matrix for
    each. Biases are not dropped. The probability is in a buffer, as in ``MultiplicativeNoise``.

    Of several processes, all use the same mask, unless the layer has as many weights as the process has rows.

    Args:
        in_features: Number of inputs.
        out_features: Number of outputs.
        p: Probability, in [0, 1), of dropping a weight.
        bias: Whether the layer has a bias.

    Source: Wan et al., "Regularization of Neural Networks using DropConnect" (2013); Section 4.6.7, exercise
    6.
    """

    p: Tensor

    def __init__(self, in_features: int, out_features: int, p: float, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        _require_below_1(p)
        self.register_buffer("p", torch.tensor(p), persistent=False)

    def forward(self, X: Tensor) -> Tensor:
        """Return outputs of shape ``(B, q)`` for inputs of shape ``(B, d)``."""
        if not self.training:
            return super().forward(X)
        # Drawn for a flat tensor: SharedDraws would take a first dimension as long as a batch for its rows.
        numbers = torch.rand_like(self.weight.flatten(), dtype=torch.float32).view_as(self.weight)
        kept = numbers.sub_(self.p).ceil_().mul_((1 - self.p).reciprocal())  # as in ``layers.Dropout``
        return F.linear(X, self.weight * kept.to(self.weight.dtype), self.bias)


def make_noise(noise: Literal["dropout", "gaussian", "uniform"], p: float) -> nn.Module:
    """Return the layer of a noise behind an activation; raise an InputError if p is out of its range."""
    kinds = {"dropout": nn.Dropout, "gaussian": GaussianDropout, "uniform": UniformDropout}
    return kinds[noise](p)


def _require_below_1(p: float) -> None:
    if not 0 <= p < 1:
        raise InputError(f"dropouts must be from 0 to below 1 with this noise, not {p}")
