"""House prices in Ames, Iowa: the data of Kaggle's competition."""

import re
import reprlib
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from d2l_lightning.data.batches import InMemoryData, loader_of, shuffled_loader
from d2l_lightning.data.reading import first_of, listing, names_in
from d2l_lightning.data.tables.coverage import MAX_COLUMNS, NOTABLE, new_categories, share_outside
from d2l_lightning.data.tables.encoding import indicators, standardized
from d2l_lightning.data.tables.reading import (
    check_rows,
    is_numeric,
    other_case,
    read_table,
    refuse,
    to_numbers,
)
from d2l_lightning.errors import InputError, absolute_path, require_known, require_positive

if TYPE_CHECKING:
    import pandas as pd

BUNDLED = Path(__file__).with_name("files")
ID, PRICE = "Id", "SalePrice"
Statistics = Literal["all", "train"]


class KaggleHouse(InMemoryData):
    """The Ames house prices: 1460 training rows with a price, 1459 test rows without, 79 raw features.

    Numeric features are standardised, and missing values are set to the mean. Each category becomes an
    indicator, as does a missing category. This makes 331 features. Training uses all training rows, in
    batches of X ``(B, d)`` and prices in dollars ``(B,)``; validation evaluates them as stage ``train``.

    Args:
        data_dir: A folder with other files train.csv and test.csv, under these names or the book's. Without
            it, the files of the package are used.
        statistics: The rows whose mean and standard deviation standardise numeric features: all rows with the
            test rows (all), as in the book, or only those of the training (train).
        batch_size: Rows in a batch.
        seed: Seed of the order of the rows, which changes with the epoch.

    Source: Sections 4.10.3 and 4.10.4. Data: De Cock (2011).
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        statistics: Statistics = "all",
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_known("statistics", statistics, Statistics)
        require_positive(batch_size=batch_size)
        data_dir = None if data_dir is None else str(absolute_path(data_dir))
        self.save_hyperparameters()
        self.data_dir, self.statistics = data_dir, statistics
        self.batch_size, self.seed = batch_size, seed

    def _load(self) -> None:
        """Read and check the files."""
        import pandas as pd

        train, test = (read_table(BUNDLED / f"kaggle_house_pred_{name}.csv.gz") for name in ("train", "test"))
        known = pd.concat([train, test]).drop(columns=[ID, PRICE])
        columns = [str(column) for column in known]
        numeric = [c for c in columns if is_numeric(known[c])]
        if self.data_dir is not None:
            train, test = (_read_own(Path(self.data_dir), name) for name in ("train", "test"))
            _check(train, [ID, *columns, PRICE], [*numeric, PRICE])
            _check(test, [ID, *columns], numeric)
        # The features of all houses as text, training rows first.
        self.raw = pd.concat([train[columns], test[columns]], ignore_index=True)
        self.num_train = len(train)
        # Prices in dollars, shape (n,), and the ids of the test rows as they are in the file.
        self.prices = torch.tensor(to_numbers(train[PRICE]).to_numpy(np.float32))
        self.test_ids: list[str] = test[ID].tolist()
        self._numbers = self.raw[numeric].apply(to_numbers)
        names, values = zip(*(indicators(self.raw[c]) for c in columns if c not in numeric), strict=True)
        self.feature_names = [*numeric, *chain(*names)]
        self._indicators = np.concatenate(values, axis=1)

    def features(self, train_rows: Tensor | None = None) -> Tensor:
        """Return the features of all training rows, then of all test rows: shape ``(n + m, d)``.

        With ``statistics="train"``, they are standardised over ``train_rows``, or else all training rows.
        """
        known = self._numbers
        if self.statistics == "train":
            known = known.iloc[: self.num_train] if train_rows is None else known.iloc[train_rows.numpy()]
        table = np.concatenate([standardized(self._numbers, known), self._indicators], axis=1)
        return torch.from_numpy(table)

    def stacked_features(self, train_rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return X ``(n, d)`` and y ``(n,)`` for K members that train side by side, each on rows of its own.

        With ``statistics="train"``, members have features of their own: ``(K, n, d)`` and ``(K, n)``.
        """
        if self.statistics == "all":
            return self.features()[: self.num_train], self.prices
        X = torch.stack([self.features(rows)[: self.num_train] for rows in train_rows])
        return X, self.prices.expand(len(X), -1)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of shuffled batches ``(X, y)``."""
        examples = self.on_device(self.features()[: self.num_train], self.prices)
        return shuffled_loader(self, self.batch_size, self.seed, *examples)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the loader of one batch: all training rows, as stage ``train``."""
        weight = {"train": torch.ones(self.num_train)}
        return loader_of((self.features()[: self.num_train], self.prices, weight))

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader of one batch: the features of all test rows."""
        return loader_of(self.features()[self.num_train :])

    def warnings(self) -> list[str]:
        """Return what the test rows have and the training rows lack: categories, and columns out of range."""
        train, test = self.raw.iloc[: self.num_train], self.raw.iloc[self.num_train :]
        found: list[tuple[float, str]] = []
        added = 0
        for column in self.raw:
            numeric = column in self._numbers
            new = {} if numeric else new_categories(train[column], test[column])
            share = share_outside(train[column], test[column], numeric)
            if new:
                names = [f"{reprlib.repr(name)} ({part:.1%})" for name, part in new.items()]
                added += len(new)
                what = f"have a category that no training row has in the column {column}"
                found.append((sum(new.values()), f"{what}: {first_of(names, 3)}."))
            elif share > NOTABLE:
                found.append((share, f"lie outside what the training rows have in the column {column}."))
        found.sort(key=lambda each: -each[0])
        notes = [f"{share:.1%} of the test rows {what}" for share, what in found[:MAX_COLUMNS]]
        if len(found) > MAX_COLUMNS:
            notes.append(f"The same holds for {len(found) - MAX_COLUMNS} more columns.")
        if added:
            notes.append(f"Only test rows have {added} of the {len(self.feature_names)} features.")
        return notes

    def submission(self, prices: Tensor) -> "pd.DataFrame":
        """Return the table to submit to Kaggle: ``Id`` and ``SalePrice``, in the order of the test file.

        Predicted prices, shape ``(m,)``, must be finite; those below 1 dollar become 1 (eq. 4.10.2).
        """
        if not prices.isfinite().all():
            raise InputError("a predicted price is not finite; a lower lr may help")
        import pandas as pd

        return pd.DataFrame({ID: self.test_ids, PRICE: prices.clamp(min=1).cpu().double().numpy()})


def _read_own(folder: Path, name: str) -> "pd.DataFrame":
    """Read a user's train.csv or test.csv."""
    present = names_in(folder)
    names = [f"{name}.csv", f"kaggle_house_pred_{name}.csv"]
    for file in names:
        if file in present:
            table = read_table(folder / file)
            if ID in table:  # a program that took the ids for numbers wrote 1461.0
                table[ID] = table[ID].map(_whole_number, na_action="ignore")
            return table
    raise InputError(f"there is no {' or '.join(names)} in {folder}; {listing(present)}")


def _check(table: "pd.DataFrame", columns: list[str], numeric: list[str]) -> None:
    """Raise an InputError unless a table has these columns, with numbers and positive prices in them."""
    missing = [column for column in columns if column not in table]
    unknown = [reprlib.repr(column) for column in table if column not in columns]
    if missing or unknown:
        what = "lacks the column" if missing else "has an unknown column,"
        similar = other_case(table, missing[0]) if missing else ""
        remedy = "it must have those of Kaggle's file, separated by commas"
        raise InputError(f"{table.index.name} {what} {first_of(missing or unknown)}{similar}; {remedy}")
    check_rows(table, numeric)
    refuse(table, ID, table[ID].isna(), "is missing; every row needs one")
    refuse(table, ID, table[ID].duplicated(), "is not unique; every row needs its own")
    if PRICE in columns:
        refuse(table, PRICE, table[PRICE].isna(), "is missing; every training row needs a price")
        # Training uses float32, in which the smallest numbers are 0.
        too_low = to_numbers(table[PRICE]).astype(np.float32) <= 0
        refuse(table, PRICE, too_low, "is not a positive price")


def _whole_number(text: str) -> str:
    """Return a text such as ``1461.0`` or ``1.461e+03`` as ``1461``; other texts as they are."""
    number = re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d{1,2})?", text)
    whole = number is not None and (number[1] or number[2]) and Decimal(text) == int(Decimal(text))
    return str(int(Decimal(text))) if whole else text
