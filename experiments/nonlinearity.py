"""What a nonlinearity is for: layers that collapse, linear pieces, and a nonlinearity of a batch (4.1)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from d2l_lightning.data.batches import data_generator
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError, require_positive
from d2l_lightning.functional import piecewise_linear as formulas
from d2l_lightning.functional.activations import relu
from d2l_lightning.functional.linear import least_squares_with_bias, linear
from d2l_lightning.functional.regression import squared_loss
from d2l_lightning.models.prelu_regression import PReLURegression
from d2l_lightning.plots import nonlinearity as plots
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run

import torch
from torch import Tensor

# The slopes of pReLU for negative arguments, by the name of the nonlinearity.
ALPHAS = {"no nonlinearity": 1.0, "pReLU, slope 0.25": 0.25, "ReLU": 0.0}
# Nonlinearities of a batch of numbers, the number that they are computed for, and batches of each size.
BATCHWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU": relu,
    "standardised over the batch": formulas.standardize,
    "softmax over the batch": lambda X: X.softmax(dim=1),
}
NUMBER, BATCHES, BATCH_SIZES = 1.0, 1000, (2, 4, 8, 16, 32, 64, 128, 256)
# The perceptron that is collapsed: inputs, hidden units, outputs; and the rows it is computed for.
LAYERS, ROWS = (20, 5, 10), 100


def sine_model(alpha: float, **model: Any) -> PReLURegression:
    """Return a perceptron of one input."""
    return PReLURegression(1, alpha=alpha, **model)


def main(
    run: Run,
    num_rows: int = 256,
    waves: float = 1.5,
    batch_size: int = 32,
    model: Callable[..., PReLURegression] = sine_model,
) -> None:
    """Train perceptrons with and without a nonlinearity, count their linear pieces, and more (4.1).

    Args:
        run: The run.
        num_rows: Training rows: x from -1 to 1, and the sine of x.
        waves: Waves of the sine.
        batch_size: Rows in a batch.
        model: The model.
    """
    require_positive(num_rows=num_rows, batch_size=batch_size, waves=waves)
    if num_rows < 3:
        raise InputError(f"num_rows must be at least 3, not {num_rows}")
    x = torch.linspace(-1, 1, num_rows)
    X, y = x[:, None], (waves * torch.pi * x).sin()
    members = [model(alpha) for alpha in ALPHAS.values()]
    for member in members[1:]:
        member.load_state_dict(members[0].state_dict())
    stacked = StackedModule(members, ["none", "prelu", "relu"])
    rows = [torch.arange(num_rows)] * len(members)
    data = StackedData(X, y, {"train": rows, "val": rows}, batch_size, run.seed, same_order=True)
    losses = run.fit("perceptrons", stacked, data, title="perceptrons").validate()["val/loss"].tolist()
    trained = dict(zip(ALPHAS, cast(list[PReLURegression], stacked.unstack()), strict=True))
    w, b = least_squares_with_bias(X.double(), y.double())
    line = squared_loss(linear(X.double(), w, b), y.double()).mean().item()
    fits = {
        name: {"loss": loss, **formulas.pieces(*member.layers(), member.alpha.double(), -1.0, 1.0)}
        for (name, member), loss in zip(trained.items(), losses, strict=True)
    }
    generator = data_generator(run.seed)
    draw = partial(torch.randn, dtype=torch.float64, generator=generator)
    d, h, q = LAYERS
    collapsed = formulas.compare_collapsed(draw(ROWS, d), [draw(d, h), draw(h, q)], [draw(h), draw(q)])
    spreads = {name: batch_spread(nonlinearity, generator) for name, nonlinearity in BATCHWISE.items()}
    dense = torch.linspace(-1, 1, 2001)
    with torch.no_grad():
        predictions = {
            name: member.cpu()(dense[:, None].to(member.dtype)).float() for name, member in trained.items()
        }
    target = (waves * torch.pi * dense).sin()
    kinks = {name: of_fit["kinks"] for name, of_fit in fits.items()}
    run.finish(
        {"collapse": collapsed, "straight_line_loss": line, "fits": fits, "batch": spreads},
        checkpoints=dict(zip(("none", "prelu", "relu"), trained.values(), strict=True)),
        tables=[collapse_table(collapsed), fits_table(fits, line), batch_table(spreads)],
        figures={
            "fits": partial(plots.fits, dense, target, predictions, kinks),
            "batch_dependence": partial(plots.batch_dependence, spreads, NUMBER),
        },
    )


def batch_spread(
    nonlinearity: Callable[[Tensor], Tensor], generator: torch.Generator
) -> dict[str, list[float]]:
    """Return the mean and the standard deviation of the output for one number, for each batch size."""
    moments = [
        formulas.spread_over_batches(nonlinearity, NUMBER, size, BATCHES, generator) for size in BATCH_SIZES
    ]
    mean, std = zip(*moments, strict=True)
    return {"batch_size": [*map(float, BATCH_SIZES)], "mean": [*mean], "std": [*std]}


def collapse_table(collapsed: Mapping[str, float]) -> Table:
    """Return how two layers compare with the one layer of weights W1 W2 and bias b1 W2 + b2."""
    d, h, q = LAYERS
    rows = [
        ("largest output of the two layers", f"{collapsed['largest_output']:.3g}"),
        ("largest difference from the one layer, no nonlinearity", f"{collapsed['largest_difference']:.1e}"),
        (
            "largest difference from the one layer, with ReLU",
            f"{collapsed['largest_difference_with_relu']:.3g}",
        ),
        ("rank of W1 W2", f"{collapsed['rank']}"),
        (
            "parameters of two layers, of one layer",
            f"{collapsed['parameters']}, {collapsed['parameters_of_one_layer']}",
        ),
    ]
    note = (
        "Without a nonlinearity, two layers compute what one layer with the weights W1 W2 and the bias "
        f"b1 W2 + b2 computes. The rank of W1 W2 is at most {h}, the number of hidden units, so two layers "
        "can even do less than one layer."
    )
    return Table(f"two random layers, {d} inputs, {h} hidden units, {q} outputs", ("", ""), rows, note)


def fits_table(fits: Mapping[str, Mapping[str, Any]], line: float) -> Table:
    """Return the losses of the trained perceptrons, and their linear pieces."""
    rows = [
        (
            name,
            fit["loss"],
            str(len(fit["kinks"]) + 1),
            *(f"{fit[f'second_difference_{where}']:.1e}" for where in ("within", "over_all")),
        )
        for name, fit in fits.items()
    ]
    note = (
        f"The best straight line has a loss of {line:.6f}; without a nonlinearity, no perceptron has less. "
        "Second differences are 0, but for rounding errors, within each piece: it is linear. Those over the "
        "whole range are not, where there are kinks."
    )
    columns = ("", "loss", "linear pieces", "second difference within pieces", "over the whole range")
    return Table("perceptrons trained on a sine", columns, rows, note)


def batch_table(spreads: Mapping[str, Mapping[str, Sequence[float]]]) -> Table:
    """Return the outputs for one number in batches of other numbers."""
    rows = [
        (f"{size}", *(f"{of_name['mean'][i]:.4f} ± {of_name['std'][i]:.4f}" for of_name in spreads.values()))
        for i, size in enumerate(BATCH_SIZES)
    ]
    note = (
        f"The output for x = {NUMBER:g}: mean ± standard deviation over {BATCHES} batches, whose other "
        "numbers are standard normal. ReLU acts on each number alone. The other two depend on the rest of "
        "the batch and on its size. So a prediction changes with the rows that it is computed with, and the "
        "rows of a batch cannot be computed separately. One row alone cannot be standardised: this is 0 / 0."
    )
    return Table("a nonlinearity of a batch", ("batch size", *spreads), rows, note)


if __name__ == "__main__":
    run_experiment(main)
