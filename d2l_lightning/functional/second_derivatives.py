"""Second derivatives of a loss: the Hessian, its products with vectors, and Newton's steps."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev

from d2l_lightning.errors import InputError

Loss = Callable[[Tensor], Tensor]


def full_hessian(loss: Loss, w: Tensor) -> Tensor:
    """Return all second derivatives of a loss at w, shape ``(d, d)``: as many numbers as the square of d.

    Second derivatives that automatic differentiation takes of a kink, as of ``|x|`` at 0, are 0.

    Args:
        loss: Returns a scalar for parameters of shape ``(d,)``.
        w: The parameters, shape ``(d,)``.

    Source: Section 3.4.6, exercise 4.

    Example:
        >>> full_hessian(lambda w: w[0] ** 2 + 3 * w[0] * w[1], torch.ones(2))
        tensor([[2., 3.],
                [3., 0.]])
    """
    return jacrev(grad(loss))(w)


def hessian_product(loss: Loss, w: Tensor, v: Tensor) -> Tensor:
    """Return the Hessian of a loss at w times a vector v, shape ``(d,)``, without the Hessian.

    It is the gradient of the gradient's product with v, which takes about as long as two gradients.
    """
    return grad(lambda at: grad(loss)(at) @ v)(w)


def newton_step(loss: Loss, w: Tensor) -> Tensor:
    """Return ``w - H^-1 g``, shape ``(d,)``: the minimum of a quadratic loss from anywhere.

    Raises:
        InputError: If the Hessian H has no inverse, as that of the absolute error, which is 0.
    """
    step, info = torch.linalg.solve_ex(full_hessian(loss, w), grad(loss)(w))
    if info != 0 or not step.isfinite().all():
        raise InputError(
            "the Hessian has no inverse, so there is no Newton step; smooth the loss, or add to its diagonal"
        )
    return w - step


def conjugate_gradient(
    multiply: Callable[[Tensor], Tensor], b: Tensor, steps: int, tolerance: float
) -> Tensor:
    """Return x with ``A x = b`` for a positive definite A, of which only products with vectors are needed.

    Args:
        multiply: Returns A v for v of shape ``(d,)``.
        b: The right-hand side, shape ``(d,)``.
        steps: The greatest number of products; d are enough in exact arithmetic.
        tolerance: The residual at which to stop, as a part of the norm of b.

    Raises:
        InputError: If a product shows that A is not positive definite.

    Source: Hestenes and Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems" (1952).
    """
    x, residual = torch.zeros_like(b), b.clone()
    direction, size = residual, residual @ residual
    least = size * tolerance**2
    for _ in range(steps):
        if size <= least:
            break
        product = multiply(direction)
        curvature = direction @ product
        if not curvature > 0:
            raise InputError("the matrix is not positive definite, as the Hessian at a minimum is")
        rate = size / curvature
        x, residual = x + rate * direction, residual - rate * product
        before, size = size, residual @ residual
        direction = residual + size / before * direction
    return x


def newton_step_without_hessian(loss: Loss, w: Tensor, steps: int = 100, tolerance: float = 1e-6) -> Tensor:
    """Return ``w - H^-1 g`` as ``newton_step`` does, by products of the Hessian with vectors: memory of d.

    Args:
        loss: Returns a scalar for parameters of shape ``(d,)``; its Hessian at w must be positive definite.
        w: The parameters, shape ``(d,)``.
        steps: The greatest number of products.
        tolerance: The residual at which to stop, as a part of the norm of the gradient.

    Raises:
        InputError: If a product shows that the Hessian is not positive definite.
    """
    return w - conjugate_gradient(lambda v: hessian_product(loss, w, v), grad(loss)(w), steps, tolerance)


def gauss_newton(outputs: Loss, w: Tensor) -> Tensor:
    """Return ``J^T J / n``, shape ``(d, d)``, for the derivatives J of n outputs of a model at w.

    It is the Hessian of half the mean squared error without the second derivatives of the model. So it has no
    negative eigenvalue, and a step with it goes down.

    Args:
        outputs: Returns the predictions, shape ``(n,)``, for parameters of shape ``(d,)``.
        w: The parameters, shape ``(d,)``.
    """
    J = jacrev(outputs)(w)
    return J.T @ J / len(J)


def reweighted_step(X: Tensor, y: Tensor, w: Tensor, threshold: float) -> Tensor:
    """Return weights, shape ``(d,)``, with a smaller Huber loss of a linear model.

    They solve least squares in which the row with the error e has the weight ``1 / max(|e|, threshold)``, so
    that the curvature is never 0. With a small threshold, the loss is nearly the absolute error.

    Args:
        X: Features, shape ``(n, d)``.
        y: Targets, shape ``(n,)``.
        w: The present weights.
        threshold: The error from which on the Huber loss is linear; positive.
    """
    weights = 1 / (X @ w - y).abs().clamp(min=threshold)
    return torch.linalg.solve((weights[:, None] * X).T @ X, X.T @ (weights * y))


def outputs_of(model: nn.Module, X: Tensor) -> tuple[Loss, Tensor]:
    """Return a model's outputs, shape ``(n,)``, as a function of its parameters in a vector, and these.

    Args:
        model: Returns outputs of shape ``(n, 1)``.
        X: Features, shape ``(n, d)``.
    """
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    sizes = [parameter.numel() for parameter in parameters.values()]

    def outputs(w: Tensor) -> Tensor:
        parts = zip(parameters.items(), w.split(sizes), strict=True)
        own = {name: part.view_as(parameter) for (name, parameter), part in parts}
        return functional_call(model, own, (X,)).squeeze(-1)

    return outputs, torch.cat([parameter.reshape(-1) for parameter in parameters.values()])
