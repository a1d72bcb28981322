"""Activation functions and their derivatives (4.1.2)."""

from collections.abc import Callable
from functools import partial

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
    """Draw activation functions with their derivatives (4.1.2).

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
    results = {
        name: {"x": x.tolist(), "value": value(x).tolist(), "derivative": derivative(x).tolist()}
        for name, (value, derivative) in functions.items()
    }
    rows = [(name, *values["value"], *values["derivative"]) for name, values in results.items()]
    columns = ("", *(f"{f}({argument:g})" for f in ("f", "f'") for argument in x.tolist()))
    grid = torch.linspace(-reach, reach, 1601, dtype=torch.float64)
    curves: dict[str, list[Curve]] = {
        name: [("f(x)", grid.tolist(), f(grid).tolist()), ("f'(x)", grid.tolist(), derivative(grid).tolist())]
        for name, (f, derivative) in functions.items()
    }
    ylabels = [""] * len(curves)  # one for each panel, which then has an axis of its own
    draw = partial(curve_figure, "Activation functions", curves, "x", ylabels, legend="each")
    table = Table("activation functions and derivatives", columns, rows)
    run.finish(results, tables=[table], figures={"activations": draw})


if __name__ == "__main__":
    run_experiment(main)
