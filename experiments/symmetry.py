"""Symmetries of a perceptron's weights, and which initial weights break them (4.8.1, exercises 1 and 2)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from d2l_lightning.callbacks.layer_statistics import UnitSpread
from d2l_lightning.data.batches import data_generator
from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import require_positive
from d2l_lightning.functional.symmetries import symmetry_errors
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.dropout_mlp import DropoutMLP
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.models.softmax_regression import SoftmaxRegression
from d2l_lightning.plots.style import curve_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run

import torch
from torch import Tensor, nn

# The perceptrons that begin alike: hidden units, equal initial weights, dropout probability.
UNITS, WEIGHT, DROPOUT = 64, 0.01, 0.5
NAMES = {
    "random": "random",
    "alike": f"all {WEIGHT:g}",
    "alike_with_dropout": f"all {WEIGHT:g}, with dropout",
    "zero": "all 0",
}
# Equal initial weights of linear and softmax regression, and the rows that softmax regression learns from.
EQUAL, ROWS = (0.0, 1.0), 10_000
# The perceptron that is transformed: rows, inputs, hidden units, outputs.
SHAPE = (50, 20, 8, 3)
SYMMETRIES = {
    "permutation": "hidden units in another order",
    "sign": "all signs of a hidden unit changed (tanh)",
    "scale": "incoming weights times c, outgoing weights divided by c (ReLU)",
}


def main(run: Run, lr: float = 0.1, data: Callable[..., FashionMNIST] = FashionMNIST) -> None:
    """Train models from equal initial weights, and change weights without a change of outputs (4.8.1).

    Args:
        run: The run.
        lr: Learning rate of minibatch SGD.
        data: The data.
    """
    require_positive(lr=lr)
    images = data(seed=run.seed)
    images.setup()
    n, d, h, q = SHAPE
    draw = partial(torch.randn, dtype=torch.float64, generator=data_generator(run.seed))
    errors = symmetry_errors(draw(n, d), draw(d, h), draw(h), draw(h, q))
    X, y = images.examples(images.rows["train"][:ROWS])
    regression = {
        "softmax regression": (lambda: SoftmaxRegression(lr=lr), X, y, images.batch_size),
        "linear regression": linear_problem(run.seed, lr),
    }
    equal = {name: train_from_equal(run, name, *problem) for name, problem in regression.items()}
    spreads, results = break_symmetry(run, images, lr)
    steps = {"": [(NAMES[name], range(1, len(v) + 1), v) for name, v in spreads.items()]}
    labels = ("step", "spread of the weights over the hidden units")
    run.finish(
        {"perceptrons": results, "regression": equal, "symmetries": errors},
        tables=[
            perceptron_table(results, len(spreads["random"])),
            regression_table(equal),
            symmetry_table(errors),
        ],
        figures={"symmetry": partial(curve_figure, "Hidden units that begin alike", steps, *labels)},
    )


def linear_problem(seed: int, lr: float) -> tuple[Callable[[], SupervisedModule], Tensor, Tensor, int]:
    """Return linear regression and the data of Section 3.3."""
    rows = SyntheticRegressionData(seed=seed, num_val=0)
    return lambda: LinearRegression(2, lr), rows.X, rows.y, rows.batch_size


def train_from_equal(
    run: Run, name: str, make: Callable[[], SupervisedModule], X: Tensor, y: Tensor, batch_size: int
) -> dict[str, float]:
    """Return the training losses from random and from equal weights, trained side by side (exercise 2)."""
    members = {"random": make(), **{f"all {value:g}": make() for value in EQUAL}}
    for member, value in zip([*members.values()][1:], EQUAL, strict=True):
        nn.init.constant_(cast(nn.Linear, member.net).weight, value)
    stacked = StackedModule([*members.values()], [start.replace(" ", "_") for start in members])
    rows = [torch.arange(len(y))] * len(members)
    data = StackedData(X, y, {"train": rows, "val": rows}, batch_size, run.seed, same_order=True)
    losses = run.fit(name.replace(" ", "_"), stacked, data, title=name).validate()["val/loss"]
    return dict(zip(members, losses.tolist(), strict=True))


def break_symmetry(
    run: Run, images: FashionMNIST, lr: float
) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Train perceptrons from equal and from random weights.

    Returns the spread of the hidden units' weights after each step, and the results, by name.
    """
    spreads: dict[str, list[float]] = {}
    results = {}
    starts = {"random": None, "alike": WEIGHT, "alike_with_dropout": WEIGHT, "zero": 0.0}
    for name, start in starts.items():
        dropout = DROPOUT if name == "alike_with_dropout" else 0.0
        model = DropoutMLP(784, 10, [UNITS], [dropout], lr, WEIGHT)
        for parameter in model.parameters():
            if start is not None and parameter.ndim == 2:
                nn.init.constant_(parameter, start)
        layer = cast(nn.Linear, model.net[0])
        recorder, before = UnitSpread(layer), layer.weight.detach().clone()
        fit = run.fit(f"symmetry_{name}", model, images, callbacks=[recorder])
        accuracy = fit.validate()["val/accuracy"].item()
        change = (layer.weight.detach().cpu() - before).abs().max().item()
        spreads[name] = recorder.spread
        results[name] = {"spread": recorder.spread[-1], "change": change, "val_accuracy": accuracy}
    return spreads, results


def perceptron_table(results: Mapping[str, Mapping[str, float]], num_steps: int) -> Table:
    """Return the spread of the hidden units and the accuracy, for each kind of initial weights."""
    rows = [
        (NAMES[n], f"{r['spread']:.3g}", f"{r['change']:.3g}", f"{r['val_accuracy']:.4f}")
        for n, r in results.items()
    ]
    note = (
        f"The spread is the standard deviation of the weights over {UNITS} hidden units, after {num_steps} "
        "steps. Units that begin alike stay alike, so they do the work of one unit. Dropout breaks the "
        "symmetry. Weights of 0 do not change at all, because all gradients of the weights are 0."
    )
    columns = ("initial weights", "spread", "largest change of a hidden weight", "validation accuracy")
    return Table("perceptrons whose hidden units begin alike", columns, rows, note)


def regression_table(equal: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the losses of linear and softmax regression from equal weights."""
    rows: list[Any] = [(name, *losses.values()) for name, losses in equal.items()]
    columns = ("training loss from initial weights that are", *next(iter(equal.values())))
    note = (
        "Without a hidden layer there is no symmetry to break, and the loss is convex. So equal weights lead "
        "to the same loss. In softmax regression, a number added to all weights does not change predictions."
    )
    return Table("regression from equal weights", columns, rows, note)


def symmetry_table(errors: Mapping[str, float]) -> Table:
    """Return how much each symmetry changes the outputs."""
    rows = [(SYMMETRIES[name], f"{error:.1e}") for name, error in errors.items()]
    note = (
        "Training cannot leave the weights that a symmetry does not change: equal hidden units for the "
        "order, and weights of 0 for the signs."
    )
    return Table("symmetries", ("change of the weights", "relative change of the outputs"), rows, note)


if __name__ == "__main__":
    run_experiment(main)
