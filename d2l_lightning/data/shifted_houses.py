"""Covariate shift in real data: the Ames house prices, split by year or neighbourhood."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from d2l_lightning.data.batches import data_generator
from d2l_lightning.data.covariate_shift import CovariateShiftData
from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.data.tables.reading import to_numbers
from d2l_lightning.errors import InputError, require_known

HouseSplit = Literal["YearBuilt", "Neighborhood"]


class ShiftedHouses(CovariateShiftData):
    """The Ames house prices, split into source and target by year built or by neighbourhood.

    Neither the column that splits the houses nor its indicators are features: they alone would separate
    source and target. Half of the target's houses are its test rows. The true weights are unknown.

    Args:
        data_dir: A folder with your own train.csv and test.csv. If not given, the data of the package.
        split_by: The column that decides whether a house belongs to the source or to the target.
        year: With `--split_by YearBuilt`, houses built in this year or later are the target.
        neighborhoods: With `--split_by Neighborhood`, the neighbourhoods whose houses are the target.
        batch_size: Rows in a training batch.
        seed: Seed of the split of the target and of the order of the source's rows.
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        split_by: HouseSplit = "YearBuilt",
        year: int = 2000,
        neighborhoods: Sequence[str] = (),
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        require_known("split_by", split_by, HouseSplit)
        self.houses = KaggleHouse(data_dir)
        self.split_by, self.year, self.neighborhoods = split_by, year, list(neighborhoods)

    def _load(self) -> None:
        self.houses.setup()
        column = self.houses.raw[self.split_by].iloc[: self.houses.num_train]
        if column.isna().any():
            raise InputError(f"{int(column.isna().sum())} houses lack {self.split_by}, which splits them")
        if self.split_by == "YearBuilt":
            in_target, split = to_numbers(column) >= self.year, f"year {self.year}"
        else:
            unknown = sorted(set(self.neighborhoods) - set(column))
            if unknown:
                known = ", ".join(sorted(set(column)))
                raise InputError(f"there is no house in the neighborhood {unknown[0]!r}; there are {known}")
            in_target, split = column.isin(self.neighborhoods), f"neighborhoods {self.neighborhoods}"
        source, target = (torch.from_numpy((in_target == i).to_numpy().nonzero()[0]) for i in (False, True))
        if not len(source) or len(target) < 2:
            sizes = f"{len(source)} houses are the source and {len(target)} the target"
            raise InputError(f"{split}: {sizes}; there must be at least one and two")
        target = target[torch.randperm(len(target), generator=data_generator(self.seed))]
        half = len(target) // 2
        self.rows = {"source": source, "target": target[:half], "test": target[half:]}
        # A category's indicator is named after its column: Neighborhood_Veenker.
        names = [name.split("_")[0] for name in self.houses.feature_names]
        features = [i for i, name in enumerate(names) if name != self.split_by]
        self.X = self.houses.features()[: self.houses.num_train, features]
        self.y = self.houses.prices
