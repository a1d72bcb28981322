"""Houses are split into source and target by year or by neighbourhood."""

from typing import Any

import pytest
import torch

from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.data.shifted_houses import ShiftedHouses
from d2l_lightning.errors import InputError


def made(data: Any) -> Any:
    data.setup()
    return data


@pytest.mark.parametrize(
    "settings",
    [{"year": 1990}, {"split_by": "Neighborhood", "neighborhoods": ["OldTown", "NAmes"]}],
    ids=["year", "neighborhood"],
)
def test_houses_are_split_by_the_column(settings: dict[str, Any]) -> None:
    data = made(ShiftedHouses(**settings))
    houses = made(KaggleHouse())
    split_by = settings.get("split_by", "YearBuilt")
    column = houses.raw[split_by][:1460]
    in_target = column.astype(int) >= 1990 if split_by == "YearBuilt" else column.isin(["OldTown", "NAmes"])
    assert set(data.rows["source"].tolist()) == {i for i, wanted in enumerate(in_target) if not wanted}
    both = torch.cat([data.rows["target"], data.rows["test"]])
    assert sorted(both.tolist()) == [i for i, wanted in enumerate(in_target) if wanted]
    assert abs(len(data.rows["target"]) - len(data.rows["test"])) <= 1
    kept = [i for i, name in enumerate(houses.feature_names) if not name.startswith(split_by)]
    assert len(kept) == 331 - (1 if split_by == "YearBuilt" else 26)
    assert torch.equal(data.X, houses.features()[:1460, kept])
    assert torch.equal(data.y, houses.prices)
    assert data.ratio is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split_by": "Street"}, "split_by must be one of YearBuilt, Neighborhood"),
        (
            {"year": 3000},
            "year 3000: 1460 houses are the source and 0 the target; there must be at least one and two",
        ),
        ({"year": 1000}, "year 1000: 0 houses are the source and 1460 the target"),
        ({"split_by": "Neighborhood"}, r"neighborhoods \[\]: 1460 houses are the source and 0 the target"),
        (
            {"split_by": "Neighborhood", "neighborhoods": ["Soho"]},
            "there is no house in the neighborhood 'Soho'; there are Blmngtn, ",
        ),
    ],
)
def test_splits_that_do_not_work_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(ShiftedHouses(**settings))
