"""Newton's method where it is in trouble: losses with kinks, few rows, and networks with saddle points."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from d2l_lightning.errors import InputError
from d2l_lightning.functional.regression import absolute_error, huber_loss, squared_loss
from d2l_lightning.functional.second_derivatives import (
    Loss,
    full_hessian,
    gauss_newton,
    newton_step,
    outputs_of,
    reweighted_step,
)

# The loss of each row, and the threshold of the reweighting that minimises it, or nearly does so.
KINKS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "half the squared error": (squared_loss, 1e9),
    "absolute error": (absolute_error, 1e-6),
    "Huber, threshold 1": (partial(huber_loss, threshold=1.0), 1.0),
}
RATE = 0.1  # of gradient descent
HUGE = 1e6  # a loss at which a method has failed


def mean_loss(loss: Callable[[Tensor, Tensor], Tensor], X: Tensor, y: Tensor) -> Loss:
    """Return the mean loss of a linear model as a function of its weights."""
    return lambda w: loss(X @ w, y).mean()


def newton_error(loss: Loss, start: Tensor, w: Tensor) -> float | None:
    """Return the distance from w after a Newton step; None if there is no step."""
    with suppress(InputError):
        return (newton_step(loss, start) - w).norm().item()
    return None


def newton_on_kinks(X: Tensor, y: Tensor, w: Tensor, steps: int) -> dict[str, dict[str, Any]]:
    """Return what the Hessians of losses with kinks are worth, by the name of the loss.

    ``rank`` is that of the Hessian at weights of 0. Distances from w are ``newton``, after a Newton step from
    there, None if there is no step, and ``reweighted``, after steps of reweighted least squares.

    Args:
        X: Features, shape ``(n, d)``.
        y: Targets, shape ``(n,)``.
        w: The true weights, shape ``(d,)``.
        steps: Number of steps of reweighted least squares.

    Source: Section 3.4.6, exercise 4.
    """
    results = {}
    for name, (of_rows, threshold) in KINKS.items():
        loss, found = mean_loss(of_rows, X, y), torch.zeros_like(w)
        rank = torch.linalg.matrix_rank(full_hessian(loss, found)).item()
        error = newton_error(loss, found, w)
        for _ in range(steps):
            found = reweighted_step(X, y, found, threshold)
        results[name] = {"rank": rank, "newton": error, "reweighted": (found - w).norm().item()}
    return results


def newton_on_few_rows(
    X: Tensor, y: Tensor, w: Tensor, numbers: Sequence[int], damping: float
) -> dict[str, dict[str, Any]]:
    """Return what the Hessian of the squared loss of the first rows is worth, by the number of rows.

    ``rank`` is its rank. Distances from w are ``newton``, after a Newton step from weights of 0, None if the
    Hessian has no inverse, and ``damped``, after a step with ``damping`` on the Hessian's diagonal.

    Args:
        X: Features, shape ``(n, d)``.
        y: Targets, shape ``(n,)``.
        w: The true weights, shape ``(d,)``.
        numbers: Numbers of rows.
        damping: What is added to the diagonal.

    Source: Section 3.4.6, exercise 4.
    """
    results, start = {}, torch.zeros_like(w)
    for n in numbers:
        loss = mean_loss(squared_loss, X[:n], y[:n])
        H = full_hessian(loss, start)
        damped = start - torch.linalg.solve(
            H + damping * torch.eye(len(w)).to(H), torch.func.grad(loss)(start)
        )
        rank = torch.linalg.matrix_rank(H).item()
        error = None if rank < len(w) else newton_error(loss, start, w)
        results[str(n)] = {"rank": rank, "newton": error, "damped": (damped - w).norm().item()}
    return results


def newton_on_a_network(model: nn.Module, X: Tensor, y: Tensor, steps: int, damping: float) -> dict[str, Any]:
    """Return the curvature of a network's squared loss, and its ``losses`` after steps of three methods.

    The curvature is that of the initial ``parameters``, a number: how many eigenvalues of the Hessian are
    ``negative``, the ``least`` of them, and ``gauss_newton_least``, that of the Gauss-Newton matrix. A method
    ends where its loss is huge, or where there is no step.

    Args:
        model: Returns outputs of shape ``(n, 1)``.
        X: Features, shape ``(n, d)``.
        y: Targets, shape ``(n,)``.
        steps: Number of steps.
        damping: What is added to the diagonal of the Gauss-Newton matrix.

    Source: Section 3.4.6, exercise 4.
    """
    outputs, start = outputs_of(model, X)

    def loss(w: Tensor) -> Tensor:
        return squared_loss(outputs(w), y).mean()

    def damped(w: Tensor) -> Tensor:
        G = gauss_newton(outputs, w) + damping * torch.eye(len(w)).to(w)
        return w - torch.linalg.solve(G, torch.func.grad(loss)(w))

    methods: dict[str, Callable[[Tensor], Tensor]] = {
        f"gradient descent, rate {RATE:g}": lambda w: w - RATE * torch.func.grad(loss)(w),
        "Newton": lambda w: newton_step(loss, w),
        f"Gauss-Newton, damping {damping:g}": damped,
    }
    eigenvalues = torch.linalg.eigvalsh(full_hessian(loss, start))
    least = torch.linalg.eigvalsh(gauss_newton(outputs, start)).min().item()
    results: dict[str, Any] = {"parameters": len(start), "gauss_newton_least": least}
    results |= {"negative": int((eigenvalues < 0).sum()), "least": eigenvalues.min().item(), "losses": {}}
    for name, step in methods.items():
        w, losses = start, [loss(start).item()]
        with suppress(InputError):  # a Newton step may lead where there is no other
            for _ in range(steps):
                w = step(w)
                if not loss(w) < HUGE:
                    break
                losses.append(loss(w).item())
        results["losses"][name] = losses
    return results
