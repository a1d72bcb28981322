"""Two CSV files of a user: a source with labels and a target without."""

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from d2l_lightning.data.covariate_shift import SourceAndTarget
from d2l_lightning.data.reading import first_of
from d2l_lightning.data.tables.coverage import MAX_COLUMNS, NOTABLE, share_outside
from d2l_lightning.data.tables.encoder import TableEncoder
from d2l_lightning.data.tables.features import Columns
from d2l_lightning.data.tables.reading import (
    check_rows,
    is_numeric,
    other_case,
    read_table,
    refuse,
    to_numbers,
)
from d2l_lightning.errors import InputError, absolute_path, printable, require_finite, require_known

if TYPE_CHECKING:
    import pandas as pd

Task = Literal["auto", "regression", "classification"]


class ShiftedTables(SourceAndTarget):
    """Two CSV files with the same columns, except for the label, which only the source has.

    A column is numeric if all its values in the source are numbers. Numeric columns are standardised over
    both files, and a missing value becomes the mean. Every category becomes an indicator, and a column with
    missing values gets an indicator of these. Neither labels nor the file of a row are used.

    Args:
        source: The CSV file with labels.
        target: The CSV file without labels.
        label: The column to predict.
        ignore: Columns that are not features, such as names and row numbers. They need not be in both files.
        task: Whether labels are numbers (regression), which are standardised over the source, or classes
            (classification). With `auto`, they are numbers if all of them can be read as numbers.
        batch_size: Rows in a training batch.
        seed: With the epoch, decides the order of the source's rows.

    Attributes:
        y: Labels of the source, shape ``(n,)``: standardised numbers, or indices of ``classes``.
        encoder: The encoder of the features, fitted to the rows of both files.
        feature_names: The names of the d features.
        classes: The names of the classes; empty in regression.
        scale: Mean and standard deviation of the labels before they were standardised.
        lines: The line of its file where each row begins, by ``source`` and ``target``.
        outside: The share of the target's rows whose value the source does not cover, by column.
    """

    def __init__(
        self,
        source: str | Path,
        target: str | Path,
        label: str,
        ignore: Sequence[str] = (),
        task: Task = "auto",
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        require_known("task", task, Task)
        if label in ignore:
            raise InputError(f"the label {label!r} cannot be ignored")
        self.files = [absolute_path(source), absolute_path(target)]
        self.label, self.ignore, self.task = label, list(ignore), task
        self.classes: list[str] = []
        self.scale = (0.0, 1.0)

    def _load(self) -> None:
        import pandas as pd

        source, target = (read_table(file) for file in self.files)
        columns = self._check_columns(source, target)
        numeric = [column for column in columns if is_numeric(source[column])]
        for table in (source, target):
            check_rows(table, numeric)
        self._set_labels(source[[self.label]])
        self.lines = {"source": source.index.tolist(), "target": target.index.tolist()}
        self.outside = {c: share_outside(source[c], target[c], c in numeric) for c in columns}
        both = pd.concat([source[columns], target[columns]], ignore_index=True)
        _refuse_names(both.drop(columns=numeric))
        kinds = {column: "number" if column in numeric else "category" for column in columns}
        self.encoder = TableEncoder(Columns(kinds)).fit(both)
        self.X = self.encoder.transform(both)
        self.feature_names = self.encoder.feature_names
        rows = torch.arange(len(self.X)).split([len(source), len(target)])
        self.rows = dict(zip(("source", "target"), rows, strict=True))

    @property
    def num_source(self) -> int:
        """Number of rows of the source, n."""
        return len(self.y)

    def _check_columns(self, source: "pd.DataFrame", target: "pd.DataFrame") -> list[str]:
        """Return the columns that are features; raise an InputError unless both files have them."""
        for column in self.ignore:
            if column not in source and column not in target:
                similar = other_case(source, column) or other_case(target, column)
                raise InputError(f"--ignore names the column {column!r}, which neither file has{similar}")
        if self.label not in source:
            similar = other_case(source, self.label)
            raise InputError(f"{source.index.name} lacks the column {self.label!r}, the label{similar}")
        if self.label in target:
            raise InputError(f"{target.index.name} has the column {self.label!r}, the label; take it out")
        features = source.drop(columns=[self.label, *self.ignore], errors="ignore")
        of_target = target.drop(columns=self.ignore, errors="ignore")
        for table, other in ((target, features), (source, of_target)):
            missing = [str(column) for column in other if column not in table]
            if missing:
                names = first_of([reprlib.repr(column) for column in missing])
                similar = other_case(table, missing[0])
                raise InputError(
                    f"{table.index.name} lacks the column {names} of {other.index.name}{similar}; both files "
                    "must have the same columns, except for the label and those that --ignore names"
                )
        if features.columns.empty:
            raise InputError(f"{source.index.name} has no column to learn from")
        return [str(column) for column in features]

    def _set_labels(self, table: "pd.DataFrame") -> None:
        column = table[self.label]
        refuse(table, self.label, column.isna(), "is missing; every row of the source needs its label")
        if column.nunique() < 2:
            raise InputError(f"{table.index.name}: {self.label} is the same in all rows; it must vary")
        if self.task == "classification" or (self.task == "auto" and not is_numeric(column)):
            import pandas as pd

            codes, classes = pd.factorize(column, sort=True)
            if len(classes) > max(20, len(column) / 2):
                raise InputError(
                    f"{table.index.name}: {self.label} has {len(classes)} classes in {len(column)} rows; "
                    "there must be several rows of each"
                )
            self.y, self.classes = torch.from_numpy(codes).long(), [str(name) for name in classes]
            return
        check_rows(table, [self.label])
        y = to_numbers(column)
        if not y.max() > y.min():  # two spellings of one number, such as 1 and 1.0
            raise InputError(f"{table.index.name}: {self.label} is {y.min():g} in all rows")
        self.scale = (float(y.mean()), float(y.std()))
        self.y = torch.tensor(((y - self.scale[0]) / self.scale[1]).to_numpy(np.float32))

    @property
    def loss_unit(self) -> float:
        """The factor that turns a mean loss into the label's unit: squared in regression, 1 for classes."""
        return 1.0 if self.classes else self.scale[1] ** 2

    def decode(self, output: Tensor) -> list[str] | npt.NDArray[np.float64]:
        """Return logits ``(B, q)`` as names of classes, or predictions ``(B,)`` in the label's unit.

        Raises:
            InputError: If the output is not finite.
        """
        require_finite(predictions=output)
        if self.classes:
            return [self.classes[i] for i in output.argmax(dim=1).tolist()]
        mean, deviation = self.scale
        return (output.double() * deviation + mean).numpy()

    def warnings(self, k: int) -> list[str]:
        """Return the limits of these files: columns with new values, and classes with fewer than k rows."""
        outside = sorted(((share, column) for column, share in self.outside.items()), reverse=True)
        columns = [
            f"{share:.0%} of the target's rows lie outside what the source has in the column {column}."
            for share, column in outside[:MAX_COLUMNS]
            if share > NOTABLE
        ]
        counts = torch.bincount(self.y).tolist() if self.classes else []
        classes = [
            f"The class {name} has {count} rows, fewer than the {k} folds: results for it are unreliable."
            for name, count in zip(self.classes, counts, strict=True)
            if count < k
        ]
        return [printable(warning) for warning in columns + classes]


def _refuse_names(categories: "pd.DataFrame") -> None:
    """Raise an InputError if a column has nearly as many categories as rows."""
    for column in categories:
        levels = categories[column].nunique()
        if levels > max(20, len(categories) / 2):
            raise InputError(
                f"the column {column} has {levels} different texts in {len(categories)} rows, as names and "
                "dates have; leave it out with --ignore"
            )
