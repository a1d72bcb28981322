"""House prices, end to end: K-fold cross-validation, a fit on all rows, a submission for Kaggle (4.10)."""

from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import Any

from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.plots.houses import fold_curves, price_distributions
from d2l_lightning.plots.style import Curve, curve_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import check_batches, refuse_precision

import torch

# The log RMSE that Section 4.10 prints for its linear model: of five folds, in training and validation, their
# average, and the fit on all rows.
BOOK_FEATURES = 331
BOOK_TRAIN = (0.169854, 0.161957, 0.163386, 0.167667, 0.162538)
BOOK_VAL = (0.157272, 0.188484, 0.167722, 0.154572, 0.182737)
BOOK_AVERAGE = (0.165080, 0.170157)
BOOK_FINAL = 0.162503


def main(
    run: Run,
    k: int = 5,
    shuffle_folds: bool = False,
    data: Callable[..., KaggleHouse] = KaggleHouse,
    model: Callable[..., PriceRegressor] = PriceRegressor,
) -> None:
    """Predict house prices: K-fold cross-validation, a fit on all rows, a submission for Kaggle (4.10).

    The models of the folds and the one of all rows are trained side by side, each as if it were alone.

    Args:
        run: The run.
        k: Number of folds.
        shuffle_folds: Whether rows are assigned to folds at random (by the seed) or in the file's order.
        data: The data.
        model: The model.
    """
    refuse_precision(run.trainer_flags, "16-true", "prices are above 65504, its greatest number")
    houses = data(seed=run.seed)
    houses.setup()
    check_batches(run.trainer_flags, houses)  # before the first fit, which has other data
    num_features = len(houses.feature_names)
    train_rows, val_rows = k_fold(houses.num_train, k, run.seed if shuffle_folds else None)
    # The last member is trained on all rows, beside the folds.
    train_rows.append(torch.arange(houses.num_train))
    val_rows.append(torch.arange(0))
    X, y = houses.stacked_features(train_rows)
    rows = {"train": train_rows, "val": val_rows}
    names = [f"fold_{fold}" for fold in range(1, k + 1)]
    stacked = StackedModule([model(num_features) for _ in train_rows], [*names, "final"], averaged=names)
    stacked_data = StackedData(X, y, rows, houses.batch_size, run.seed)
    fit = run.fit("folds", stacked, stacked_data, title=f"{k} folds and all rows", prefix="")
    metrics = fit.validate()
    *train, final_train = metrics["train/log_rmse"].tolist()
    val = metrics["val/log_rmse"].tolist()[:k]
    members = dict(zip(stacked.names, stacked.unstack(), strict=True))
    prices = fit.predict(members["final"], houses)

    results = {
        "features": num_features,
        "folds": [{"train_log_rmse": t, "val_log_rmse": v} for t, v in zip(train, val, strict=True)],
        "train_log_rmse": fmean(train),
        "val_log_rmse": fmean(val),
        "final_train_log_rmse": final_train,
    }
    stages = {"training rows": "train/log_rmse", "validation rows": "val/log_rmse"}
    means = {stage: ("mean of folds", *fit.curve(metric)) for stage, metric in stages.items()}
    curves: dict[str, list[Curve]] = {
        stage: [(name.replace("_", " "), *fit.curve(f"{metric}/{name}")) for name in names]
        for stage, metric in stages.items()
    }
    final_curve = {"": [("all rows", *fit.curve("train/log_rmse/final"))]}
    labels = ("House prices: fit on all training rows", final_curve, "epoch", "log RMSE, training rows")
    run.finish(
        results,
        products={"submission.csv": houses.submission(prices)},
        checkpoints=members,
        tables=[comparison(results)],
        notes=[f"Note: {warning}" for warning in houses.warnings()],
        figures={
            "learning_curves": partial(fold_curves, means, curves),
            "final_fit": partial(curve_figure, *labels, yscale="log", legend="none"),
            "predicted_prices": partial(price_distributions, houses.prices, prices.clamp(min=1)),
        },
    )


def comparison(results: dict[str, Any]) -> Table:
    """Return this run's figures beside the book's."""
    k = len(results["folds"])
    book: Any = zip(BOOK_TRAIN, BOOK_VAL, strict=True) if k == len(BOOK_VAL) else [("", "")] * k
    folds = enumerate(zip(results["folds"], book, strict=True), start=1)
    rows = [(f"fold {number}", *fold.values(), *theirs) for number, (fold, theirs) in folds]
    rows.append(("average", results["train_log_rmse"], results["val_log_rmse"], *BOOK_AVERAGE))
    rows.append(("all rows", results["final_train_log_rmse"], "", BOOK_FINAL, ""))
    columns = ("", "train", "validation", "train, book", "validation, book")
    return Table(f"log RMSE, {results['features']} features (book: {BOOK_FEATURES}, linear)", columns, rows)


if __name__ == "__main__":
    run_experiment(main)
