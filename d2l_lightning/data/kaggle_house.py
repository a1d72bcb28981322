"""House prices in Ames, Iowa: the data of Kaggle's competition."""

import re
import reprlib
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from d2l_lightning.data.hub import BUNDLED as BUNDLED
from d2l_lightning.data.kaggle_table import KaggleTable, Statistics, check_ids
from d2l_lightning.data.reading import first_of, listing, names_in
from d2l_lightning.data.tables.encoder import FEATURE_SETS, Missing, TableEncoder
from d2l_lightning.data.tables.reading import (
    check_rows,
    is_numeric,
    other_case,
    read_table,
    refuse,
    to_numbers,
)
from d2l_lightning.errors import InputError, absolute_path, require_known

if TYPE_CHECKING:
    import pandas as pd

ID, PRICE = "Id", "SalePrice"
HouseFeatures = Literal["columns", "unscaled", "scaled", "ames"]


class KaggleHouse(KaggleTable):
    """The Ames house prices: 1460 training rows with a price, 1459 test rows without, 79 raw features.

    Numeric features are standardised, and missing values are set to the mean. Each category becomes an
    indicator, as does a missing category. This makes 331 features. Training uses all training rows, in
    batches of X ``(B, d)`` and prices in dollars ``(B,)``; validation evaluates them as stage ``train``.

    Args:
        data_dir: A folder with your own train.csv and test.csv, under these names or the book's. If not
            given, the data of the package.
        statistics: The rows whose mean and standard deviation standardise numeric features: all rows with the
            test rows (all), as in the book, or the training rows only (train).
        batch_size: Rows in a batch.
        seed: Seed of the order of the rows, which changes with the epoch.
        features: Which features are made of the columns: those of the book (columns), those with numbers as
            they are instead of standardised (unscaled), those with each number in three scales (scaled), or
            402 that were chosen for these houses (ames).
        drop_last: Whether the last rows of an epoch are left out if they are fewer than a batch.
        missing: What a missing number becomes: the mean of its column (mean), the median (median), or the
            mean, with a further feature that is 1 where the number is missing (indicator). If not given, the
            mean, as in the book; with the features scaled, indicator. The features ames have their own rules.

    Raises:
        InputError: If a setting is unknown, or ``missing`` is given for the features ames.

    Source: Sections 4.10.3 and 4.10.4. Data: De Cock (2011).
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        statistics: Statistics = "all",
        batch_size: int = 64,
        seed: int = 0,
        features: HouseFeatures = "columns",
        drop_last: bool = False,
        missing: Missing | None = None,
    ) -> None:
        require_known("features", features, HouseFeatures)
        if missing is not None and features == "ames":
            raise InputError(f"missing {missing} has no effect: the features ames leave no number missing")
        train, test = (BUNDLED / f"kaggle_house_pred_{name}.csv.gz" for name in ("train", "test"))
        super().__init__(
            *(train, test, ID, PRICE),
            metric="log_rmse",
            missing=missing,
            statistics=statistics,
            batch_size=batch_size,
            drop_last=drop_last,
            seed=seed,
        )
        data_dir = None if data_dir is None else str(absolute_path(data_dir))
        self.save_hyperparameters()
        self.data_dir, self.feature_set = data_dir, features

    @property
    def prices(self) -> Tensor:
        """The prices in dollars, shape ``(n,)``."""
        return self.labels

    def _read(self) -> "list[pd.DataFrame]":
        """Return the tables; kinds are those of the columns in the files of the package."""
        import pandas as pd

        train, test = (read_table(file) for file in self.files)
        known = pd.concat([train, test]).drop(columns=[ID, PRICE])
        self.kinds = {str(c): "number" if is_numeric(known[c]) else "category" for c in known}
        if self.data_dir is not None:
            train, test = (_read_own(Path(self.data_dir), name) for name in ("train", "test"))
            numeric = [column for column, kind in self.kinds.items() if kind == "number"]
            _check(train, [ID, *self.kinds, PRICE], [*numeric, PRICE])
            _check(test, [ID, *self.kinds], numeric)
        return [train, test]

    def _checked(self, table: "pd.DataFrame") -> "pd.DataFrame":
        numbers = [column for column, kind in self._new_encoder().columns.items() if kind == "number"]
        return table[list(self.kinds)].assign(**{column: to_numbers(table[column]) for column in numbers})

    def _known_values(self) -> "pd.DataFrame":
        """Return the rows whose categories become features: those of both files, as in the book."""
        return self._values

    def _fitted(self) -> tuple[TableEncoder, Tensor]:
        encoder = self._new_encoder()
        known = torch.arange(self.num_train) if self.statistics == "train" else None
        return encoder, encoder.fit_transform(self._values, known)

    def _new_encoder(self) -> TableEncoder:
        own = FEATURE_SETS[self.feature_set](self.kinds)
        as_in_book = self.feature_set in ("columns", "unscaled")
        return TableEncoder(own, as_in_book, missing_numbers=self.missing)

    def submission(self, prices: Tensor) -> "pd.DataFrame":
        """Return the table to submit to Kaggle: ``Id`` and ``SalePrice``, in the order of the test file.

        Predicted prices, shape ``(m,)``, must be finite; those below 1 dollar become 1 (eq. 4.10.2).
        """
        if not prices.isfinite().all():
            raise InputError("a predicted price is not finite; a lower lr may help")
        return super().submission(prices.clamp(min=1))


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
    check_ids(table, ID)
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
