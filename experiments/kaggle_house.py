"""House prices, end to end: K-fold cross-validation, a fit on all rows, a submission for Kaggle (4.10)."""

from itertools import zip_longest
from typing import Any, Literal, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor

from d2l_lightning.callbacks.history import History
from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.figures import COLOURS, draw_curves, log_scale, panels
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.run import Run, run_experiment

# What Section 4.10 prints for its linear model: log RMSE in training and validation.
BOOK_FEATURES = 331
BOOK_FOLDS = [
    (0.169854, 0.157272),
    (0.161957, 0.188484),
    (0.163386, 0.167722),
    (0.167667, 0.154572),
    (0.162538, 0.182737),
]
BOOK_AVERAGE = (0.165080, 0.170157)
BOOK_FINAL = 0.162503


def main(
    run: Run,
    k: int,
    lr: float,
    weight_decay: float,
    batch_size: int,
    shuffle_folds: bool,
    log_price: bool,
    hidden_sizes: list[int],
    dropout: float,
    activation: Literal["relu", "gelu", "silu", "tanh", "sigmoid"],
    statistics: Literal["all", "train"],
    data_dir: str | None = None,
) -> None:
    """Predict house prices: K-fold cross-validation, a fit on all rows, a submission for Kaggle (4.10).

    Args:
        run: The run.
        k: Number of folds.
        lr: Adam's learning rate.
        weight_decay: Adam's L2 penalty.
        batch_size: Rows in a batch.
        shuffle_folds: Whether the rows are dealt to the folds at random (by the seed) or in the file's order.
        log_price: Whether to train on the logarithm of the price instead of the price.
        hidden_sizes: Width of each hidden layer, as in `--hidden_sizes 256 128`; none for a linear model.
        dropout: Probability that a hidden unit is dropped in training.
        activation: The nonlinearity after each hidden layer.
        statistics: Standardise with the statistics of all rows, test rows included, as the book does, or of
            the rows trained on alone, so that nothing of a validation fold leaks in.
        data_dir: A folder with your own train.csv and test.csv; the data that ships with the package if not
            given.
    """
    data = KaggleHouse(data_dir, statistics, batch_size, run.seed)
    data.setup()
    num_features = len(data.feature_names)

    def model() -> PriceRegressor:
        return PriceRegressor(num_features, hidden_sizes, activation, dropout, log_price, lr, weight_decay)

    train_rows, val_rows = k_fold(data.num_train, k, run.seed if shuffle_folds else None)
    X, y = data.stacked_features(train_rows)
    fold_data = StackedData(X, y, {"train": train_rows, "val": val_rows}, batch_size, run.seed)
    folds = StackedModule([model() for _ in range(k)], [f"fold_{fold + 1}" for fold in range(k)])
    trainer = run.trainer(f"{k}-fold cross-validation")
    trainer.fit(folds, fold_data)
    figures = run.evaluate(folds, fold_data)
    train, val = figures["train/log_rmse"], figures["val/log_rmse"]

    final = model()
    final.log_prefix = "final/"
    trainer = run.trainer("fit on all rows")
    trainer.fit(final, data)
    final_train = run.evaluate(final, data)["train/log_rmse"].item()
    prices = torch.cat(cast(list[Tensor], trainer.predict(final, data)))
    submission = data.submission(prices)

    results = {
        "features": num_features,
        "folds": [
            {"train_log_rmse": t, "val_log_rmse": v}
            for t, v in zip(train.tolist(), val.tolist(), strict=True)
        ],
        "train_log_rmse": train.mean().item(),
        "val_log_rmse": val.mean().item(),
        "final_train_log_rmse": final_train,
    }
    for member, name in zip(folds.unstack(), folds.names, strict=True):
        run.checkpoint(member, name)
    run.checkpoint(final, "final")
    run.figure(fold_curves(run.history, folds.names), "learning_curves")
    run.figure(final_curve(run.history), "final_fit")
    run.figure(
        price_distributions(data.prices, torch.tensor(submission["SalePrice"].to_numpy())), "predicted_prices"
    )
    show_table(run, results)
    with run.file("submission.csv") as path:
        submission.to_csv(path, index=False)
    run.artifact("submission.csv", "submission")
    run.finish(results)


def show_table(run: Run, results: dict[str, Any]) -> None:
    """Print this run's figures beside the book's."""
    folds = [(fold["train_log_rmse"], fold["val_log_rmse"]) for fold in results["folds"]]
    # The book's folds are five; others have nothing to stand beside.
    book = BOOK_FOLDS if len(folds) == len(BOOK_FOLDS) else []
    rows = [
        (f"fold {number}", *ours, *(theirs or ("", "")))
        for number, (ours, theirs) in enumerate(zip_longest(folds, book), start=1)
    ]
    rows.append(("average", results["train_log_rmse"], results["val_log_rmse"], *BOOK_AVERAGE))
    rows.append(("all rows", results["final_train_log_rmse"], "", BOOK_FINAL, ""))
    columns = ("", "train", "validation", "train, book", "validation, book")
    run.table(f"log RMSE, {results['features']} features (book: {BOOK_FEATURES}, linear)", columns, rows)


def fold_curves(history: History, folds: list[str]) -> Figure:
    """Draw the learning curves of all folds and their mean, training beside validation."""
    stages = {"train": "training rows", "val": "validation rows"}
    figure, axes = panels(
        list(stages.values()), f"House prices: {len(folds)}-fold cross-validation", "epoch", "log RMSE"
    )
    for panel, stage in zip(axes, stages, strict=True):
        metric = f"{stage}/log_rmse"
        curves = [(fold.replace("_", " "), *history.curve(f"{metric}/{fold}")) for fold in folds]
        panel.plot(*history.curve(metric), color="0.8", linewidth=6, label="mean of folds")
        if len(folds) <= 10:
            draw_curves(panel, curves)
        else:  # more curves than eyes can tell apart
            for _, epochs, values in curves:
                panel.plot(epochs, values, color=COLOURS[0], linewidth=0.6, alpha=0.5)
        log_scale(panel)
    axes[-1].legend(frameon=False)
    return figure


def final_curve(history: History) -> Figure:
    """Draw the learning curve of the fit on all rows."""
    figure, (panel,) = panels(
        [""], "House prices: fit on all training rows", "epoch", "log RMSE, training rows"
    )
    draw_curves(panel, [("all rows", *history.curve("final/train/log_rmse"))])
    log_scale(panel)
    return figure


def price_distributions(known: Tensor, predicted: Tensor) -> Figure:
    """Draw the known prices of the training rows and the predicted ones of the test rows."""
    figure, (panel,) = panels(
        [""],
        "House prices: known and predicted",
        "price (thousand US dollars; the last bin holds all above)",
        "share of houses per bin",
    )
    prices = {"known, training rows": known, "predicted, test rows": predicted}
    highest = max(p.quantile(0.995).item() for p in prices.values())
    for (name, values), colour, filled in zip(prices.items(), COLOURS, (True, False), strict=False):
        panel.hist(
            values.clamp(max=highest).numpy() / 1e3,
            bins=40,
            range=(0, highest / 1e3),
            weights=torch.full_like(values, 1 / len(values)).numpy(),
            histtype="stepfilled" if filled else "step",
            color=colour,
            alpha=0.45 if filled else 1,
            linewidth=1.6,
            label=name,
        )
    panel.legend(frameon=False)
    return figure


if __name__ == "__main__":
    run_experiment(main)
