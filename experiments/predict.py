"""Predictions for the rows of a CSV file, by the models that an earlier run trained."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from d2l_lightning.data.tables.reading import read_table
from d2l_lightning.errors import absolute_path
from d2l_lightning.plots.predictions import class_probabilities, prediction_intervals
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import refuse_flags
from d2l_lightning.tabular.export import FILES, ExportFormat, export_onnx, export_program, require_export
from d2l_lightning.tabular.predictor import ClassPredictor, PricePredictor, TablePredictor

import torch

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SHOWN = 10  # rows of the printed table


def main(
    this_run: Run,
    run: str | Path,
    data: str | Path,
    export: ExportFormat | None = None,
    predictor: Callable[..., PricePredictor | ClassPredictor] = TablePredictor.load,
) -> None:
    """Predict the rows of a CSV file with the models of an earlier run.

    Writes predictions.csv: for each row the mean prediction of the models, their spread, and an interval from
    the errors on rows that a model was not trained on; or the class and the probability of each class.

    Args:
        this_run: The run.
        run: The folder of the earlier run, which learned from a table.
        data: The CSV file; it has the columns that the earlier run learned from.
        export: Whether to write the models to model.onnx (onnx), or to model.pt2 for torch.export (torch).
            Their input is the encoded features.
        predictor: The models.
    """
    refuse_flags(this_run.trainer_flags, "nothing is trained")
    require_export(export)
    trained = predictor(run)
    mean_of_models = None if export is None else trained.mean_of_models()
    table = read_table(absolute_path(data))
    predictions = trained.predict(table)
    if trained.id_column not in predictions:
        predictions.insert(0, "line", table.index)
    if export is not None and mean_of_models is not None:
        write = {"onnx": export_onnx, "torch": export_program}[export]
        with this_run.file(FILES[export]) as path:
            write(mean_of_models, trained.feature_names, path)
    results = {
        "run": str(absolute_path(run)),
        "label": trained.target.label,
        "models": list(trained.models),
        "rows": len(predictions),
        "features": len(trained.feature_names),
        "exported": None if export is None else FILES[export],
    }
    this_run.finish(
        results,
        products={"predictions.csv": predictions},
        figures={"predictions": partial(figure_of, trained, predictions)},
        tables=[first_rows(trained, predictions)],
        notes=[f"Note: {note}" for note in trained.notes],
    )


def figure_of(trained: PricePredictor | ClassPredictor, predictions: "pd.DataFrame") -> "Figure":
    """Return the figure of all predictions: with their intervals, or of the probabilities of classes."""
    label, log = trained.target.label, trained.target.log
    columns = {str(name): column.to_numpy(copy=True) for name, column in predictions.items()}
    if isinstance(trained, ClassPredictor):
        probabilities = [torch.from_numpy(columns[name]) for name in trained.probability_columns]
        return class_probabilities(torch.stack(probabilities).amax(dim=0), label)
    values, *ends = (torch.from_numpy(columns[name]) for name in ("prediction", "lower", "upper"))
    return prediction_intervals(values, (ends[0], ends[1]), label, trained.coverage, log)


def first_rows(trained: PricePredictor | ClassPredictor, predictions: "pd.DataFrame") -> Table:
    """Return a table of the first predictions."""
    rows = [list(map(_shown, row)) for row in predictions.head(SHOWN).itertuples(index=False)]
    models = f"{len(trained.models)} model{'s' * (len(trained.models) > 1)}"
    title = f"predictions: {trained.target.label} by {models}, first of {len(predictions):,} rows"
    note = ""
    if isinstance(trained, PricePredictor) and trained.quantile is not None:
        share = f"{trained.coverage:.0%} of new rows that are like the training rows"
        note = f"The true value of {share} is between lower and upper."
    if "spread" in predictions and len(trained.models) > 1:
        note += " Spread is the standard deviation of the models' predictions."
    return Table(title, [str(name) for name in predictions], rows, note)


def _shown(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    if math.isnan(cell):
        return ""
    return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"


if __name__ == "__main__":
    run_experiment(main)
