"""Weight decay where features outnumber rows: from scratch, by the optimizer, over lambda (3.7, 4.5)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, Literal, cast

from d2l_lightning.data.regression import HighDimensionalData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError, require_not_negative, require_positive
from d2l_lightning.functional.penalties import l2_penalty
from d2l_lightning.models.linear_regression import LinearRegression, LinearRegressionScratch
from d2l_lightning.models.weight_decay import Lasso, Penalty, WeightDecay, WeightDecayScratch
from d2l_lightning.plots.regression import HALF_SQUARE, regularization_path
from d2l_lightning.plots.style import Curve, curve_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run

import numpy as np
import torch

# What the sections print, by model and lambda: half the squared norm in 3.7, the norm in 4.5.
BOOK = {
    "3.7": {("scratch", 0.0): "0.009949", ("scratch", 3.0): "0.001727", ("concise", 3.0): "0.01378"},
    "4.5": {("scratch", 0.0): "13.26", ("scratch", 3.0): "0.3825", ("concise", 0.0): "15.01"},
}
NOTE = (
    "Train and val are half the squared error, without the penalty. The concise model's steps are twice as "
    "long if its loss is squared. Its value in Section 3.7 needs the layer's own initial weights."
)
METRICS = {"train_loss": "train/squared_loss", "val_loss": "val/squared_loss"}
Model = LinearRegression | LinearRegressionScratch


def high_dimensional_data(**data: Any) -> HighDimensionalData:
    """Return the data; validation includes the training rows."""
    return HighDimensionalData(watch_train=True, **data)


def scratch_model(num_inputs: int, lambd: float, penalty: Penalty, **model: Any) -> WeightDecayScratch:
    """Return the model from scratch."""
    return WeightDecayScratch(num_inputs, lambd, penalty=penalty, **model)


def concise_model(
    num_inputs: int,
    wd: float,
    concise_loss: Literal["squared", "half_squared"] = "squared",
    concise_sigma: float | None = None,
    **model: Any,
) -> WeightDecay:
    """Return the concise model.

    Args:
        num_inputs: Number of features.
        wd: The regularization constant.
        concise_loss: Loss of the concise model: the framework's squared error, or half of it.
        concise_sigma: Standard deviation of its initial weights; null for the layer's own initialization.
        model: Other arguments of ``WeightDecay``.
    """
    require_not_negative(concise_sigma=concise_sigma or 0.0)
    return WeightDecay(num_inputs, wd, loss=concise_loss, sigma=concise_sigma, **model)


def main(
    run: Run,
    lambdas: Sequence[float] = (0.0, 3.0),
    l1_lambdas: Sequence[float] = (0.05,),
    path_members: int = 32,
    path_from: float = 0.03,
    path_to: float = 30.0,
    book: Literal["3.7", "4.5"] = "3.7",
    data: Callable[..., HighDimensionalData] = high_dimensional_data,
    scratch: Callable[..., WeightDecayScratch] = scratch_model,
    concise: Callable[..., WeightDecay] = concise_model,
    lasso: Callable[..., Lasso] = Lasso,
) -> None:
    """Keep weights small on data with more features than rows, for one lambda and for many (3.7, 4.5).

    Args:
        run: The run.
        lambdas: The regularization constants of the l2 fits, as in `--lambdas 0 3`.
        l1_lambdas: The regularization constants of the l1 fits; may be empty.
        path_members: Number of constants on the path over lambda, trained side by side; 0 for no path.
        path_from: The least constant on the path.
        path_to: The greatest constant on the path; their logarithms are evenly spaced.
        book: The section whose printed values are shown beside those of this run.
        data: The data.
        scratch: The model with a penalty in its loss.
        concise: The model whose optimizer decays the weights.
        lasso: The model with the proximal step.
    """
    check({"lambdas": lambdas, "l1_lambdas": l1_lambdas}, path_members, path_from, path_to)
    rows = data(seed=run.seed)
    require_positive(num_val=len(rows.rows["val"]))
    makers: dict[str, Callable[..., Model]] = {
        "scratch": partial(scratch, penalty="l2"),
        "concise": concise,
        "l1 subgradient": partial(scratch, penalty="l1"),
        "l1 proximal": lasso,
    }

    def make(kind: str, lambd: float) -> Model:
        torch.manual_seed(run.seed)  # equal initial weights
        return makers[kind](rows.X.shape[1], lambd)

    l2, l1 = product(("scratch", "concise"), lambdas), product(("l1 subgradient", "l1 proximal"), l1_lambdas)
    make("concise", 0.0)  # checks its settings, also where lambdas are empty
    models = {key: make(*key) for key in (*l2, *l1)}  # before the first fit, so that errors appear at once
    grid = np.geomspace(path_from, path_to, path_members).tolist()
    fits = {key: fit(run, *key, model, rows) for key, model in models.items()}
    results: dict[str, Any] = {"fits": [found for found, _ in fits.values()]}
    figures, notes = {}, []
    if lambdas:
        panels = {f"lambda {x:g}": fits["scratch", x][1] + fits["concise", x][1] for x in lambdas}
        labels = ("Weight decay: loss after each epoch", panels, "epoch", HALF_SQUARE)
        figures["learning_curves"] = partial(curve_figure, *labels, yscale="log", legend="each")
    if grid:
        results["path"] = fit_path(run, rows, grid, [make("scratch", lambd) for lambd in grid])
        figures["path"] = partial(regularization_path, results["path"])
        loss, best = min(zip(results["path"]["val_loss"], grid, strict=True))
        notes.append(f"the least validation loss on the path, {loss:.6f}, is at lambda {best:.3g}")
    tables = [comparison(results["fits"], book)] if models else []
    run.finish(results, figures=figures, tables=tables, notes=notes)


def check(constants: Mapping[str, Sequence[float]], members: int, path_from: float, path_to: float) -> None:
    """Raise an InputError if a setting is out of its range."""
    for name, values in constants.items():
        require_not_negative(**{name: min(values, default=0.0)})
        if len(set(values)) < len(values):
            raise InputError(f"{name} must name each constant once, not {values}")
    require_not_negative(path_members=members)
    if not (any(constants.values()) or members):
        raise InputError("there is nothing to fit: lambdas, l1_lambdas and path_members are all empty")
    require_positive(path_from=path_from, path_to=path_to)
    if members and (not path_from < path_to or members < 2):
        what = f"{members} members from {path_from} to {path_to}"
        raise InputError(f"the path needs at least 2 members and path_from below path_to, not {what}")


def fit(
    run: Run, kind: str, lambd: float, model: Model, data: HighDimensionalData
) -> tuple[dict[str, Any], list[Curve]]:
    """Return the size of the weights and the losses of a fit, and its learning curves."""
    name, title = f"{kind.replace(' ', '_')}_lambda_{lambd}", f"{kind}, lambda {lambd:g}"
    fitted = run.fit(name, model, data, title=title)
    metrics = fitted.validate()
    w, _ = model.get_w_b()
    results = {"model": kind, "lambda": lambd, "w_norm": w.norm().item(), "l2_penalty": l2_penalty(w).item()}
    losses = {loss: metrics[metric].item() for loss, metric in METRICS.items()}
    stages = zip(("training rows", "validation rows"), METRICS.values(), strict=True)
    curves: list[Curve] = [(f"{kind}, {rows}", *fitted.curve(metric)) for rows, metric in stages]
    return {**results, "zero_weights": int((w == 0).sum()), **losses}, curves


def fit_path(
    run: Run, data: HighDimensionalData, grid: Sequence[float], members: Sequence[Model]
) -> dict[str, Sequence[float]]:
    """Return losses and norms over lambda, of members that are trained side by side."""
    stacked = StackedModule(members, [f"{k}_lambda_{lambd:.3g}" for k, lambd in enumerate(grid, start=1)])
    rows = {stage: [of_stage] * len(grid) for stage, of_stage in data.rows.items()}
    stacked_data = StackedData(data.X, data.y, rows, data.batch_size, run.seed, same_order=True)
    metrics = run.fit("path", stacked, stacked_data, title=f"path over {len(grid)} lambdas").validate()
    norms = [cast(Model, member).get_w_b()[0].norm().item() for member in stacked.unstack()]
    losses = {loss: metrics[metric].tolist() for loss, metric in METRICS.items()}
    return {"lambda": grid, **losses, "w_norm": norms}


def comparison(fits: Sequence[Mapping[str, Any]], book: str) -> Table:
    """Return the sizes of the weights beside the book's, and the losses."""
    size, symbol = ("l2_penalty", "|w|²/2") if book == "3.7" else ("w_norm", "|w|")
    rows: list[list[str]] = []
    for fit in fits:
        kind, lambd, losses = fit["model"], fit["lambda"], [f"{fit[loss]:.3g}" for loss in METRICS]
        printed = BOOK[book].get((kind, lambd), "")
        rows.append([kind, f"{lambd:g}", f"{fit[size]:.4g}", printed, str(fit["zero_weights"]), *losses])
    columns = ("model", "lambda", symbol, "book", "zeros", "train", "val")
    return Table("weight decay", columns, rows, NOTE)


if __name__ == "__main__":
    run_experiment(main)
