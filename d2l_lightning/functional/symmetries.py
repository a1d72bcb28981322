"""Changes of a perceptron's weights that do not change what it computes (Section 4.8)."""

import torch
from torch import Tensor

from d2l_lightning.functional.activations import relu, tanh


def symmetry_errors(X: Tensor, W1: Tensor, b1: Tensor, W2: Tensor) -> dict[str, float]:
    """Return the largest change of a perceptron's outputs under each symmetry, relative to the largest one.

    Args:
        X: Features, shape ``(B, d)``.
        W1: Weights of the hidden layer, ``(d, h)``.
        b1: Its biases, ``(h,)``.
        W2: Weights of the output layer, ``(h, q)``.

    Returns:
        The errors: hidden units are reversed in their order (``permutation``), the signs of all weights of a
        unit are changed with tanh (``sign``), or the incoming weights are multiplied by 2, 3, ... and the
        outgoing ones divided by it, with ReLU (``scale``).

    Source: Section 4.8, exercise 1.
    """
    factors = torch.arange(2, len(b1) + 2, dtype=X.dtype)
    pairs = {
        "permutation": (tanh(X @ W1 + b1) @ W2, tanh(X @ W1.flip(1) + b1.flip(0)) @ W2.flip(0)),
        "sign": (tanh(X @ W1 + b1) @ W2, tanh(X @ -W1 - b1) @ -W2),
        "scale": (relu(X @ W1 + b1) @ W2, relu(X @ (W1 * factors) + b1 * factors) @ (W2 / factors[:, None])),
    }
    return {
        name: ((before - after).abs().max() / before.abs().max()).item()
        for name, (before, after) in pairs.items()
    }
