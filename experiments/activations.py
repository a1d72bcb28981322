"""Activation functions and their derivatives, beside autograd's (4.1.2, exercises 1 and 3)."""

from collections.abc import Callable
from functools import partial
from typing import Any

from d2l_lightning.errors import require_finite, require_positive
from d2l_lightning.functional import activations
from d2l_lightning.plots.style import Curve, curve_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import refuse_flags

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]


def main(run: Run, alpha: float = 0.25, reach: float = 8.0) -> None:
    """Draw activation functions with their derivatives, and compare these with autograd's (4.1.2).

    Args:
        run: The run.
        alpha: Slope of pReLU for negative arguments.
        reach: Functions are drawn from minus this number to this number.
    """
    refuse_flags(run.trainer_flags, "nothing is trained")
    require_positive(reach=reach)
    require_finite(alpha=torch.tensor(alpha))
    functions: dict[str, tuple[Function, Function]] = {
        "ReLU": (activations.relu, activations.relu_derivative),
        "pReLU": (lambda x: activations.prelu(x, alpha), lambda x: activations.prelu_derivative(x, alpha)),
        "sigmoid": (activations.sigmoid, activations.sigmoid_derivative),
        "tanh": (activations.tanh, activations.tanh_derivative),
    }
    x = torch.tensor([-reach, 0.0, reach], dtype=torch.float64)
    grid = torch.linspace(-reach, reach, 1601, dtype=torch.float64)
    results: dict[str, dict[str, Any]] = {
        name: {
            "x": x.tolist(),
            "value": value(x).tolist(),
            "derivative": derivative(x).tolist(),
            "largest_error": derivative_error(value, derivative, grid),
        }
        for name, (value, derivative) in functions.items()
    }
    # Exercise 3, with the framework's functions, because this project computes tanh from the sigmoid.
    identity = (torch.tanh(grid) + 1 - 2 * torch.sigmoid(2 * grid)).abs().max().item()
    rows = [
        (
            name,
            *(f"{v:.3g}" for v in (*values["value"], *values["derivative"])),
            f"{values['largest_error']:.1e}",
        )
        for name, values in results.items()
    ]
    columns = ("", *(f"{f}({a:g})" for f in ("f", "f'") for a in x.tolist()), "error of f'")
    note = (
        f"The error of f' is the largest difference from autograd's derivative, at {len(grid)} points from "
        f"{-reach:g} to {reach:g}. There, tanh(x) + 1 and 2 sigmoid(2x) differ by {identity:.1e} at most."
    )
    curves: dict[str, list[Curve]] = {
        name: [("f(x)", grid.tolist(), f(grid).tolist()), ("f'(x)", grid.tolist(), derivative(grid).tolist())]
        for name, (f, derivative) in functions.items()
    }
    ylabels = [""] * len(curves)  # one for each panel, which then has an axis of its own
    draw = partial(curve_figure, "Activation functions", curves, "x", ylabels, legend="each")
    table = Table("activation functions and derivatives", columns, rows, note)
    results["tanh_identity"] = {"largest_difference": identity}
    run.finish(results, tables=[table], figures={"activations": draw})


def derivative_error(function: Function, derivative: Function, x: Tensor) -> float:
    """Return the largest difference of a derivative from autograd's, at x of shape ``(n,)`` (exercise 1)."""
    at = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(at).sum(), at)
    return (derivative(x) - expected).abs().max().item()


if __name__ == "__main__":
    run_experiment(main)
