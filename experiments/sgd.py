"""What minibatch SGD needs: starts, learning rates, losses that bear outliers, and shuffling (3.4, 3.5)."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any, cast

from d2l_lightning.data.exercises import draw_sets, sort_first_rows
from d2l_lightning.data.regression import RegressionData, SyntheticRegressionData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError, require_finite, require_not_negative, require_positive
from d2l_lightning.functional.linear import least_squares_with_bias, linear
from d2l_lightning.functional.regression import squared_loss
from d2l_lightning.models.linear_regression import LinearRegression, Loss, SummedLinearRegression
from d2l_lightning.plots.regression import HALF_SQUARE
from d2l_lightning.plots.style import Curve, curve_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run

import torch
from torch import Tensor, nn

SIGMA = 0.01
# Standard deviations of the initial weights (Section 3.4.6, exercise 1).
STARTS = {"zero": 0.0, "variance 1e-4": SIGMA, "variance 1000": math.sqrt(1000)}
CLIP = 1.0  # the norm that gradients are clipped to
LOSSES: dict[str, tuple[Loss, float | None]] = {
    "half the squared error": ("half_squared", None),
    "absolute error": ("absolute", None),
    "Huber": ("huber", None),
    "half the squared error, clipped": ("half_squared", CLIP),
}
ORDERS = {"random": "in random order", "target": "sorted by target", "noise": "sorted by noise"}
DRAWS = 5  # data sets of which medians are taken
AT = (1, 3, 10, 30)  # epochs whose losses are shown
NEAR = 1.1  # a loss is near that of the exact solution, if it is at most so many times as large
HUGE = 1e6  # a loss that is not drawn
VAL_LOSS = "val/squared_loss"


def synthetic_data(**data: Any) -> SyntheticRegressionData:
    """Return the data."""
    return SyntheticRegressionData(
        loader="framework", watch_train=False, drop_last=False, shuffle=True, **data
    )


def main(
    run: Run,
    lr: float = 0.03,
    lrs: Sequence[float] = (0.001, 0.01, 0.03, 0.1, 0.3, 3.0),
    outlier: float = 10_000.0,
    order_lr: float = 0.1,
    order_noise: float = 1.0,
    data: Callable[..., SyntheticRegressionData] = synthetic_data,
) -> None:
    """Train by minibatch SGD from several starts, at several rates, with an outlier, on sorted rows (3.4).

    Args:
        run: The run.
        lr: The learning rate where rates are not compared.
        lrs: The learning rates to compare, as in `--lrs 0.01 0.1`.
        outlier: The value that replaces the fifth target.
        order_lr: The learning rate of the fits on sorted rows.
        order_noise: Standard deviation of the noise in sorted rows. (`--noise` is for the others.)
        data: The data.
    """
    if run.num_processes > 1:
        raise InputError("several devices cannot share the rows of a summed loss; take --devices 1")
    require_not_negative(order_noise=order_noise)
    require_positive(lr=lr, order_lr=order_lr, **{f"lrs[{i}]": rate for i, rate in enumerate(lrs)})
    if not lrs or len(set(lrs)) < len(lrs):
        raise InputError(f"lrs must name each rate once, and at least one, not {list(lrs)}")
    rows = data(seed=run.seed)
    if rows.num_train < 5 or not rows.num_val:
        raise InputError("num_train must be at least 5, for the fifth target, and num_val at least 1")
    require_finite(outlier=torch.tensor(outlier))
    sets, noisy_sets = (
        draw_sets(partial(data, **noise), DRAWS, len(rows.y), run.seed)
        for noise in ({}, {"noise": order_noise})
    )
    rates, curves = compare_rates(run, rows, lr, lrs)
    summed = compare_sums(run, rows, lr)
    outliers = compare_losses(run, rows, *sets, lr, outlier)
    orders, panels = compare_orders(run, rows, *noisy_sets, order_lr)
    titles = (
        "Minibatch SGD: loss after each epoch",
        f"Sorted rows, learning rate {order_lr:g}: loss after each epoch",
    )
    labels = ("epoch", f"{HALF_SQUARE}, validation rows")
    figures = zip(("learning_curves", "order"), titles, (curves, panels), strict=True)
    run.finish(
        {**rates, "summed": summed, "outlier": outliers, "order": orders},
        tables=tables(rates, summed, outliers, orders, outlier),
        figures={
            name: partial(curve_figure, title, shown, *labels, yscale="log", legend="beside")
            for name, title, shown in figures
        },
    )


def distance(model: LinearRegression, rows: SyntheticRegressionData) -> float | None:
    """Return the distance of a model's weights and bias from the true ones; None if it diverged."""
    w, b = (each.cpu() for each in model.get_w_b())
    error = torch.cat([w - rows.w, (b - rows.b).view(1)]).norm().item()
    return error if math.isfinite(error) else None


def fit_members(
    run: Run, name: str, members: Mapping[str, LinearRegression], rows: SyntheticRegressionData,
    X: Tensor, y: Tensor, shuffle: bool = True, clip: float | None = None,
) -> tuple[dict[str, Curve], dict[str, float | None]]:  # fmt: skip
    """Train members side by side on shared or own data; return curves of the loss, and errors, by name."""
    stages = {stage: [of_stage] * len(members) for stage, of_stage in rows.rows.items()}
    data = StackedData(X, y, stages, rows.batch_size, run.seed, same_order=True, shuffle=shuffle)
    stacked = StackedModule(list(members.values()), list(members), raise_on_divergence=False)
    fit = run.fit(name, stacked, data, gradient_clip_val=clip)
    trained = zip(members, stacked.unstack(), strict=True)
    errors = {member: distance(cast(LinearRegression, model), rows) for member, model in trained}
    curves: dict[str, Curve] = {}
    for member in members:
        points = zip(*fit.curve(f"{VAL_LOSS}/{member}"), strict=True)
        finite = {epoch: loss for epoch, loss in points if loss < HUGE}
        shown = f"{member}, diverges" if errors[member] is None else member
        curves[member] = (shown, list(finite), list(finite.values()))
    return curves, errors


def compare_rates(
    run: Run, rows: SyntheticRegressionData, lr: float, lrs: Sequence[float]
) -> tuple[dict[str, dict[str, Any]], dict[str, list[Curve]]]:
    """Train with several rates and from several starts; return results and curves (3.4.6, exercises 1, 6)."""
    kinds = {"rates": {f"lr {rate:g}": (rate, SIGMA) for rate in lrs}}
    kinds["starts"] = {name: (lr, sigma) for name, sigma in STARTS.items()}
    members = {}
    for name, (rate, sigma) in {**kinds["rates"], **kinds["starts"]}.items():
        torch.manual_seed(run.seed)  # equal initial weights, up to their size
        members[name] = LinearRegression(len(rows.w), rate, "half_squared", SIGMA)
        nn.init.normal_(members[name].net.weight, std=sigma)
    n = rows.num_train
    w, b = least_squares_with_bias(rows.X[:n], rows.y[:n])
    least = squared_loss(linear(rows.X[n:], w, b), rows.y[n:]).mean().item()
    curves, errors = fit_members(run, "rates", members, rows, rows.X, rows.y)
    results: dict[str, dict[str, Any]] = {"exact": {"loss": least}}
    for kind, names in kinds.items():
        losses = [dict(zip(*curves[name][1:], strict=True)) for name in names]
        near = [[epoch for epoch, loss in each.items() if loss <= NEAR * least] for each in losses]
        results[kind] = {
            "names": list(names),
            "losses": {str(at): [each.get(at) for each in losses] for at in AT},
            "epochs_needed": [epochs[0] if epochs else None for epochs in near],
            "error": [errors[name] for name in names],
        }
    title = {"rates": "learning rates", "starts": f"initial weights, learning rate {lr:g}"}
    return results, {title[kind]: [curves[name] for name in names] for kind, names in kinds.items()}


def compare_sums(run: Run, rows: SyntheticRegressionData, lr: float) -> dict[str, float]:
    """Return how far a summed loss with ``lr / batch_size`` ends from the mean loss (3.5.6, exercise 1)."""
    differences = {}
    for name, drop_last in (("kept", False), ("dropped", True)):
        n, batch_size = rows.num_train, rows.batch_size
        data = RegressionData(rows.X[:n], rows.y[:n], n, batch_size, run.seed, drop_last=drop_last)
        weights = []
        for kind, rate in ((LinearRegression, lr), (SummedLinearRegression, lr / batch_size)):
            torch.manual_seed(run.seed)
            model = kind(len(rows.w), rate, "half_squared")
            run.fit(f"{kind.__name__}_{name}", model, data, max_epochs=3)
            weights.append(torch.cat([w.view(-1) for w in model.get_w_b()]))
        differences[name] = (weights[0] - weights[1]).abs().max().item()
    return differences


def compare_losses(
    run: Run, rows: SyntheticRegressionData, X: Tensor, y: Tensor, lr: float, outlier: float
) -> dict[str, dict[str, float | None]]:  # fmt: skip
    """Return median errors by loss, on regular rows and where one target is wrong (3.4.6, exercise 8)."""
    wrong = y.clone()
    wrong[:, 4] = outlier
    names = [f"{kind}_{draw}" for kind in ("regular", "outlier") for draw in range(1, DRAWS + 1)]
    X, y = X.repeat(2, 1, 1), torch.cat([y, wrong])
    results = {}
    for title, (loss, clip) in LOSSES.items():
        members = {name: LinearRegression(len(rows.w), lr, loss) for name in names}
        _, errors = fit_members(run, title.replace(" ", "_"), members, rows, X, y, clip=clip)
        results[title] = medians(errors)
    return results


def compare_orders(
    run: Run, rows: SyntheticRegressionData, X: Tensor, y: Tensor, lr: float
) -> tuple[dict[str, dict[str, float | None]], dict[str, list[Curve]]]:
    """Return median errors and curves on rows in several orders, shuffled or not (3.4.6, exercise 9)."""
    n = rows.num_train
    noise = y - (X @ rows.w + rows.b)
    keys = {"random": torch.arange(n).expand(DRAWS, -1), "target": y[:, :n], "noise": noise[:, :n]}
    X, y = map(torch.cat, zip(*(sort_first_rows(X, y, key) for key in keys.values()), strict=True))
    names = [f"{kind}_{draw}" for kind in keys for draw in range(1, DRAWS + 1)]
    results: dict[str, dict[str, float | None]] = {}
    panels: dict[str, list[Curve]] = {f"rows {title}": [] for title in ORDERS.values()}
    for name, shuffle in (("shuffled in each epoch", True), ("not shuffled", False)):
        members = {each: LinearRegression(len(rows.w), lr, "half_squared") for each in names}
        curves, errors = fit_members(run, name.replace(" ", "_"), members, rows, X, y, shuffle)
        results[name] = medians(errors)
        for kind, title in ORDERS.items():
            panels[f"rows {title}"].append((name, *curves[f"{kind}_1"][1:]))
    return results, panels


def medians(errors: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the median over the draws of each kind, None if most diverged, from errors by ``KIND_DRAW``."""
    values: dict[str, list[float]] = {}
    for name, error in errors.items():
        values.setdefault(name.rpartition("_")[0], []).append(math.inf if error is None else error)
    found = {kind: median(of_kind) for kind, of_kind in values.items()}
    return {kind: value if math.isfinite(value) else None for kind, value in found.items()}


def tables(
    rates: Mapping[str, Any], summed: Mapping[str, float], outliers: Mapping[str, Any],
    orders: Mapping[str, Any], outlier: float,
) -> Iterator[Table]:  # fmt: skip
    """Yield a table for each exercise."""
    for kind, title in (("rates", "learning rates"), ("starts", "initial weights")):
        cells = []
        r = rates[kind]
        for k, name in enumerate(r["names"]):
            losses = ["" if loss[k] is None else f"{loss[k]:.3g}" for loss in r["losses"].values()]
            cells.append([name, *losses, str(r["epochs_needed"][k] or "never"), number(r["error"][k])])
        columns = ["", *(f"epoch {at}" for at in AT), "epochs needed", "error"]
        note = (
            f"Loss on validation rows; the exact solution has {rates['exact']['loss']:.3g}. Epochs needed: "
            f"until the loss is at most {NEAR:g} times that. Error: distance of w and b from the true ones "
            "in the end."
        )
        yield Table(title, columns, cells, note)
    cells = [[f"last batch {name}", f"{difference:.3g}"] for name, difference in summed.items()]
    note = (
        "The greatest difference of a weight from the fit with the mean loss. A last batch of fewer rows "
        "has a smaller sum, so its step is shorter."
    )
    yield Table("summed loss, with the rate divided by the batch size", ["", "difference"], cells, note)
    note = f"Median over {DRAWS} data sets of the distance of w and b from the true ones."
    cells = [[name, *map(number, errors.values())] for name, errors in outliers.items()]
    yield Table("losses and one wrong target", ["", "regular rows", f"y5 = {outlier:,g}"], cells, note)
    cells = [[title, *(number(errors[kind]) for errors in orders.values())] for kind, title in ORDERS.items()]
    yield Table("order of the rows", ["rows", *orders], cells, note)


def number(value: float | None) -> str:
    """Return the text of a number, ``diverged`` for None."""
    return "diverged" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    run_experiment(main)
