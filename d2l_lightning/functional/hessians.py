"""Second derivatives by automatic differentiation: the gradient is differentiated once more."""

from collections.abc import Sequence

import torch
from torch import Tensor


def flat_gradient(value: Tensor, parameters: Sequence[Tensor], create_graph: bool = False) -> Tensor:
    """Return the gradient of a scalar for all parameters, shape ``(p,)``; its graph is kept.

    It is 0 for parameters that the value does not depend on. With ``create_graph``, the gradient has a graph
    of its own, so that it can be differentiated.
    """
    gradients = torch.autograd.grad(
        value, parameters, retain_graph=True, create_graph=create_graph, materialize_grads=True
    )
    return torch.cat([gradient.flatten() for gradient in gradients])


def hessian_vector_product(gradient: Tensor, parameters: Sequence[Tensor], vector: Tensor) -> Tensor:
    """Return the Hessian times a vector, shape ``(p,)``, for a gradient that has a graph of its own.

    It is the gradient of ``gradient @ vector``, so it takes about as long as a gradient.
    """
    return flat_gradient(gradient @ vector, parameters)


def hessian(gradient: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Return the Hessian, shape ``(p, p)``: a product with each of p unit vectors.

    Source: Section 4.7, exercise 4.
    """
    units = torch.eye(len(gradient), dtype=gradient.dtype, device=gradient.device)
    return torch.stack([hessian_vector_product(gradient, parameters, unit) for unit in units])
