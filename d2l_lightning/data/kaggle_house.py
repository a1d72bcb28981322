"""House prices in Ames, Iowa: the data of Kaggle's competition, ready for training."""

import csv
import gzip
import io
import reprlib
from collections import Counter
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from d2l_lightning.batches import ShuffledBatches
from d2l_lightning.errors import InputError

BUNDLED = Path(__file__).with_name("files")
# What stands for a missing value. "None" does not: it is a category of its own (no masonry veneer).
MISSING = ["", "NA", "na", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null"]
LARGEST = 1e15  # of a number; with larger ones float32 features would overflow
ID, PRICE = "Id", "SalePrice"

Statistics = Literal["all", "train"]


class KaggleHouse(LightningDataModule):
    """The Ames house prices: 1460 training rows with a price, 1459 test rows without, 79 raw features.

    Numeric features are standardised and their missing values set to the mean; every category, and
    "missing" among them, becomes an indicator: 331 features.

    On its own it trains on all rows: batches ``(X, y)`` of shapes ``(B, d)`` and ``(B,)``, prices in dollars.
    For evaluation it brings the training rows, as stage ``train``; for prediction the test rows.

    Args:
        data_dir: A folder with one's own ``train.csv`` and ``test.csv``, by these names or the book's; None
            for the files that come with the package.
        statistics: Whose mean and standard deviation standardise a numeric feature: those of ``all`` rows,
            training and test together, as in the book, or of the rows that are trained on (``train``).
        batch_size: Rows in a training batch.
        seed: What, with the epoch, decides the order of the rows.

    Raises:
        InputError: If an argument is out of its range; in ``setup``, if a file cannot be used: the message
            names the file and the place.

    Source: Sections 4.10.3 and 4.10.4. Data: De Cock (2011).
    """

    def __init__(
        self,
        data_dir: str | None = None,
        statistics: Statistics = "all",
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if statistics not in get_args(Statistics):
            raise InputError(
                f"statistics must be one of {', '.join(get_args(Statistics))}, not {statistics!r}"
            )
        if batch_size < 1:
            raise InputError(f"batch_size must be positive, not {batch_size}")
        self.save_hyperparameters()
        self.data_dir = data_dir
        self.statistics = statistics
        self.batch_size = batch_size
        self.seed = seed
        self._ready = False

    def setup(self, stage: str | None = None) -> None:
        """Read and check the files; a second call does nothing."""
        if self._ready:
            return
        train, test = (read_table(BUNDLED / f"kaggle_house_pred_{name}.csv.gz") for name in ("train", "test"))
        known = pd.concat([train, test]).drop(columns=[ID, PRICE])
        columns = [str(column) for column in known]
        numeric = [c for c in columns if _is_numeric(known[c])]
        if self.data_dir is not None:
            train, test = (_read_own(Path(self.data_dir), name) for name in ("train", "test"))
            _check(train, [ID, *columns, PRICE], [*numeric, PRICE])
            _check(test, [ID, *columns], numeric)
        raw = pd.concat([train[columns], test[columns]], ignore_index=True)
        self.num_train = len(train)
        # (n,) prices in dollars, and the test rows' names as the file has them.
        self.prices = torch.tensor(_to_numbers(train[PRICE]).to_numpy(np.float32))
        self.test_ids: list[str] = test[ID].tolist()
        self._numbers = raw[numeric].apply(_to_numbers)
        self.feature_names = [*numeric]
        indicators = []
        for column in raw.drop(columns=numeric):
            codes, categories = pd.factorize(raw[column], sort=True)
            self.feature_names += [f"{column}_{category}" for category in [*categories, "nan"]]
            # A missing value's code is -1, which takes the last row.
            indicators.append(np.eye(len(categories) + 1, dtype=np.float32)[codes])
        self._indicators = np.concatenate(indicators, axis=1)
        self._ready = True

    def features(self, train_rows: Tensor | None = None) -> Tensor:
        """Return the features of all training rows, then all test rows: shape ``(n + m, d)``.

        Args:
            train_rows: The rows that are trained on, whose statistics count with ``statistics="train"``;
                all training rows if not given.

        Source: eq. 4.10.1.
        """
        known = self._numbers
        if self.statistics == "train":
            known = known.iloc[: self.num_train] if train_rows is None else known.iloc[train_rows.numpy()]
        # A feature that does not vary, or by next to nothing, is 0, as where it is missing and so set to the
        # mean. The standard deviation would not tell: it can be a rounding error instead of 0.
        varies = known.max() - known.min() > 1e-12
        standard = ((self._numbers - known.mean()) / known.std().where(varies)).fillna(0.0)
        table = np.concatenate([standard.to_numpy(np.float32), self._indicators], axis=1)
        return torch.from_numpy(table)

    def stacked_features(self, train_rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return X and y of the training rows for members that train side by side on rows of their own.

        Args:
            train_rows: The rows that each of K members trains on.

        Returns:
            X of shape ``(n, d)`` and y of shape ``(n,)``; with ``statistics="train"`` every member sees
            features of its own: ``(K, n, d)`` and ``(K, n)``.
        """
        if self.statistics == "all":
            return self.features()[: self.num_train], self.prices
        X = torch.stack([self.features(rows)[: self.num_train] for rows in train_rows])
        return X, self.prices.expand(len(X), -1)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of shuffled batches ``(X, y)``."""
        X, y = self.features()[: self.num_train], self.prices
        if self.trainer is not None:  # rows are gathered where they are used
            X, y = (tensor.to(self.trainer.strategy.root_device) for tensor in (X, y))
        return DataLoader(
            TensorDataset(X, y), sampler=ShuffledBatches(len(y), self.batch_size, self.seed), batch_size=None
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the loader of one batch, all training rows as stage ``train``."""
        batch = (self.features()[: self.num_train], self.prices, {"train": torch.ones(self.num_train)})
        return DataLoader(cast(Dataset[Any], [batch]), batch_size=None)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader of one batch, the features of all test rows."""
        return DataLoader(cast(Dataset[Any], [self.features()[self.num_train :]]), batch_size=None)

    def submission(self, prices: Tensor) -> pd.DataFrame:
        """Return the table that Kaggle wants: ``Id`` and ``SalePrice``, in the test file's order.

        Args:
            prices: Predicted prices of the test rows in dollars, shape ``(m,)``; below 1 they count as 1, as
                in eq. 4.10.2.

        Raises:
            InputError: If a price is not finite.

        Source: Section 4.10.8.
        """
        if not prices.isfinite().all():
            raise InputError("a predicted price is not finite; a lower lr may help")
        return pd.DataFrame({ID: self.test_ids, PRICE: prices.clamp(min=1).cpu().double().numpy()})


def read_table(file: Path) -> pd.DataFrame:
    """Read a CSV file, gzipped or not, as text; missing values are NaN.

    The index tells the line that each row begins on and is named after the file, for messages.

    Raises:
        InputError: If the file cannot be read, is no CSV, or has lines with more or fewer fields than its
            header.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    try:
        text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{file}, line {line}: no text in UTF-8; save the file as CSV, UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: dict[int, list[str]] = {}  # by the line that they begin on: a quoted field may hold line breaks
    line = 1
    try:
        for row in reader:
            if row:
                rows[line] = row
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{file}, line {line}: no CSV ({error}); is a quote out of place?") from error
    if not rows:
        raise InputError(f"{file} is empty")
    header = rows.pop(min(rows))
    column, count = Counter(header).most_common(1)[0]
    if count > 1:
        raise InputError(f"{file} has the column {reprlib.repr(column)} {count} times")
    for line, row in rows.items():
        if len(row) != len(header):
            raise InputError(
                f"{file}, line {line}: {len(row)} fields where the header has {len(header)}; is the file "
                "whole, and separated by commas?"
            )
    table = pd.DataFrame(
        list(rows.values()), columns=header, index=pd.Index(list(rows), name=str(file)), dtype=object
    )
    return table.mask(table.isin(MISSING))


def _read_own(folder: Path, name: str) -> pd.DataFrame:
    try:
        present = {file.name for file in folder.iterdir()}
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    names = [f"{name}.csv", f"kaggle_house_pred_{name}.csv"]
    for file in names:
        if file in present:
            return read_table(folder / file)
    raise InputError(f"there is no {' or '.join(names)} in {folder}")


def _is_numeric(column: "pd.Series[Any]") -> bool:
    """Return whether all that is not missing in a column are numbers."""
    try:
        pd.to_numeric(column)
    except ValueError:
        return False
    return True


def _to_numbers(column: "pd.Series[Any]") -> "pd.Series[float]":
    """Return a column as float64, NaN where it is missing, no number, or too large a one."""
    numbers = cast("pd.Series[float]", pd.to_numeric(column, errors="coerce")).astype(np.float64)
    return numbers.where(numbers.abs() <= LARGEST)


def _check(table: pd.DataFrame, columns: list[str], numeric: list[str]) -> None:
    """Raise an InputError unless a table has these columns, numbers where they belong, and sound prices."""
    file = table.index.name
    for wrong, what in (
        ([c for c in columns if c not in table], "lacks the column"),
        ([reprlib.repr(c) for c in table if c not in columns], "has an unknown column,"),
    ):
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise InputError(
                f"{file} {what} {wrong[0]}{more}; it must have those of Kaggle's file, separated by commas"
            )
    if table.empty:
        raise InputError(f"{file} has a header and no rows")
    _refuse(table, ID, table[ID].isna(), "is missing; every row needs its own")
    _refuse(table, ID, table[ID].duplicated(), "stands there twice; every row needs its own")
    for column in numeric:
        no_number = table[column].notna() & _to_numbers(table[column]).isna()
        _refuse(table, column, no_number, "is no number, or too large a one; a missing number is NA")
    if PRICE in columns:
        _refuse(table, PRICE, table[PRICE].isna(), "is missing; every training row needs a price")
        # As float32, which it is trained on: there the smallest numbers are 0.
        too_low = _to_numbers(table[PRICE]).astype(np.float32) <= 0
        _refuse(table, PRICE, too_low, "is not a positive price")


def _refuse(table: pd.DataFrame, column: str, where: "pd.Series[bool]", why: str) -> None:
    """Raise an InputError that names the first of these rows, if there is one."""
    if where.any():
        line = table.index[where.to_numpy()][0]
        value = table.loc[line, column]
        shown = f" {reprlib.repr(value)}" if isinstance(value, str) else ""
        raise InputError(f"{table.index.name}, line {line}: {column}{shown} {why}")
