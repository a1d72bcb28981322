"""House prices by several methods, cross-validated on the same folds: log RMSE and CPU time of each."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from d2l_lightning.benchmarks.load import machine_load
from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.ensemble.folds import make_folds
from d2l_lightning.errors import InputError
from d2l_lightning.functional.regression import log_rmse
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.plots.tables import comparison_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.tabular.baselines import BASELINES, require_package
from d2l_lightning.tabular.recipe import read_recipe
from d2l_lightning.tabular.training import held_out_predictions, train_side_by_side

import torch
from torch import Tensor

Method = Literal["book", "lasso", "catboost", "realmlp", "recipe"]
NAMES = {
    "book": "the book's net",
    "lasso": "lasso",
    "catboost": "CatBoost",
    "realmlp": "RealMLP",
    "recipe": "this project's recipe",
}
# The config files of kaggle_house.py with the settings of this project's models.
CONFIGS = Path(__file__).parent.parent / "configs"
FILES = {"book": CONFIGS / "kaggle_house.yaml", "recipe": CONFIGS / "kaggle_house_best.yaml"}


def main(
    run: Run,
    methods: Sequence[Method] = ("book", "lasso", "catboost", "realmlp", "recipe"),
    k: int = 5,
    folds: str = "contiguous",
    data_dir: str | Path | None = None,
) -> None:
    """Cross-validate methods for house prices on the same folds, and measure their CPU time.

    Run it with one thread, as in its config file: the CPU time is then that on one core. A run that is
    resumed measures only what was left to do.

    Args:
        run: The run.
        methods: What is compared: the book's net (book), lasso on the book's features (lasso), CatBoost and
            RealMLP on the raw columns (catboost, realmlp), and the model of configs/kaggle_house_best.yaml
            (recipe). All but the book's net learn the logarithm of the price. Nothing is tuned, other than
            the penalty of the lasso, within the training rows.
        k: Number of folds.
        folds: How rows are assigned to folds, as in kaggle_house.py.
        data_dir: A folder with your own train.csv and test.csv. If not given, the data of the package.
    """
    if not methods or len(set(methods)) < len(methods):
        raise InputError("methods must name at least one method, and each one once")
    for method in methods:
        if method in BASELINES:
            require_package(method)
    houses = KaggleHouse(data_dir, seed=run.seed)
    houses.setup()
    train_rows, val_rows, _ = make_folds(folds, k, houses.prices, seed=run.seed, groups=houses.groups)
    run.start()
    load = machine_load()
    found: dict[str, Any] = {}
    for method in methods:
        torch.manual_seed(run.seed)  # so that no method depends on those before it
        start = time.process_time()
        if method in BASELINES:
            predictions = torch.empty(houses.num_train, dtype=torch.float64)
            for rows in zip(train_rows, val_rows, strict=True):
                predictions[rows[1]] = BASELINES[method](houses, *rows, run.seed).double()
        else:
            predictions = stacked_predictions(run, method, data_dir, train_rows, val_rows)
        seconds = time.process_time() - start
        prices = houses.prices.to(predictions)
        scores = [log_rmse(predictions[rows], prices[rows]).item() for rows in val_rows]
        pooled = log_rmse(predictions, prices).item()
        found[method] = {"folds": scores, "mean": fmean(scores), "pooled": pooled, "cpu_seconds": seconds}
    report(run, found, {"k": k, "fold_scheme": folds, "load": asdict(load)}, str(load))


def stacked_predictions(
    run: Run, method: str, data_dir: str | Path | None, train_rows: list[Tensor], val_rows: list[Tensor]
) -> Tensor:
    """Return predictions of all training rows by models trained side by side, that of a row by its fold."""
    recipe = read_recipe(FILES[method])
    houses = KaggleHouse(**{**recipe.data, "data_dir": data_dir}, seed=run.seed)
    houses.setup()
    X, _ = houses.stacked_features(train_rows)
    k, num_features = len(train_rows), len(houses.feature_names)
    members = {f"fold_{fold + 1}": PriceRegressor(num_features, **recipe.model) for fold in range(k)}
    epochs = None if run.trainer_flags.get("max_epochs") else recipe.max_epochs
    settings: Any = {"max_epochs": epochs, "num_validations": 1}
    rows = {"train": train_rows, "val": val_rows}
    _, trained = train_side_by_side(run, method, houses, X, members, rows, **settings)
    return held_out_predictions(list(trained.values()), X, val_rows, k)[0].double()


def report(run: Run, found: dict[str, Any], about: dict[str, Any], load: str) -> None:
    """Write, draw and print what was found for each method."""
    import pandas as pd

    columns = {"mean": "mean_log_rmse", "pooled": "pooled_log_rmse", "cpu_seconds": "cpu_seconds"}
    table = pd.DataFrame(
        {
            "method": method,
            **{name: values[key] for key, name in columns.items()},
            **{f"fold_{number}": score for number, score in enumerate(values["folds"], start=1)},
        }
        for method, values in found.items()
    )
    rows = [
        (NAMES[method], values["mean"], values["pooled"], f"{values['cpu_seconds']:.1f}")
        for method, values in found.items()
    ]
    title = f"log RMSE, {about['k']} {about['fold_scheme']} folds"
    scores = {NAMES[method]: values["folds"] for method, values in found.items()}
    run.finish(
        {**about, "methods": found},
        products={"comparison.csv": table},
        tables=[
            Table(title, ("method", "mean of the folds", "over all rows", "CPU time (seconds)"), rows, load)
        ],
        figures={"comparison": partial(comparison_figure, scores, "log RMSE of a fold", title)},
    )


if __name__ == "__main__":
    run_experiment(main)
