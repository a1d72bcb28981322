"""A person's own two CSV files: a source with labels, and a target without."""

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.batches import ShuffledBatches
from d2l_lightning.data.tables import (
    indicators,
    is_numeric,
    read_table,
    refuse,
    require_numbers,
    standardized,
    to_numbers,
)
from d2l_lightning.errors import InputError, require_known, require_positive

Task = Literal["auto", "regression", "classification"]


class ShiftedTables(LightningDataModule):
    """Two CSV files with the same columns, but for the label, which the source alone has.

    A column is numeric if all that the source has there are numbers. Those are standardised over all rows, a
    missing one set to the mean; every category becomes an indicator, and so does that a value is missing.
    Neither labels nor which file a row is from enter.

    Trains on the source: batches ``(X, y)`` of shapes ``(B, d)`` and ``(B,)``, with weights if there are any.
    Predicts the target.

    Args:
        source: The file with labels.
        target: The file without.
        label: The column that is to be predicted.
        ignore: Columns that are no features; they need not be in both files.
        task: ``regression`` on a label of numbers, standardised over the source; ``classification`` of
            categories; or ``auto``, which takes regression where all labels are numbers.
        batch_size: Rows in a training batch.
        seed: What, with the epoch, decides the order of the source's rows.

    Attributes:
        X: Features of the source's rows, then the target's, shape ``(n + m, d)``; from ``setup`` on.
        y: Labels of the source, shape ``(n,)``: standardised numbers, or places among ``classes``.
        feature_names: The d features' names.
        classes: The classes' names; none in regression.
        scale: Mean and standard deviation of the labels before they were standardised.
        lines: On which line of its file each row begins, by ``source`` and ``target``.
        outside: The share of the target's rows that lie outside what the source has, by column.
        weights: What the source's rows weigh in training, shape ``(n,)``; no weights if None.

    Raises:
        InputError: If an argument is out of its range; in ``setup``, if a file cannot be used: the message
            names the file and the place.
    """

    def __init__(
        self,
        source: str,
        target: str,
        label: str,
        ignore: Sequence[str] = (),
        task: Task = "auto",
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_known("task", task, Task)
        require_positive(batch_size=batch_size)
        if label in ignore:
            raise InputError(f"the label {label!r} cannot be ignored")
        self.files = {"source": source, "target": target}
        self.label, self.ignore, self.task = label, list(ignore), task
        self.batch_size, self.seed = batch_size, seed
        self.weights: Tensor | None = None
        self.classes: list[str] = []
        self.scale = (0.0, 1.0)
        self._ready = False

    def setup(self, stage: str | None = None) -> None:
        """Read and check the files; a second call does nothing."""
        if self._ready:
            return
        source, target = (read_table(Path(file)) for file in self.files.values())
        columns = self._check_columns(source, target)
        for table in (source, target):
            if table.empty:
                raise InputError(f"{table.index.name} has a header and no rows")
        numeric = [column for column in columns if is_numeric(source[column])]
        for table in (source, target):
            require_numbers(table, numeric)
        self._set_labels(source[[self.label]])
        self.lines = {"source": source.index.tolist(), "target": target.index.tolist()}
        both = pd.concat([source[columns], target[columns]], ignore_index=True)
        self.outside = {
            column: _share_outside(source[column], target[column], column in numeric) for column in columns
        }
        numbers = both[numeric].apply(to_numbers)
        self.feature_names = [*numeric]
        values = [standardized(numbers, numbers)]
        for column in numeric:
            if both[column].isna().any():
                self.feature_names.append(f"{column}_nan")
                values.append(both[[column]].isna().to_numpy(np.float32))
        for column in [column for column in columns if column not in numeric]:
            levels = both[column].nunique()
            if levels > max(20, len(both) / 2):
                raise InputError(
                    f"the column {column} has {levels} different texts in {len(both)} rows, as names and "
                    f"dates have; leave it out with --ignore"
                )
            names, of_column = indicators(both[column])
            present = len(names) if both[column].isna().any() else len(names) - 1
            self.feature_names += names[:present]
            values.append(of_column[:, :present])
        self.X = torch.from_numpy(np.concatenate(values, axis=1))
        self._ready = True

    @property
    def num_source(self) -> int:
        """Number of rows of the source, n."""
        return len(self.y)

    def _check_columns(self, source: pd.DataFrame, target: pd.DataFrame) -> list[str]:
        """Return the columns that are features; raise an InputError unless both files have them."""
        for column in self.ignore:
            if column not in source and column not in target:
                raise InputError(f"--ignore names the column {column!r}, which neither file has")
        if self.label not in source:
            raise InputError(f"{source.index.name} lacks the column {self.label!r}, which is to be predicted")
        if self.label in target:
            raise InputError(
                f"{target.index.name} has the column {self.label!r}, which is to be predicted; take it out"
            )
        ours = [column for column in source if column != self.label and column not in self.ignore]
        theirs = [column for column in target if column not in self.ignore]
        for table, others, other in ((target, ours, source), (source, theirs, target)):
            wrong = [reprlib.repr(column) for column in others if column not in table]
            if wrong:
                more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
                raise InputError(
                    f"{table.index.name} lacks the column {wrong[0]}{more} of {other.index.name}; both must "
                    "have the same columns, but for the label and what --ignore names"
                )
        if not ours:
            raise InputError(f"{source.index.name} has no column to learn from")
        return [str(column) for column in ours]

    def _set_labels(self, table: pd.DataFrame) -> None:
        column = table[self.label]
        refuse(table, self.label, column.isna(), "is missing; every row of the source needs its label")
        if column.nunique() < 2:
            raise InputError(
                f"{table.index.name}: {self.label} is the same in all rows; nothing is to be learned"
            )
        if self.task == "classification" or (self.task == "auto" and not is_numeric(column)):
            codes, classes = pd.factorize(column, sort=True)
            if len(classes) > max(20, len(column) / 2):
                raise InputError(
                    f"{table.index.name}: {self.label} has {len(classes)} classes in {len(column)} rows; "
                    "there must be several rows of each"
                )
            self.y, self.classes = torch.from_numpy(codes).long(), [str(name) for name in classes]
            return
        require_numbers(table, [self.label])
        y = to_numbers(column)
        if not y.max() > y.min():  # as 1 and 1.0 are
            raise InputError(f"{table.index.name}: {self.label} is {y.min():g} in all rows")
        self.scale = (float(y.mean()), float(y.std()))
        self.y = torch.tensor(((y - self.scale[0]) / self.scale[1]).to_numpy(np.float32))

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of shuffled batches of the source: X ``(B, d)``, y ``(B,)``, weights if any."""
        weights = [] if self.weights is None else [self.weights.float()]
        data = TensorDataset(self.X[: self.num_source], self.y, *weights)
        batches = ShuffledBatches(self.num_source, self.batch_size, self.seed)
        return DataLoader(data, batch_size=None, sampler=batches)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the target's features, in the file's order."""
        return DataLoader(cast(Any, [self.X[self.num_source :]]), batch_size=None)


def _share_outside(source: "pd.Series[Any]", target: "pd.Series[Any]", numeric: bool) -> float:
    """Return the share of the target's values beyond all of the source's, or of kinds unknown there."""
    if numeric:
        known, values = to_numbers(source), to_numbers(target)
        within = (values >= known.min()) & (values <= known.max())
    else:
        within = target.isin(set(source.dropna()))
    # What is missing is a kind of its own.
    outside = ~within if source.notna().all() else ~within & target.notna()
    return float(outside.mean())
