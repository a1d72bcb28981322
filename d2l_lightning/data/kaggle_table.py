"""The tables of a competition: training rows with a label, and test rows whose label is to be predicted."""

import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from d2l_lightning.data.batches import InMemoryData, loader_of, shuffled_loader
from d2l_lightning.data.reading import first_of
from d2l_lightning.data.tables.coverage import MAX_COLUMNS, NOTABLE, new_categories, share_outside
from d2l_lightning.data.tables.encoder import FEATURE_SETS, Missing, TableEncoder
from d2l_lightning.data.tables.reading import check_rows, other_case, read_table, refuse, to_numbers
from d2l_lightning.data.tables.schema import check_values, checked, find_kinds, schema_notes
from d2l_lightning.errors import InputError, absolute_path, printable, require_known, require_positive

if TYPE_CHECKING:
    import pandas as pd

Metric = Literal["rmse", "log_rmse", "mae"]
Statistics = Literal["all", "train"]
TableFeatures = Literal["columns", "unscaled", "scaled"]

# Columns of the files that a run and its predictions write, beside the id and the label.
WRITTEN = {"label": r"prediction|fold(_\d+)?|line", "id": r"prediction|fold(_\d+)?|spread|lower|upper"}
PRECISION = 1e-3  # the greatest error of a label in float32, as a share of the range of the labels


class KaggleTable(InMemoryData):
    """A CSV file with a numeric label to learn from, and one to predict the label for.

    Numbers, booleans, dates and categories are found in the training file and become features, see
    ``TableEncoder``. Training uses all training rows, in batches of X ``(B, d)`` and labels ``(B,)``;
    validation evaluates them as stage ``train``.

    Args:
        train: The CSV file with the label.
        test: The CSV file without it; None if there is nothing to predict.
        id: The column that identifies a row, which is not a feature; None if rows are identified by their
            line in the file.
        label: The column to predict.
        ignore: Further columns that are not features; they need not be in both files.
        metric: The metric of the predictions. The logarithm of log_rmse needs positive labels.
        features: Which features are made of the columns: with each number standardised (columns), with
            numbers as they are (unscaled), or with each number in three scales, which suits perceptrons
            (scaled).
        missing: What a missing number becomes: the mean of its column (mean), the median (median), or the
            mean, with a further feature that is 1 where the number is missing (indicator). If not given,
            indicator.
        statistics: The rows whose mean and standard deviation standardise numeric features: all rows of the
            training file (all), or only those that a model is trained on (train).
        batch_size: Rows in a batch.
        drop_last: Whether the last rows of an epoch are left out if they are fewer than a batch.
        seed: Seed of the order of the rows, which changes with the epoch.

    Attributes:
        kinds: The schema of the features: the kind of each column, see ``data/tables/schema.py``.
        raw: The columns of the features as text, training rows first.
        labels: The labels, shape ``(n,)``.
        shapes: The rows and columns of the files ``train`` and, if there is one, ``test``.
        encoder: The encoder of the model of all rows.
        train_ids: The ids of the training rows, as they are in the file, or their lines.
        test_ids: The ids of the test rows.
    """

    def __init__(
        self,
        train: str | Path,
        test: str | Path | None,
        id: str | None,  # noqa: A002
        label: str,
        ignore: Sequence[str] = (),
        metric: Metric = "rmse",
        features: TableFeatures = "columns",
        missing: Missing | None = None,
        statistics: Statistics = "all",
        batch_size: int = 64,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_known("features", features, TableFeatures)
        require_known("metric", metric, Metric)
        require_known("statistics", statistics, Statistics)
        if missing is not None:
            require_known("missing", missing, Missing)
        require_positive(batch_size=batch_size)
        if label == id:
            raise InputError(f"the label and the id are the same column, {label!r}")
        for what, column in (("label", label), ("id", id)):
            if column is not None and column in ignore:
                raise InputError(f"the {what} {column!r} cannot be ignored")
            if column is not None and re.fullmatch(WRITTEN[what], column):
                raise InputError(f"the {what} cannot be named {column!r}, as results are; rename the column")
        self.files = [absolute_path(file) for file in (train, test) if file is not None]
        self.id, self.label, self.ignore, self.metric = id, label, list(ignore), metric
        self.feature_set: str = features
        self.missing: Missing | None = missing
        self.statistics = statistics
        self.batch_size, self.drop_last, self.seed = batch_size, drop_last, seed
        self.notes: list[str] = []

    def _load(self) -> None:
        """Read and check the files, and fit the encoder."""
        import pandas as pd

        train, *others = tables = self._read()
        _check_labels(train, self.label, self.metric)
        self.training_table, self.num_train = train, len(train)
        names = ("train", "test")
        self.shapes = {name: table.shape for name, table in zip(names, tables, strict=False)}
        self.labels = torch.tensor(to_numbers(train[self.label]).to_numpy(np.float32))
        self.train_ids = self._ids(train)
        self.test_ids = [row for table in others for row in self._ids(table)]
        self._values = pd.concat([self._checked(table) for table in tables], ignore_index=True)
        self.raw = pd.concat([table[list(self.kinds)] for table in tables], ignore_index=True)
        self.encoder, self._features = self._fitted()
        self._encoders = {_key(torch.arange(self.num_train)): self.encoder}
        self.feature_names = self.encoder.feature_names

    def _read(self) -> "list[pd.DataFrame]":
        """Return the tables, the one with labels first, and set ``kinds``."""
        tables = [read_table(file) for file in self.files]
        train = tables[0]
        for column in self.ignore:
            if all(column not in table for table in tables):
                similar = next(filter(None, (other_case(table, column) for table in tables)), "")
                raise InputError(f"--ignore names the column {column!r}, which no file has{similar}")
        for table in tables:
            needed = {"id": self.id, "label": self.label if table is train else None}
            for what, name in needed.items():
                if name is not None and name not in table:
                    similar = other_case(table, name)
                    raise InputError(f"{table.index.name} lacks the column {name!r}, the {what}{similar}")
            if self.id is not None:
                check_ids(table, self.id)
        unused = [self.label, *self.ignore, *([] if self.id is None else [self.id])]
        check_rows(train, [])
        self.kinds = find_kinds(train, unused)
        if not self.kinds:
            raise InputError(f"{train.index.name} has no column to learn from")
        self.notes = schema_notes(train, self.kinds, unused)
        return tables

    def _ids(self, table: "pd.DataFrame") -> list[str]:
        """Return the ids of the rows of a table, or the lines on which they begin."""
        ids: list[str] = (table.index.astype(str) if self.id is None else table[self.id]).tolist()
        return ids

    @property
    def id_name(self) -> str:
        """The name of the ids: that of their column, or ``line``."""
        return "line" if self.id is None else self.id

    @property
    def unused(self) -> list[str]:
        """The columns of the training file that are not features: id, label, ignored ones, and empty ones."""
        return [str(column) for column in self.training_table if column not in self.kinds]

    def _checked(self, table: "pd.DataFrame") -> "pd.DataFrame":
        """Return the columns that are encoded, numbers as float64."""
        # Notes name the columns of the training file that have no value.
        known = {*self.ignore, *self.training_table}
        values, notes = checked(table, self.kinds, known)
        self.notes += notes
        return values

    def _new_encoder(self) -> TableEncoder:
        return TableEncoder(FEATURE_SETS[self.feature_set](self.kinds), missing_numbers=self.missing)

    def _known_values(self) -> "pd.DataFrame":
        """Return the rows whose categories become features: those of the training file."""
        return self._values.iloc[: self.num_train]

    def _fitted(self) -> tuple[TableEncoder, Tensor]:
        """Return the encoder of the model of all rows, and the features of all rows."""
        encoder = self._new_encoder().fit(self._known_values())
        return encoder, encoder.transform(self._values)

    def encoder_for(self, train_rows: Tensor) -> TableEncoder:
        """Return the encoder of a model that is trained on some of the training rows."""
        if self.statistics == "all":
            return self.encoder
        key = _key(train_rows)
        if key not in self._encoders:
            self._encoders[key] = self._new_encoder().fit(self._known_values(), train_rows)
        return self._encoders[key]

    def features(self, train_rows: Tensor | None = None) -> Tensor:
        """Return the features of all training rows, then of all test rows: shape ``(n + m, d)``.

        With ``statistics="train"``, they are standardised over ``train_rows``, or else all training rows.
        """
        encoder = self.encoder if train_rows is None else self.encoder_for(train_rows)
        return self._features if encoder is self.encoder else encoder.transform(self._values)

    def stacked_features(self, train_rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return X ``(n, d)`` and y ``(n,)`` for K members that train side by side, each on rows of its own.

        With ``statistics="train"``, members have features of their own: ``(K, n, d)`` and ``(K, n)``.
        """
        if self.statistics == "all":
            return self.features()[: self.num_train], self.labels
        encoders = [self.encoder_for(rows) for rows in train_rows]
        table = self._values.iloc[: self.num_train]
        encoded = {encoder: encoder.transform(table) for encoder in encoders}
        X = torch.stack([encoded[encoder] for encoder in encoders])
        return X, self.labels.expand(len(X), -1)

    def groups(self, column: str) -> list[str]:
        """Return the values of a column of the training file, which need not be a feature.

        Raises:
            InputError: If there is no such column, or a value is missing.
        """
        table = self.training_table
        if column not in table:
            similar = other_case(table, column)
            raise InputError(f"{table.index.name} lacks the column {column!r} of the groups{similar}")
        refuse(table, column, table[column].isna(), "is missing; every training row needs its group")
        groups: list[str] = table[column].tolist()
        return groups

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of shuffled batches ``(X, y)``."""
        examples = self.features()[: self.num_train], self.labels
        return shuffled_loader(self, self.batch_size, self.seed, *examples, drop_last=self.drop_last)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the loader of one batch: all training rows, as stage ``train``."""
        weight = {"train": torch.ones(self.num_train)}
        return loader_of(self, (self.features()[: self.num_train], self.labels, weight))

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader of one batch: the features of all test rows."""
        return loader_of(self, self.features()[self.num_train :])

    def warnings(self) -> list[str]:
        """Return what the test rows have and the training rows lack: categories, and columns out of range.

        Before them are the notes on the columns of the files.
        """
        found: list[tuple[float, str]] = []
        added = 0
        for column, kind in self.kinds.items() if self.test_ids else ():
            values = check_values(self.raw[column], kind)
            if kind.startswith("date"):
                values = (values - values.min()).dt.days
            train, test = values.iloc[: self.num_train], values.iloc[self.num_train :]
            new = new_categories(train, test) if kind == "category" else {}
            share = share_outside(train, test, kind != "category")
            if new:
                names = [f"{reprlib.repr(name)} ({part:.1%})" for name, part in new.items()]
                added += len({*new} & {*self.encoder.vocabulary.get(column, ())})
                what = f"have a category that no training row has in the column {printable(column)}"
                found.append((sum(new.values()), f"{what}: {first_of(names, 3)}."))
            elif share > NOTABLE:
                what = f"lie outside what the training rows have in the column {printable(column)}."
                found.append((share, what))
        found.sort(key=lambda each: -each[0])
        notes = [f"{share:.1%} of the test rows {what}" for share, what in found[:MAX_COLUMNS]]
        if len(found) > MAX_COLUMNS:
            notes.append(f"The same holds for {len(found) - MAX_COLUMNS} more columns.")
        if added:
            notes.append(f"Only test rows have {added} of the {len(self.feature_names)} features.")
        return self.notes + notes

    def submission(self, predictions: Tensor) -> "pd.DataFrame":
        """Return the table to submit: the ids of the test file, in its order, and the label.

        Raises:
            InputError: If a prediction, of shape ``(m,)``, is not finite.
        """
        if not predictions.isfinite().all():
            raise InputError(f"a predicted {self.label} is not finite; a lower lr may help")
        import pandas as pd

        return pd.DataFrame({self.id_name: self.test_ids, self.label: predictions.cpu().double().numpy()})


def _key(rows: Tensor) -> bytes:
    return rows.numpy().tobytes()


def check_ids(table: "pd.DataFrame", column: str) -> None:
    """Raise an InputError if an id is missing, or not unique."""
    refuse(table, column, table[column].isna(), "is missing; every row needs one")
    refuse(table, column, table[column].duplicated(), "is not unique; every row needs its own")


def _check_labels(table: "pd.DataFrame", label: str, metric: Metric) -> None:
    """Raise an InputError unless labels are different numbers, which are positive if the metric needs it."""
    check_rows(table, [label])
    refuse(table, label, table[label].isna(), "is missing; every training row needs its label")
    exact = to_numbers(table[label])
    # Training uses float32, in which the smallest numbers are 0.
    labels = exact.astype(np.float32)
    if metric == "log_rmse":
        refuse(table, label, labels <= 0, "is not positive, as the metric log_rmse needs it")
    named, extent = f"{table.index.name}: {printable(label)}", exact.max() - exact.min()
    if not extent > 0:
        raise InputError(f"{named} is {exact.min():g} in all rows; it must vary")
    if (labels - exact).abs().max() > PRECISION * extent:
        what = f"varies by {extent:g} around {exact.mean():g}, too little for single precision"
        raise InputError(f"{named} {what}; subtract a constant from it, or multiply it by one")
