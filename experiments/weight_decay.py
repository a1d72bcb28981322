"""Weight decay where features outnumber rows: from scratch, by the optimizer, over lambda (3.7, 4.5)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, Literal, cast

from d2l_lightning.data.regression import HighDimensionalData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError, require_not_negative, require_positive
from d2l_lightning.functional.linear import linear
from d2l_lightning.functional.penalties import l2_penalty
from d2l_lightning.functional.regression import squared_loss
from d2l_lightning.functional.selection import (
    choose_by_validation_sets,
    most_probable_weights,
    prior_deviation,
)
from d2l_lightning.models.linear_regression import LinearRegression, LinearRegressionScratch
from d2l_lightning.models.weight_decay import Lasso, Penalty, WeightDecay, WeightDecayScratch
from d2l_lightning.plots.regression import HALF_SQUARE, regularization_path
from d2l_lightning.plots.style import Curve, curve_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run

import numpy as np
import torch
from torch import Tensor

# What the sections print, by model and lambda: half the squared norm in 3.7, the norm in 4.5.
BOOK = {
    "3.7": {("scratch", 0.0): "0.009949", ("scratch", 3.0): "0.001727", ("concise", 3.0): "0.01378"},
    "4.5": {("scratch", 0.0): "13.26", ("scratch", 3.0): "0.3825", ("concise", 0.0): "15.01"},
}
NOTE = (
    "Losses are half the squared error, without the penalty. With --concise_loss squared, the concise model "
    "learns the whole squared error, so its steps are twice as long. Its value in Section 3.7 needs the "
    "initial weights of PyTorch's layer, which it has without --concise_sigma."
)
NOTE_PRIOR = (
    "The exact solution of weight decay. With normal noise, these are the most probable weights if each of "
    "them has a normal prior with mean 0 and this standard deviation (std.)."
)
# Exercise 2: validation sets that choose lambda, and the most rows of each.
SETS, MOST_ROWS = 25, 1000
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
        concise_sigma: Standard deviation of its normal initial weights. If not given, the initial weights of
            PyTorch's linear layer.
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
        l1_lambdas: The regularization constants of the l1 fits, as in `--l1_lambdas 0.05 0.1`.
        path_members: Number of constants on the path over lambda, trained side by side; 0 for no path.
        path_from: The smallest constant on the path.
        path_to: The largest constant on the path. The logarithms of the constants are evenly spaced.
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
    results: dict[str, Any] = {
        "fits": [found for found, _ in fits.values()],
        "priors": [prior(lambd, rows) for lambd in lambdas if lambd > 0],
    }
    figures, notes = {}, []
    if lambdas:
        panels = {f"lambda {x:g}": fits["scratch", x][1] + fits["concise", x][1] for x in lambdas}
        labels = ("Weight decay: loss after each epoch", panels, "epoch", HALF_SQUARE)
        figures["learning_curves"] = partial(curve_figure, *labels, yscale="log", legend="each")
    if grid:
        new = data(seed=run.seed + 1, num_train=SETS * min(rows.num_val, MOST_ROWS), num_val=0)
        path, excess = fit_path(run, rows, grid, [make("scratch", lambd) for lambd in grid], new)
        results |= {"path": path, "choice": excess}
        figures["path"] = partial(regularization_path, path)
        notes = choice_notes(path, excess, len(new.y))
    tables = [comparison(results["fits"], book)] if models else []
    tables += [prior_table(results["priors"])] if results["priors"] else []
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
    run: Run,
    data: HighDimensionalData,
    grid: Sequence[float],
    members: Sequence[Model],
    new: HighDimensionalData,
) -> tuple[dict[str, Sequence[float]], dict[str, list[float]]]:
    """Return losses and norms over lambda, of members that are trained side by side, and choices of lambda.

    The choices are those of validation sets that are parts of the new rows.
    """
    stacked = StackedModule(members, [f"{k}_lambda_{lambd:.3g}" for k, lambd in enumerate(grid, start=1)])
    rows = {stage: [of_stage] * len(grid) for stage, of_stage in data.rows.items()}
    stacked_data = StackedData(data.X, data.y, rows, data.batch_size, run.seed, same_order=True)
    metrics = run.fit("path", stacked, stacked_data, title=f"path over {len(grid)} lambdas").validate()
    weights = [[each.cpu() for each in cast(Model, member).get_w_b()] for member in stacked.unstack()]
    new_losses = torch.stack([losses_of(w, b, new) for w, b in weights])
    chosen, excess = choose_by_validation_sets(new_losses, SETS)
    losses = {loss: metrics[metric].tolist() for loss, metric in METRICS.items()}
    losses["new_loss"] = new_losses.mean(dim=1).tolist()
    norms = [w.norm().item() for w, _ in weights]
    choice = {"lambda": [grid[place] for place in chosen.tolist()], "excess": excess.tolist()}
    return {"lambda": grid, **losses, "w_norm": norms}, choice


def losses_of(w: Tensor, b: Tensor, data: HighDimensionalData) -> Tensor:
    """Return half the squared error of each row, float64."""
    return squared_loss(linear(data.X.double(), w.double(), b.double()), data.y.double())


def choice_notes(
    path: Mapping[str, Sequence[float]], choice: Mapping[str, Sequence[float]], num_new: int
) -> list[str]:
    """Return sentences on the best lambda (exercise 2)."""
    chosen, best = (min(zip(path[loss], path["lambda"], strict=True))[1] for loss in ("val_loss", "new_loss"))
    loss, least = (path["new_loss"][path["lambda"].index(lambd)] for lambd in (chosen, best))
    low, high, worst = min(choice["lambda"]), max(choice["lambda"]), max(choice["excess"])
    least_of = f"the least is {least:.4g}, at lambda {best:.3g}"
    sets = f"{SETS} other validation sets of {num_new // SETS:,} rows"
    above = f"the losses are at most {worst:.1%} above the least"
    return [
        f"Of the path, the validation rows choose lambda {chosen:.3g}.",
        f"Its loss on {num_new:,} new rows is {loss:.4g}; {least_of}.",
        f"{sets} choose lambdas from {low:.3g} to {high:.3g}; on all new rows, {above}.",
    ]


def prior(lambd: float, data: HighDimensionalData) -> dict[str, float]:
    """Return the normal prior that lambda stands for, and the most probable weights' norm and losses."""
    X, y = data.X[: data.num_train], data.y[: data.num_train]
    noise = (data.y - linear(data.X, data.w, data.b)).std().item()
    deviation = prior_deviation(lambd, noise, len(X)).item()
    w, b = most_probable_weights(X, y, noise, deviation)
    losses = losses_of(w, b, data).split([len(X), data.num_val])
    found = {"train_loss": losses[0].mean().item(), "val_loss": losses[1].mean().item()}
    return {"lambda": lambd, "prior_std": deviation, "w_norm": w.norm().item(), **found}


def prior_table(priors: Sequence[Mapping[str, float]]) -> Table:
    """Return the priors of the constants, and the most probable weights (exercise 6)."""
    rows = [[f"{value:.4g}" for value in each.values()] for each in priors]
    columns = ("lambda", "prior: std. of a weight", "norm of w", "train loss", "val loss")
    return Table("weight decay as a prior", columns, rows, NOTE_PRIOR)


def comparison(fits: Sequence[Mapping[str, Any]], book: str) -> Table:
    """Return the sizes of the weights beside the book's, and the losses."""
    size, name = ("l2_penalty", "half the squared norm") if book == "3.7" else ("w_norm", "norm")
    rows: list[list[str]] = []
    for fit in fits:
        kind, lambd, losses = fit["model"], fit["lambda"], [f"{fit[loss]:.3g}" for loss in METRICS]
        printed = BOOK[book].get((kind, lambd), "")
        rows.append([kind, f"{lambd:g}", f"{fit[size]:.4g}", printed, str(fit["zero_weights"]), *losses])
    columns = (
        *("model", "lambda", f"{name} of w", f"book ({book})", "weights at 0"),
        *("train loss", "val loss"),
    )
    return Table("weight decay", columns, rows, NOTE)


if __name__ == "__main__":
    run_experiment(main)
