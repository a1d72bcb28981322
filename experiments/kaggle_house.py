"""House prices, end to end: K-fold cross-validation, a fit on all rows, a submission for Kaggle (4.10)."""

from collections.abc import Callable
from typing import Any

from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.tabular.cross_validation import CrossValidation, cross_validate
from d2l_lightning.tabular.outputs import data_tables, finish, fold_names, pooled_note

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
    data: Callable[..., KaggleHouse] = KaggleHouse,
    model: Callable[..., PriceRegressor] = PriceRegressor,
    validation: Callable[..., CrossValidation] = cross_validate,
) -> None:
    """Predict house prices: K-fold cross-validation, a fit on all rows, a submission for Kaggle (4.10).

    The models of the folds and those of all rows are trained side by side, each as if it were alone.

    Args:
        run: The run.
        k: Number of folds.
        data: The data.
        model: The model.
        validation: The cross-validation.
    """
    cv = validation(run, data(seed=run.seed), model, k)
    results = cv.results()
    tables = [*data_tables(cv.data), comparison(results)]
    finish(run, cv, results, title="House prices", label="price (US dollars)", tables=tables)


def comparison(results: dict[str, Any]) -> Table:
    """Return this run's figures beside the book's."""
    k = len(results["folds"])
    book: Any = zip(BOOK_TRAIN, BOOK_VAL, strict=True) if k == len(BOOK_VAL) else [("", "")] * k
    folds = zip(fold_names(results), results["folds"], book, strict=True)
    rows = [(name, *fold.values(), *theirs) for name, fold, theirs in folds]
    rows.append(("average", results["train_log_rmse"], results["val_log_rmse"], *BOOK_AVERAGE))
    rows.append(("all rows", results["final_train_log_rmse"], "", BOOK_FINAL, ""))
    columns = ("rows", "training", "validation", "book: training", "book: validation")
    title = f"log RMSE, {results['features']} features (book: a linear model of {BOOK_FEATURES})"
    return Table(title, columns, rows, pooled_note(results))


if __name__ == "__main__":
    run_experiment(main)
