"""House prices with and without standardised features, at many learning rates (4.10, exercise 6)."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError, require_positive
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.plots.style import Curve, curve_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run

import torch

# The settings of KaggleHouse, by what the features are called.
FEATURES = {"standardised": "columns", "not_standardised": "unscaled"}
STAGES = {"train": "training rows", "val": "validation rows"}
BOOK_LR = 5.0


def main(
    run: Run,
    lrs: Sequence[float] = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 5.0, 20.0),
    k: int = 5,
    data_dir: str | Path | None = None,
) -> None:
    """Train the book's model of house prices on features that are standardised, and that are not (4.10).

    The models of all learning rates, both kinds of features and all folds are trained side by side.

    Args:
        run: The run.
        lrs: Learning rates of Adam, each once.
        k: Number of folds.
        data_dir: A folder with other files train.csv and test.csv, as of kaggle_house.py.
    """
    require_positive(**{f"lrs[{i}]": lr for i, lr in enumerate(lrs)})
    if not lrs or len(set(lrs)) < len(lrs):
        raise InputError(f"lrs must name at least one learning rate, and each one once, not {list(lrs)}")
    lrs = sorted(lrs)
    kinds: list[Any] = list(FEATURES.values())
    houses = [KaggleHouse(data_dir, features=features) for features in kinds]
    for each in houses:
        each.setup()
    n, y = houses[0].num_train, houses[0].prices
    train, val = (folds * len(kinds) * len(lrs) for folds in k_fold(n, k))
    # A stream for each kind of features and fold, whose features the members of all learning rates share.
    streams = list(range(len(kinds) * k))
    X = torch.stack([each.features()[:n] for each in houses]).repeat_interleave(k, dim=0)
    members = [PriceRegressor(X.shape[-1], lr=lr) for lr in lrs for _ in streams]
    stacked = StackedModule(members, streams=streams * len(lrs), raise_on_divergence=False)
    rows, batch_size = {"train": train, "val": val}, houses[0].batch_size
    data = StackedData(X, y.expand(len(X), -1), rows, batch_size, run.seed, streams=streams * len(lrs))
    run.fit("rates", stacked, data, title=f"{len(members)} models", num_validations=1, logged=False)
    found = {s: stacked.evaluate(data, s)[f"{s}/log_rmse"].view(len(lrs), len(kinds), k) for s in STAGES}
    means = {stage: values.mean(dim=-1).T.tolist() for stage, values in found.items()}
    results = {
        name: [
            {"lr": lr, **{f"{stage}_log_rmse": finite(means[stage][i][j]) for stage in STAGES}}
            for j, lr in enumerate(lrs)
        ]
        for i, name in enumerate(FEATURES)
    }
    scales = deviations(houses[0])
    run.finish(
        {**results, "deviations": scales},
        tables=[comparison(results, scales)],
        figures={"learning_rates": partial(curve_figure, *curves(results), xscale="log", yscale="log")},
    )


def finite(value: float) -> float | None:
    """Return a metric, or None if the model diverged."""
    return value if math.isfinite(value) else None


def deviations(houses: KaggleHouse) -> dict[str, float]:
    """Return the least and the greatest standard deviation of the columns of numbers, by column."""
    (scaler,) = houses.encoder.scalers
    pairs = zip(scaler.fitted["deviation"].tolist(), scaler.columns or (), strict=True)
    known = [pair for pair in pairs if math.isfinite(pair[0])]
    return {column: deviation for deviation, column in (min(known), max(known))}


def comparison(results: Mapping[str, Any], scales: Mapping[str, float]) -> Table:
    """Return the log RMSE on validation rows at each learning rate."""
    by_lr = zip(*results.values(), strict=True)
    rows: list[list[str | float]] = [
        [
            f"{each[0]['lr']:g}",
            *("diverged" if e["val_log_rmse"] is None else e["val_log_rmse"] for e in each),
        ]
        for each in by_lr
    ]
    (least, low), *_, (most, high) = [*scales.items(), *scales.items()]
    note = (
        f"The standard deviations of the numbers are from {low:,.4g} ({least}) to {high:,.4g} ({most}). "
        f"The book standardises them and takes the learning rate {BOOK_LR:g}."
    )
    columns = ("learning rate", *(name.replace("_", " ") for name in results))
    return Table("log RMSE on validation rows, mean of folds", columns, rows, note)


def curves(results: Mapping[str, Any]) -> tuple[str, dict[str, list[Curve]], str, str]:
    """Return the title, the curves of training and validation rows, and the labels of the axes."""
    panels: dict[str, list[Curve]] = {}
    for stage, title in STAGES.items():
        panels[title] = []
        for name, each in results.items():
            points = [(e["lr"], e[f"{stage}_log_rmse"]) for e in each if e[f"{stage}_log_rmse"] is not None]
            panels[title].append((name.replace("_", " "), [x for x, _ in points], [y for _, y in points]))
    return "House prices: are the features standardised?", panels, "learning rate of Adam", "log RMSE"


if __name__ == "__main__":
    run_experiment(main)
