"""Activation functions and their derivatives (4.1.2)."""

from collections.abc import Callable

import torch
from matplotlib.figure import Figure
from torch import Tensor

from d2l_lightning.errors import require_finite, require_positive
from d2l_lightning.figures import draw_curves, panels
from d2l_lightning.functional import activations
from d2l_lightning.run import Run, run_experiment

Function = Callable[[Tensor], Tensor]


def main(run: Run, alpha: float, reach: float) -> None:
    """Draw activation functions with their derivatives (4.1.2).

    Args:
        run: The run.
        alpha: Slope of pReLU where its argument is negative.
        reach: Functions are drawn from minus this to this.
    """
    require_positive(reach=reach)
    require_finite(alpha=torch.tensor(alpha))
    run.start()
    functions: dict[str, tuple[Function, Function]] = {
        "ReLU": (activations.relu, activations.relu_derivative),
        "pReLU": (
            lambda x: activations.prelu(x, alpha),
            lambda x: activations.prelu_derivative(x, alpha),
        ),
        "sigmoid": (activations.sigmoid, activations.sigmoid_derivative),
        "tanh": (activations.tanh, activations.tanh_derivative),
    }
    at = torch.tensor([-reach, 0.0, reach], dtype=torch.float64)
    results = {
        name: {"x": at.tolist(), "value": value(at).tolist(), "derivative": slope(at).tolist()}
        for name, (value, slope) in functions.items()
    }
    rows = [(name, *told["value"], *told["derivative"]) for name, told in results.items()]
    places = [f"{x:g}" for x in at.tolist()]
    columns = ("", *(f"f({x})" for x in places), *(f"f'({x})" for x in places))
    run.table("activation functions and derivatives", columns, rows)
    run.figure(draw(functions, reach), "activations")
    run.finish(results)


def draw(functions: dict[str, tuple[Function, Function]], reach: float) -> Figure:
    """Draw each function with its derivative."""
    figure, axes = panels(list(functions), "Activation functions", "x", [""] * len(functions))
    x = torch.linspace(-reach, reach, 1601, dtype=torch.float64)
    for panel, (value, slope) in zip(axes, functions.values(), strict=True):
        curves = {"f(x)": value(x), "f'(x)": slope(x)}
        draw_curves(panel, [(name, x.tolist(), y.tolist()) for name, y in curves.items()])
        panel.legend(frameon=False)
    return figure


if __name__ == "__main__":
    run_experiment(main)
