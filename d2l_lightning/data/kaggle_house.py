"""House prices in Ames, Iowa: the data of Kaggle's competition, ready for training."""

import csv
import gzip
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
MISSING = ["", "NA", "na", "N/A", "NaN", "nan", "NULL", "null"]
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
        InputError: In ``setup``, if a file cannot be used: the message names the file and the place.

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
        numeric = [c for c in columns if _to_numbers(known[c]).notna().equals(known[c].notna())]
        if self.data_dir is not None:
            train, test = (_read_own(Path(self.data_dir), name) for name in ("train", "test"))
            _check(train, [ID, *map(str, known), PRICE], [*numeric, PRICE])
            _check(test, [ID, *map(str, known)], numeric)
        raw = pd.concat([train[columns], test[columns]], ignore_index=True)
        self.num_train = len(train)
        # (n,) prices in dollars, and the test rows' names as the file has them.
        self.prices = torch.tensor(_to_numbers(train[PRICE]).to_numpy(np.float32))
        self.test_ids: list[str] = test[ID].tolist()
        self._numbers = raw[numeric].apply(_to_numbers)
        categories = raw.drop(columns=numeric).astype(object)
        self._indicators = pd.get_dummies(
            categories, dummy_na=True, columns=list(categories), dtype=np.float32
        )
        self.feature_names: list[str] = [*self._numbers.columns, *self._indicators.columns]
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
        std = known.std()
        # A feature that does not vary tells nothing: 0, as where it is missing and so set to the mean.
        standard = ((self._numbers - known.mean()) / std.where(std > 0)).fillna(0.0)
        table = np.concatenate([standard.to_numpy(np.float32), self._indicators.to_numpy(np.float32)], axis=1)
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
        return pd.DataFrame({ID: self.test_ids, PRICE: prices.clamp(min=1).double().cpu().numpy()})


def read_table(file: Path) -> pd.DataFrame:
    """Read a CSV file, gzipped or not, as text; missing values are NaN.

    The index counts the lines of the file and is named after it, for messages.

    Raises:
        InputError: If the file is missing, is no CSV, or has lines with more or fewer fields than its header.
    """
    opener = gzip.open if file.suffix == ".gz" else open
    header: list[str] = []
    rows, lines = [], []
    try:
        with opener(file, "rt", encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            for row in reader:
                if row:
                    if len(row) != len(header):
                        raise InputError(
                            f"{file}, line {reader.line_num}: {len(row)} fields where the header has "
                            f"{len(header)}; is the file whole, and a CSV?"
                        )
                    rows.append(row)
                    lines.append(reader.line_num)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error, EOFError) as error:
        raise InputError(f"{file} is no whole CSV file ({error})") from error
    if not header:
        raise InputError(f"{file} is empty")
    doubled = [column for column in dict.fromkeys(header) if header.count(column) > 1]
    if doubled:
        raise InputError(f"{file} has the column {doubled[0]} {header.count(doubled[0])} times")
    table = pd.DataFrame(rows, columns=header, index=pd.Index(lines, name=str(file)), dtype=object)
    return table.mask(table.isin(MISSING))


def _read_own(folder: Path, name: str) -> pd.DataFrame:
    names = [f"{name}.csv", f"kaggle_house_pred_{name}.csv"]
    for file in names:
        if (folder / file).exists():
            return read_table(folder / file)
    raise InputError(f"there is no {' or '.join(names)} in {folder}")


def _to_numbers(column: "pd.Series[Any]") -> "pd.Series[float]":
    """Return a column as float64, NaN where it is missing or no finite number."""
    numbers = cast("pd.Series[float]", pd.to_numeric(column, errors="coerce")).astype(np.float64)
    return numbers.where(np.isfinite(numbers))


def _check(table: pd.DataFrame, columns: list[str], numeric: list[str]) -> None:
    """Raise an InputError unless a table has these columns, numbers where they belong, and sound prices."""
    file = table.index.name
    for wrong, what in (
        ([c for c in columns if c not in table], "lacks the column"),
        ([c for c in table if c not in columns], "has an unknown column,"),
    ):
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise InputError(f"{file} {what} {wrong[0]}{more}; it must have those of Kaggle's file")
    if table.empty:
        raise InputError(f"{file} has a header and no rows")
    for column in numeric:
        _refuse(table, column, table[column].notna() & _to_numbers(table[column]).isna(), "is not a number")
    _refuse(table, ID, table[ID].isna(), "is missing")
    _refuse(table, ID, table[ID].duplicated(), "stands there twice")
    if PRICE in columns:
        _refuse(table, PRICE, table[PRICE].isna(), "is missing")
        _refuse(table, PRICE, _to_numbers(table[PRICE]) <= 0, "is not a positive price")


def _refuse(table: pd.DataFrame, column: str, where: "pd.Series[bool]", why: str) -> None:
    if where.any():
        line = table.index[where.to_numpy()][0]
        value = table.loc[line, column]
        shown = "" if pd.isna(cast(Any, value)) else f" {value!r}"
        raise InputError(f"{table.index.name}, line {line}: {column}{shown} {why}")
