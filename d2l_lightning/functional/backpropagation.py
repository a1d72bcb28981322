"""Forward and backward propagation through a perceptron with one hidden layer, equation by equation."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from d2l_lightning.errors import require_same_shape
from d2l_lightning.functional.classification import cross_entropy, softmax
from d2l_lightning.functional.penalties import l2_penalty
from d2l_lightning.functional.risk import num_examples


class Parameters(NamedTuple):
    """Weights and biases of d inputs, h hidden units and q outputs, or the gradients of J for them."""

    W1: Tensor  # (h, d)
    b1: Tensor  # (h,)
    W2: Tensor  # (q, h)
    b2: Tensor  # (q,)


class Variables(NamedTuple):
    """The variables that forward propagation computes for B examples and backpropagation reuses."""

    z: Tensor  # (B, h), before the activation
    h: Tensor  # (B, h), after it
    o: Tensor  # (B, q), the logits
    L: Tensor  # (), the mean loss
    s: Tensor  # (), the regularization term
    J: Tensor  # (), the objective


Function = Callable[[Tensor], Tensor]


def forward(
    X: Tensor, y: Tensor, parameters: Parameters, phi: Function, lambd: float, weight: Tensor | None = None
) -> Variables:
    """Return the objective of a batch and the variables that it is computed from.

    Args:
        X: Features, shape ``(B, d)``.
        y: Classes, shape ``(B,)``.
        parameters: The weights, and the biases that exercise 2 adds; a bias is not regularized.
        phi: The activation function.
        lambd: The regularization constant, lambda.
        weight: The weight of each example, shape ``(B,)``; 1 if not given.

    Source: Section 4.7.1, eqs. 4.7.1 to 4.7.6, for a batch; the loss is the cross-entropy.
    """
    W1, b1, W2, b2 = parameters
    z = X @ W1.T + b1  # (4.7.1)
    h = phi(z)  # (4.7.2)
    o = h @ W2.T + b2  # (4.7.3)
    L = (shares(y, weight, o) * cross_entropy(o, y)).sum()  # (4.7.4)
    s = lambd * (l2_penalty(W1) + l2_penalty(W2))  # (4.7.5)
    return Variables(z, h, o, L, s, L + s)  # (4.7.6)


def backward(
    X: Tensor,
    y: Tensor,
    parameters: Parameters,
    variables: Variables,
    phi_derivative: Function,
    lambd: float,
    weight: Tensor | None = None,
    scale: Tensor | float = 1.0,
) -> Parameters:
    """Return the gradient of J for each parameter, in the parameter's shape, by the chain rule.

    Arguments are those of ``forward``, with the variables that it returned, the derivative of phi, and a
    scale that multiplies all gradients, so that half precision can hold them.

    Source: Section 4.7.3, eqs. 4.7.8 to 4.7.14; exercise 2 for the biases.
    """
    h = variables.h
    dJ_do, dJ_dz = _gradients_of_layers(y, parameters, variables, phi_derivative, weight, scale)
    ds_dW1, ds_dW2 = scale * lambd * parameters.W1, scale * lambd * parameters.W2  # (4.7.10)
    dJ_dW2 = dJ_do.T @ h + ds_dW2  # (4.7.11)
    dJ_dW1 = dJ_dz.T @ X + ds_dW1  # (4.7.14)
    # Exercise 2: a bias is added to z or o, so its gradient is the sum of theirs over the examples.
    return Parameters(dJ_dW1, dJ_dz.sum(dim=0), dJ_dW2, dJ_do.sum(dim=0))


def input_gradient(
    y: Tensor, parameters: Parameters, variables: Variables, phi_derivative: Function
) -> Tensor:
    """Return the gradient of J for the features, in the shape of X, ``(B, d)``.

    The gradient of a scalar for a matrix has the shape of the matrix. Source: Section 4.7, exercise 1.
    """
    return _gradients_of_layers(y, parameters, variables, phi_derivative, None, 1.0)[1] @ parameters.W1


def hessian_of_output_weights(variables: Variables, lambd: float) -> Tensor:
    """Return the second derivatives of J for W2, shape ``(q h, q h)``, in the order of ``W2.flatten()``.

    For each example it is ``diag(p) - p p^T``, for the probabilities p, times ``h h^T`` (Kronecker product).
    Lambda is added to the diagonal. Source: Section 4.7, exercise 4.
    """
    probabilities, h = softmax(variables.o), variables.h
    of_logits = torch.diag_embed(probabilities) - probabilities[:, :, None] * probabilities[:, None]
    size = of_logits.shape[1] * h.shape[1]
    mean = torch.einsum("bij,bk,bl->ikjl", of_logits, h, h).reshape(size, size) / len(h)
    return mean + lambd * torch.eye(size, dtype=mean.dtype)


def _gradients_of_layers(
    y: Tensor, parameters: Parameters, variables: Variables, phi_derivative: Function,
    weight: Tensor | None, scale: Tensor | float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the gradients of J for o and for z."""
    z, _, o, *_ = variables
    # (4.7.8): the gradients of J = L + s for L and s are 1, times the scale.
    truth = torch.zeros_like(o).scatter_(1, y[:, None], 1.0)
    dJ_do = scale * shares(y, weight, o)[:, None] * (softmax(o) - truth)  # (4.7.9), (B, q)
    dJ_dh = dJ_do @ parameters.W2  # (4.7.12), (B, h)
    return dJ_do, dJ_dh * phi_derivative(z)  # (4.7.13), (B, h)


def shares(y: Tensor, weight: Tensor | None, like: Tensor) -> Tensor:
    """Return the share of each example in the risk (eq. 4.9.5): shape ``(B,)``, the type of ``like``."""
    weight = torch.ones_like(y, dtype=like.dtype) if weight is None else weight.to(like.dtype)
    require_same_shape(weight=weight, y=y)
    return weight / num_examples(weight)
