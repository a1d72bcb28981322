"""Perceptrons of linear layers and pReLU: collapsed to one layer, or split into their linear pieces."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from d2l_lightning.functional.activations import prelu


def perceptron(X: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], alpha: Tensor) -> Tensor:
    """Return the outputs, shape ``(B, q)``, of linear layers with a pReLU between them.

    Args:
        X: Features, shape ``(B, d)``.
        weights: The weights of each layer, shape ``(inputs, outputs)``, as in eq. 4.1.3.
        biases: The biases of each layer.
        alpha: The slope of pReLU for negative arguments: 0 is ReLU, 1 is no nonlinearity. Shape ``()``.

    Source: Section 4.1.1, eq. 4.1.3.
    """
    H = X @ weights[0] + biases[0]
    for W, b in zip(weights[1:], biases[1:], strict=True):
        H = prelu(H, alpha) @ W + b
    return H


def collapse(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the weights and the bias of the one layer that linear layers without a nonlinearity equal.

    These are ``W1 W2 ...``, and ``b1 W2 + b2`` for two layers. Source: Section 4.1.1, eq. 4.1.2.

    Example:
        >>> ones = torch.ones(1, 2), torch.ones(2, 1)
        >>> collapse(ones, (torch.ones(2), torch.ones(1)))
        (tensor([[2.]]), tensor([3.]))
    """
    W, b = weights[0], biases[0]
    for next_W, next_b in zip(weights[1:], biases[1:], strict=True):
        W, b = W @ next_W, b @ next_W + next_b
    return W, b


def compare_collapsed(X: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> dict[str, float]:
    """Return how far linear layers are from the one layer of ``collapse``, for features X ``(B, d)``.

    It has the ``largest_output`` of the layers, their ``largest_difference`` from the one layer without a
    nonlinearity, the ``largest_difference_with_relu``, and the ``rank`` of the one layer's weights.
    """
    W, b = collapse(weights, biases)
    without, with_relu = (perceptron(X, weights, biases, X.new_tensor(alpha)) for alpha in (1.0, 0.0))
    return {
        "largest_output": without.abs().max().item(),
        "largest_difference": (without - (X @ W + b)).abs().max().item(),
        "largest_difference_with_relu": (with_relu - (X @ W + b)).abs().max().item(),
        "rank": int(torch.linalg.matrix_rank(W)),
        "parameters": sum(tensor.numel() for tensor in (*weights, *biases)),
        "parameters_of_one_layer": W.numel() + b.numel(),
    }


def kinks(
    weights: Sequence[Tensor], biases: Sequence[Tensor], alpha: Tensor, low: float, high: float
) -> list[float]:
    """Return where a perceptron of one input changes its slope between two ends, in ascending order.

    Between its kinks, each unit of a layer is a linear function of the input. pReLU adds a kink where that
    function is 0. So the perceptron is a continuous function of linear pieces.

    Source: Section 4.1.2, exercise 2.
    """
    points = [low, high]
    for depth in range(1, len(weights)):
        x = torch.tensor(points, dtype=weights[0].dtype)
        H = perceptron(x[:, None], weights[:depth], biases[:depth], alpha)  # each unit, before its pReLU
        new = set(points)
        for (x0, h0), (x1, h1) in pairwise(zip(points, H.tolist(), strict=True)):
            crossing = [x0 + (x1 - x0) * a / (a - b) for a, b in zip(h0, h1, strict=True) if a * b < 0]
            new.update(point for point in crossing if x0 < point < x1)
        points = sorted(new)
    return points[1:-1] if alpha.item() != 1 else []


def largest_second_difference(function: Callable[[Tensor], Tensor], ends: Sequence[float]) -> float:
    """Return the largest absolute second difference of a function of ``(n,)`` within the pieces between ends.

    It is taken at 5 points of each piece, and is 0, but for rounding errors, where a function is linear.
    """
    steps = torch.linspace(0, 1, 5, dtype=torch.float64)
    x = torch.stack([low + (high - low) * steps for low, high in pairwise(ends)])
    return function(x.flatten()).view_as(x).diff(n=2, dim=1).abs().max().item()


def pieces(
    weights: Sequence[Tensor], biases: Sequence[Tensor], alpha: Tensor, low: float, high: float
) -> dict[str, Any]:
    """Return the ``kinks``, and the second differences within the pieces and over the whole range."""

    def function(x: Tensor) -> Tensor:
        return perceptron(x[:, None], weights, biases, alpha)[:, 0]

    found = kinks(weights, biases, alpha, low, high)
    return {
        "kinks": found,
        "second_difference_within": largest_second_difference(function, [low, *found, high]),
        "second_difference_over_all": largest_second_difference(function, [low, high]),
    }


def spread_over_batches(
    nonlinearity: Callable[[Tensor], Tensor],
    x: float,
    batch_size: int,
    num_batches: int,
    generator: torch.Generator,
) -> tuple[float, float]:
    """Return the mean and the standard deviation, over batches, of a nonlinearity of the same number x.

    The other numbers of each batch are standard normal. A nonlinearity maps batches, ``(N, B)``, to outputs.

    Source: Section 4.1.2, exercise 4.
    """
    numbers = torch.randn(num_batches, batch_size, dtype=torch.float64, generator=generator)
    numbers[:, 0] = x
    outputs = nonlinearity(numbers)[:, 0]
    return outputs.mean().item(), outputs.std().item()


def standardize(X: Tensor) -> Tensor:
    """Return batches, shape ``(N, B)``, minus the mean of each and divided by its standard deviation."""
    return (X - X.mean(dim=1, keepdim=True)) / X.std(dim=1, keepdim=True, correction=0)
