"""A number in any table, end to end: K-fold cross-validation, a fit on all rows, a submission (4.10)."""

from collections.abc import Callable
from pathlib import Path

from d2l_lightning.data.kaggle_table import KaggleTable
from d2l_lightning.models.table_regressor import TableRegressor
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.run import Run
from d2l_lightning.tabular.cross_validation import CrossValidation, cross_validate
from d2l_lightning.tabular.outputs import data_tables, finish, fold_table


def main(
    run: Run,
    train: str | Path,
    label: str,
    test: str | Path | None = None,
    id: str | None = None,  # noqa: A002
    k: int = 5,
    data: Callable[..., KaggleTable] = KaggleTable,
    model: Callable[..., TableRegressor] = TableRegressor,
    validation: Callable[..., CrossValidation] = cross_validate,
) -> None:
    """Predict a number in any table, as the house prices of Section 4.10: K folds, all rows, a submission.

    Args:
        run: The run.
        train: The CSV file with labels.
        label: The column to predict.
        test: The CSV file to predict; without it, there is no submission.
        id: The column that identifies a row; without it, rows are identified by their line in the file.
        k: Number of folds.
        data: The data.
        model: The model.
        validation: The cross-validation.
    """
    cv = validation(run, data(train, test, id, label, seed=run.seed), model, k)
    results = cv.results()
    tables = [*data_tables(cv.data), fold_table(results)]
    finish(run, cv, results, title=Path(train).stem, label=label, tables=tables)


if __name__ == "__main__":
    run_experiment(main)
