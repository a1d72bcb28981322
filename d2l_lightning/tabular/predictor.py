"""Predictions for the rows of a new table, by the models of a run."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from d2l_lightning.data.tables.coverage import MAX_COLUMNS
from d2l_lightning.data.tables.encoder import TableEncoder
from d2l_lightning.data.tables.reading import check_rows, read_table, refuse, to_numbers
from d2l_lightning.data.tables.schema import checked
from d2l_lightning.errors import InputError, absolute_path, printable, require_finite
from d2l_lightning.functional.conformal import conformal_quantile, interval, require_coverage, rows_needed
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.tabular.loading import AGAIN, ModelKind, load_models, require_finished
from d2l_lightning.tabular.models import MeanOfModels, Target

if TYPE_CHECKING:
    import pandas as pd

OUT_OF_FOLD = "oof_predictions.csv"


class TablePredictor(ABC):
    """Predicts a column of a table from the others, with the models of a run; ``load`` returns one.

    Args:
        models: The models by name, each with the state of its encoder.
        target: What their outputs mean.
        id_column: The column that names the rows, if there is one.
        run_notes: What users must know about the run.

    Attributes:
        notes: What users must know about the run and about the table of the last prediction: sentences.
    """

    def __init__(
        self,
        models: Mapping[str, SupervisedModule],
        target: Target,
        id_column: str | None = None,
        run_notes: Sequence[str] = (),
    ) -> None:
        self.models, self.target, self.id_column = dict(models), target, id_column
        self._run_notes = list(run_notes)
        self.notes = list(run_notes)
        # Models of folds may have encoders of their own. Of equal ones, one is kept.
        states = {name: model.encoding or {} for name, model in models.items()}
        self._keys = {name: json.dumps(state, default=Tensor.tolist) for name, state in states.items()}
        # Columns that the run did not use need no note.
        self._unused = {column for state in states.values() for column in state.get("unused", ())}
        of_key = {self._keys[name]: state for name, state in states.items()}
        self._encoders = {key: TableEncoder.from_state(state) for key, state in of_key.items()}

    @staticmethod
    def load(
        run_folder: str | Path, model: ModelKind | None = None, coverage: float = 0.9
    ) -> "PricePredictor | ClassPredictor":
        """Return the predictor of a run: of numbers, or of classes.

        Args:
            run_folder: The folder of a finished run that learned from a table.
            model: Which models predict: those of the folds (folds), or those that were trained on all rows
                (final). If not given, those of the folds where there are some.
            coverage: The share of new rows whose interval is to hold the true value, between 0 and 1.

        Raises:
            InputError: If the folder has no such models, one cannot be loaded, or the coverage is not
                between 0 and 1.
        """
        require_coverage(coverage)
        folder = absolute_path(run_folder)
        require_finished(folder)
        models = load_models(folder, model)
        encoding = next(iter(models.values())).encoding or {}
        held_out = _held_out(folder)
        target, id_column = Target(**encoding["target"]), encoding["id"]
        if target.classes:
            return ClassPredictor(models, target, id_column)
        quantile, notes = _quantile(held_out, target, coverage)
        return PricePredictor(models, target, id_column, quantile, coverage, notes)

    @property
    def columns(self) -> dict[str, str]:
        """The kind of each column that a table must have, by its name."""
        return self._encoder.columns

    @property
    def feature_names(self) -> list[str]:
        """The names of the d features that the columns become."""
        return self._encoder.feature_names

    @property
    def _encoder(self) -> TableEncoder:
        return next(iter(self._encoders.values()))

    def features(self, table: "pd.DataFrame | str | Path") -> Tensor:
        """Return the features of a table's rows, the input of an exported model: shape ``(n, d)``.

        Raises:
            InputError: As ``predict``, or if the models have different features.
        """
        self.mean_of_models()
        return self._encoder.transform(self._checked(_read(table)))

    def mean_of_models(self) -> MeanOfModels:
        """Return the models as one model of encoded features.

        Raises:
            InputError: If the models have different features.
        """
        if len(self._encoders) > 1:
            raise InputError(
                "each fold scales the columns by its own rows, so that there is no common input to export; "
                "take the model of all rows, with --model final"
            )
        return MeanOfModels(self.models.values(), self.target)

    def predict(self, table: "pd.DataFrame | str | Path") -> "pd.DataFrame":
        """Return predictions for a table's rows, with the table's index; see the class for the columns.

        Args:
            table: The table, as text or with types, or a CSV file. It has the columns of ``columns``; others
                are ignored.

        Raises:
            InputError: If a column is missing or has another type, an id is missing or repeats, or there are
                no rows.
        """
        import pandas as pd

        table = _read(table)
        text = self._checked(table)
        X = {key: encoder.transform(text) for key, encoder in self._encoders.items()}
        with torch.no_grad():
            outputs = [model(X[self._keys[name]].to(model.dtype)) for name, model in self.models.items()]
        predictions = torch.stack([self.target.decode(output) for output in outputs])
        require_finite(prediction=predictions)
        predicted = pd.DataFrame(self._predicted(predictions), index=table.index)
        if self.id_column is not None and self.id_column in table:
            predicted.insert(0, self.id_column, table[self.id_column])
        return predicted

    @abstractmethod
    def _predicted(self, predictions: Tensor) -> dict[str, Any]:
        """Return the columns of the result for decoded predictions of K models, shape ``(K, n, ...)``."""

    def _checked(self, table: "pd.DataFrame") -> "pd.DataFrame":
        """Return the columns of a table that are features, as text, and set the notes."""
        if self.id_column is not None and self.id_column in table:
            ids = table[self.id_column]
            remedy = "every row needs its own, or the table no such column"
            refuse(table, self.id_column, ids.isna(), f"is missing; {remedy}")
            refuse(table, self.id_column, ids.duplicated(), f"is not unique; {remedy}")
        known = [self.target.label, str(self.id_column), *self._unused]
        table, notes = checked(table, self.columns, known)
        unseen = sorted(self._encoder.unseen(table).items(), key=lambda each: -each[1])
        notes += [
            f"{count} of {len(table)} rows have a category in the column {column} that is not known."
            for column, count in unseen[:MAX_COLUMNS]
        ]
        if len(unseen) > MAX_COLUMNS:
            notes.append(f"The same holds for {len(unseen) - MAX_COLUMNS} more columns.")
        self.notes = [*self._run_notes, *map(printable, notes)]
        return table


class PricePredictor(TablePredictor):
    """Predicts prices, or other numbers, with an interval for each; ``PricePredictor.load`` returns one.

    ``predict`` returns the columns: the id, if the table has it; ``prediction``, the mean over the models, of
    logarithms if the metric of the run is one of logarithms; ``spread``, the standard deviation over the
    models; and ``lower`` and ``upper``, the ends of the interval. All are in the unit of the label. What is
    not known is NaN: the spread of one model, and intervals of a run without out-of-fold predictions.

    The intervals are those of split conformal prediction, from the errors of predictions for training rows
    by models that were not trained on them. Their width, or their ratio of ends if the metric is one of
    logarithms, is the same for all rows.

    Args:
        models: The models by name, each with the state of its encoder.
        target: What their outputs mean.
        id_column: The column that names the rows, if there is one.
        quantile: How far from a prediction the true value is, or its logarithm, if known.
        coverage: The share of new rows for which this holds.
        run_notes: What users must know about the run.

    Example:
        predictor = PricePredictor.load("runs/houses")
        predictor.predict("new_houses.csv")
    """

    def __init__(
        self,
        models: Mapping[str, SupervisedModule],
        target: Target,
        id_column: str | None = None,
        quantile: Tensor | None = None,
        coverage: float = 0.9,
        run_notes: Sequence[str] = (),
    ) -> None:
        super().__init__(models, target, id_column, run_notes)
        self.quantile, self.coverage = quantile, coverage

    def _predicted(self, predictions: Tensor) -> dict[str, Any]:
        mean = self.target.mean(predictions)
        unknown = torch.full_like(mean, torch.nan)
        spread = predictions.std(dim=0) if len(predictions) > 1 else unknown
        ends = (unknown, unknown)
        if self.quantile is not None:
            ends = interval(mean, self.quantile, self.target.log)
        names = ("prediction", "spread", "lower", "upper")
        return {name: values.numpy() for name, values in zip(names, (mean, spread, *ends), strict=True)}


class ClassPredictor(TablePredictor):
    """Predicts classes; ``TablePredictor.load`` returns one.

    ``predict`` returns the columns: the id, if the table has it; ``prediction``, the name of the class with
    the highest probability; and ``probability_NAME`` of each class, the mean over the models.
    """

    @property
    def probability_columns(self) -> list[str]:
        """The names of the columns of probabilities."""
        return [f"probability_{name}" for name in self.target.classes]

    def _predicted(self, predictions: Tensor) -> dict[str, Any]:
        probabilities = self.target.mean(predictions)
        classes = np.array(self.target.classes, dtype=object)
        columns = dict(zip(self.probability_columns, probabilities.T.numpy(), strict=True))
        return {"prediction": classes[probabilities.argmax(dim=1).numpy()], **columns}


def _read(table: "pd.DataFrame | str | Path") -> "pd.DataFrame":
    import pandas as pd

    if isinstance(table, str | Path):
        return read_table(absolute_path(table))
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"give a pandas.DataFrame or the path of a CSV file, not a {type(table).__name__}")
    return table


def _held_out(folder: Path) -> "pd.DataFrame | None":
    """Return the out-of-fold predictions of a run, if there are some: id, folds, label and prediction."""
    if not (folder / OUT_OF_FOLD).exists():
        return None
    table = read_table(folder / OUT_OF_FOLD)
    if len(table.columns) < 4 or list(table)[-1] != "prediction":
        raise InputError(f"{folder / OUT_OF_FOLD} is not that of a run; {AGAIN}")
    for column in map(str, list(table)[-2:]):
        check_rows(table, [column])
        refuse(table, column, table[column].isna(), f"is missing; {AGAIN}")
    return table


def _quantile(
    held_out: "pd.DataFrame | None", target: Target, coverage: float
) -> tuple[Tensor | None, list[str]]:
    """Return the conformal quantile of out-of-fold errors; or None, and why there is none."""
    if held_out is None:
        return None, [f"There are no intervals: the run has no {OUT_OF_FOLD}."]
    known, values = (to_numbers(held_out.iloc[:, i]).to_numpy(copy=True) for i in (-2, -1))
    truth, predicted = torch.from_numpy(known), torch.from_numpy(values)
    predicted = target.bounded(predicted)
    errors = truth.log() - predicted.log() if target.log else truth - predicted
    quantile = conformal_quantile(errors, coverage)
    if quantile.isfinite():
        return quantile, []
    needed = f"a coverage of {coverage} needs {rows_needed(coverage)} rows, and the run has {len(errors)}"
    return None, [f"There are no intervals: {needed}."]
