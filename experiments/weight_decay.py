"""Weight decay where features outnumber rows: from scratch, by the optimizer, over lambda (3.7, 4.5)."""

from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
import torch
from matplotlib.figure import Figure

from d2l_lightning.callbacks.history import History
from d2l_lightning.data.regression import HighDimensionalData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError, require_not_negative, require_positive
from d2l_lightning.figures import draw_curves, log_scale, panels
from d2l_lightning.functional.penalties import l2_penalty
from d2l_lightning.models.linear_regression import LinearRegression, LinearRegressionScratch
from d2l_lightning.models.weight_decay import Lasso, WeightDecay, WeightDecayScratch
from d2l_lightning.run import Run, run_experiment

# What the sections print, by model and lambda: half the squared norm in 3.7, the norm in 4.5.
BOOK_PENALTY = {("scratch", 0.0): 0.009949, ("scratch", 3.0): 0.001727, ("concise", 3.0): 0.013780}
BOOK_NORM = {("scratch", 0.0): 13.259391, ("scratch", 3.0): 0.382491, ("concise", 0.0): 15.01407}


def main(
    run: Run,
    num_inputs: int,
    num_train: int,
    num_val: int,
    batch_size: int,
    lr: float,
    sigma: float,
    concise_sigma: float | None,
    concise_loss: Literal["squared", "half_squared"],
    lambdas: list[float],
    l1_lambdas: list[float],
    path_members: int,
    path_from: float,
    path_to: float,
    book: Literal["3.7", "4.5"],
) -> None:
    """Hold weights small on data with more features than rows, for one lambda and for many (3.7, 4.5).

    Args:
        run: The run.
        num_inputs: Number of features.
        num_train: Number of rows to train on.
        num_val: Number of rows to validate on.
        batch_size: Rows in a batch.
        lr: Learning rate of minibatch SGD.
        sigma: Standard deviation of the initial weights of the models from scratch.
        concise_sigma: The same of the concise model; null for the layer's own way to begin.
        concise_loss: Loss of the concise model: the framework's squared error, or half of it.
        lambdas: The regularization constants of the l2 fits, as in `--lambdas 0 3`.
        l1_lambdas: Those of the l1 fits; none for no such fits.
        path_members: How many constants the path over lambda has, trained side by side; 0 for no path.
        path_from: The least of them.
        path_to: The greatest of them; those between are evenly spaced in their logarithm.
        book: The section whose printed figures stand beside this run's.
    """
    require_not_negative(
        lambdas=min(lambdas, default=0.0), l1_lambdas=min(l1_lambdas, default=0.0), path_members=path_members
    )
    for name, values in {"lambdas": lambdas, "l1_lambdas": l1_lambdas}.items():
        if len(set(values)) < len(values):
            raise InputError(f"{name} must name each constant once, not {values}")
    require_positive(num_val=num_val)
    require_not_negative(concise_sigma=concise_sigma or 0.0)
    if not (lambdas or l1_lambdas or path_members):
        raise InputError("there is nothing to fit: lambdas, l1_lambdas and path_members are all empty")
    if path_members:
        require_positive(path_from=path_from, path_to=path_to)
        if not path_from < path_to or path_members < 2:
            raise InputError(
                f"the path needs at least 2 members and path_from below path_to: {path_members} members "
                f"from {path_from} to {path_to}"
            )
    data = HighDimensionalData(num_inputs, num_train, num_val, batch_size, run.seed, watch_train=True)

    makers: dict[str, Callable[[float], LinearRegression | LinearRegressionScratch]] = {
        "scratch": lambda lambd: WeightDecayScratch(num_inputs, lambd, lr, sigma),
        "concise": lambda lambd: WeightDecay(num_inputs, lambd, lr, concise_loss, concise_sigma),
        "l1 subgradient": lambda lambd: WeightDecayScratch(num_inputs, lambd, lr, sigma, "l1"),
        "l1 proximal": lambda lambd: Lasso(num_inputs, lambd, lr, sigma),
    }
    models = []  # all of them before any is trained, so that what is wrong is told at once
    for kind, make in makers.items():
        for lambd in l1_lambdas if kind.startswith("l1") else lambdas:
            torch.manual_seed(run.seed)  # those that begin alike begin with the same weights
            models.append((kind, lambd, make(lambd)))

    fits = []
    for kind, lambd, model in models:
        model.log_prefix = f"{kind.replace(' ', '_')}_lambda_{lambd}/"
        trainer = run.trainer(f"{kind}, lambda {lambd:g}")
        trainer.fit(model, data)
        found = run.evaluate(model, data)
        w = model.get_w_b()[0]
        fits.append(
            {
                "model": kind,
                "lambda": lambd,
                "w_norm": w.norm().item(),
                "l2_penalty": l2_penalty(w).item(),
                "zero_weights": int((w == 0).sum()),
                "train_loss": found["train/squared_loss"].item(),
                "val_loss": found["val/squared_loss"].item(),
            }
        )

    results: dict[str, Any] = {"fits": fits}
    if fits:
        show_table(run, fits, book, concise_sigma, concise_loss)
    if lambdas:
        run.figure(learning_curves(run.history, lambdas), "learning_curves")
    if path_members:
        grid = np.geomspace(path_from, path_to, path_members).tolist()
        results["path"] = path(run, data, grid, lr, sigma)
        run.figure(draw_path(results["path"]), "path")
        best = min(zip(results["path"]["val_loss"], grid, strict=True))
        print(f"the least validation loss on the path, {best[0]:.6f}, is at lambda {best[1]:.3g}")
    run.finish(results)


def path(run: Run, data: HighDimensionalData, grid: list[float], lr: float, sigma: float) -> dict[str, Any]:
    """Return losses and norms over lambda, of members trained side by side from the same initial weights."""
    d = data.X.shape[1]
    torch.manual_seed(run.seed)  # the weights that the model from scratch begins with
    start = LinearRegressionScratch(d, sigma=sigma).state_dict()
    members = [WeightDecayScratch(d, lambd, lr, sigma) for lambd in grid]
    for member in members:
        member.load_state_dict(start)
    stacked = StackedModule(members, [f"{k}_lambda_{lambd:.3g}" for k, lambd in enumerate(grid, start=1)])
    stacked.log_prefix = "path/"
    rows = {stage: [of_stage] * len(grid) for stage, of_stage in data.rows.items()}
    side_by_side = StackedData(data.X, data.y, rows, data.batch_size, run.seed, same_order=True)
    trainer = run.trainer(f"path over {len(grid)} lambdas")
    trainer.fit(stacked, side_by_side)
    found = run.evaluate(stacked, side_by_side)
    return {
        "lambda": grid,
        "train_loss": found["train/squared_loss"].tolist(),
        "val_loss": found["val/squared_loss"].tolist(),
        "w_norm": [
            member.get_w_b()[0].norm().item() for member in cast(list[WeightDecayScratch], stacked.unstack())
        ],
    }


def show_table(
    run: Run, fits: list[dict[str, Any]], book: str, concise_sigma: float | None, concise_loss: str
) -> None:
    """Print the fits beside the book's figures."""
    printed, figure = (BOOK_PENALTY, "l2_penalty") if book == "3.7" else (BOOK_NORM, "w_norm")
    rows = []
    for found in fits:
        theirs = printed.get((found["model"], found["lambda"]))
        rows.append(
            (
                found["model"],
                f"{found['lambda']:g}",
                f"{found[figure]:.4g}",
                f"{theirs:.4g}" if theirs else "",
                str(found["zero_weights"]),
                *(f"{found[name]:.3g}" for name in ("train_loss", "val_loss")),
            )
        )
    norm = "|w|²/2" if figure == "l2_penalty" else "|w|"
    columns = ("model", "lambda", norm, "book", "zeros", "train", "val")
    notes = ["Train and val are half the squared error, without the penalty."]
    if concise_loss == "squared":
        notes.append("The concise model minimises the whole of it: its steps are twice as long.")
    if concise_sigma is None:
        notes.append(
            "Its initial weights are the layer's own, uniform and larger than sigma: the book's text leaves "
            "this open, its printed figure does not (see --concise_sigma)."
        )
    run.table("weight decay", columns, rows, " ".join(notes))


def learning_curves(history: History, lambdas: list[float]) -> Figure:
    """Draw the losses of the l2 fits, a panel for each lambda."""
    figure, axes = panels(
        [f"lambda {each:g}" for each in lambdas],
        "Weight decay: loss after each epoch",
        "epoch",
        "half the squared error",
    )
    for panel, each in zip(axes, lambdas, strict=True):
        curves = [
            (f"{model}, {rows}", *history.curve(f"{model}_lambda_{each}/{stage}/squared_loss"))
            for model in ("scratch", "concise")
            for rows, stage in (("training rows", "train"), ("validation rows", "val"))
        ]
        draw_curves(panel, curves)
        log_scale(panel)
        panel.legend(frameon=False, fontsize="small")
    return figure


def draw_path(told: dict[str, list[float]]) -> Figure:
    """Draw losses and norm over lambda."""
    figure, axes = panels(
        ["loss", "size of the weights"],
        f"Weight decay: {len(told['lambda'])} values of lambda, trained side by side",
        "lambda",
        ["half the squared error", "Euclidean norm of w"],
    )
    grid = told["lambda"]
    draw_curves(
        axes[0], [("training rows", grid, told["train_loss"]), ("validation rows", grid, told["val_loss"])]
    )
    least = min(zip(told["val_loss"], grid, strict=True))
    axes[0].plot(*reversed(least), "o", color="black", label=f"least, at lambda {least[1]:.3g}")
    axes[0].legend(frameon=False)
    draw_curves(axes[1], [("", grid, told["w_norm"])])
    for panel in axes:
        log_scale(panel, "x")
        log_scale(panel, "y")
    return figure


if __name__ == "__main__":
    run_experiment(main)
