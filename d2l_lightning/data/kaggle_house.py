"""House prices in Ames, Iowa: the data of Kaggle's competition, ready for training."""

import reprlib
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

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
from d2l_lightning.errors import InputError

BUNDLED = Path(__file__).with_name("files")
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
        numeric = [c for c in columns if is_numeric(known[c])]
        if self.data_dir is not None:
            train, test = (_read_own(Path(self.data_dir), name) for name in ("train", "test"))
            _check(train, [ID, *columns, PRICE], [*numeric, PRICE])
            _check(test, [ID, *columns], numeric)
        # What the files say of all houses, training rows first.
        self.raw = raw = pd.concat([train[columns], test[columns]], ignore_index=True)
        self.num_train = len(train)
        # (n,) prices in dollars, and the test rows' names as the file has them.
        self.prices = torch.tensor(to_numbers(train[PRICE]).to_numpy(np.float32))
        self.test_ids: list[str] = test[ID].tolist()
        self._numbers = raw[numeric].apply(to_numbers)
        self.feature_names = [*numeric]
        values = []
        for column in raw.drop(columns=numeric):
            names, of_column = indicators(raw[column])
            self.feature_names += names
            values.append(of_column)
        self._indicators = np.concatenate(values, axis=1)
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
        table = np.concatenate([standardized(self._numbers, known), self._indicators], axis=1)
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
    refuse(table, ID, table[ID].isna(), "is missing; every row needs its own")
    refuse(table, ID, table[ID].duplicated(), "stands there twice; every row needs its own")
    require_numbers(table, numeric)
    if PRICE in columns:
        refuse(table, PRICE, table[PRICE].isna(), "is missing; every training row needs a price")
        # As float32, which it is trained on: there the smallest numbers are 0.
        too_low = to_numbers(table[PRICE]).astype(np.float32) <= 0
        refuse(table, PRICE, too_low, "is not a positive price")
