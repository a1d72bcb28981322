"""The features of the Ames houses, computed by hand, and what they depend on."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import torch

from d2l_lightning.data.kaggle_house import BUNDLED, KaggleHouse
from d2l_lightning.data.tables.ames import (
    DERIVED,
    INTERACTIONS,
    NEIGHBOURHOOD,
    ORDINALS,
    QUANTILES,
    RAW,
    Ames,
)
from d2l_lightning.data.tables.encoder import TableEncoder
from d2l_lightning.data.tables.reading import read_table

BASE = (*RAW, *ORDINALS, *DERIVED)


@pytest.fixture(scope="module")
def houses() -> KaggleHouse:
    data = KaggleHouse(features="ames")
    data.setup()
    return data


@pytest.fixture(scope="module")
def ames(houses: KaggleHouse) -> Ames:
    features = Ames(houses.kinds)
    features.fit(houses.raw)
    return features


@pytest.fixture(scope="module")
def numbers(houses: KaggleHouse, ames: Ames) -> pd.DataFrame:
    return ames.numbers(houses.raw)


def test_the_numbers_of_features_are_those_of_the_recipe(houses: KaggleHouse, numbers: pd.DataFrame) -> None:
    assert (len(RAW), len(ORDINALS), len(DERIVED), len(BASE)) == (34, 20, 17, 71)
    assert (len(INTERACTIONS), len(QUANTILES), len(NEIGHBOURHOOD)) == (19, 18, 8)
    surroundings = [f"{which}{name}" for which in ("Area", "Above") for name in NEIGHBOURHOOD]
    assert list(numbers) == [*BASE, *INTERACTIONS, *surroundings]
    assert not numbers.isna().any().any()
    blocks = [values.transform(numbers).shape[1] for values in houses.encoder.scalers]
    assert blocks == [71, 19, 16, 71, 18]
    assert houses.features().shape == (2919, 402)
    indicators = houses.features()[:, 195:]
    assert indicators.shape[1] == 207
    assert set(indicators.unique().tolist()) == {0.0, 1.0}
    assert len(set(houses.feature_names)) == 402
    assert {"MSSubClass_60", "MoSold_12", "MiscFeature_nan"} <= set(houses.feature_names[195:])


def test_the_scaled_numbers_are_those_of_the_recipe(houses: KaggleHouse, numbers: pd.DataFrame) -> None:
    log, interactions, around, robust, quantile = (
        houses.features()[:, :195].double().split([71, 19, 16, 71, 18], 1)
    )
    for place, name in enumerate(BASE):
        x = numbers[name].to_numpy()
        z = (x - np.median(x)) / (np.subtract(*np.quantile(x, [0.75, 0.25])) or (x.max() - x.min()) / 2)
        np.testing.assert_allclose(robust[:, place], z / np.sqrt(1 + (z / 3) ** 2), rtol=1e-5, atol=1e-6)
        if x.min() >= 0 and abs(numbers[name].skew()) > 0.75 and len(set(x)) > 15:
            x = np.log1p(x)
        np.testing.assert_allclose(log[:, place], (x - x.mean()) / x.std(ddof=1), rtol=1e-5, atol=1e-6)
    standard = torch.cat([interactions, around], dim=1)
    torch.testing.assert_close(standard.mean(dim=0), torch.zeros(35).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(standard.std(dim=0), torch.ones(35).double(), rtol=1e-6, atol=0)
    assert quantile.abs().max() == 3
    assert [houses.feature_names[i] for i in (0, 71, 90, 106, 177)] == [
        *("LotFrontage", "Big", "AreaGrLivArea", "LotFrontage_robust", "LotFrontage_normal_quantile")
    ]


# The first house of train.csv.
FIRST = {
    **{"LotFrontage": 65, "LotArea": 8450, "GarageYrBlt": 2003, "MasVnrArea": 196, "YrSold": 2008},
    **{"ExterQual": 4, "ExterCond": 3, "BsmtQual": 4, "BsmtCond": 3, "HeatingQC": 5, "KitchenQual": 4},
    **{"FireplaceQu": 0, "GarageQual": 3, "GarageCond": 3, "PoolQC": 0, "BsmtExposure": 1},
    **{"BsmtFinType1": 6, "BsmtFinType2": 1, "GarageFinish": 2, "Functional": 7, "LotShape": 3},
    **{"LandSlope": 2, "PavedDrive": 2, "CentralAir": 1, "Street": 1},
    **{
        "TotalSF": 856 + 1710,
        "FinSF": 1710 + 706,
        "Baths": 2 + 1 + 0.5,
        "Age": 5,
        "RemodAge": 5,
        "Porch": 61,
    },
    **{"PorchDeck": 61, "IsNew": 0, "Remod": 0, "Has2nd": 1, "HasBsmt": 1, "HasGar": 1, "HasMas": 1},
    **{"QualSum": 7 + 4 + 4 + 4, "QualLogSF": 7 * math.log(2566), "RoomSF": 1710 / 8, "Month": 12 * 2008 + 2},
    **{"Big": 0, "LogBig": 0, "PartialBig": 0, "PartialLogBig": 0, "PartialSize": 0, "AbnormalQual": 0},
    **{"Qual2": 1, "QualAge": 5 / 30, "CondAge": 0, "Age2": 1 / 36, "SizeRM": 0, "SizeFV": 0, "SizeC": 0},
    **{
        "BsmtFinished": 706 / 856,
        "LogCover": math.log(1710 / 8450),
        "CarArea": 548 / 2,
        "BathsPerBed": 3.5 / 3,
    },
}
# The house with the Id 1299, the largest, which was sold before it was finished.
LARGE = {
    **{"OverallQual": 10, "GrLivArea": 5642, "TotalBsmtSF": 6110, "TotalSF": 11752, "Age": 0, "IsNew": 1},
    **{"Big": 2.642, "LogBig": math.log(5642 / 2500), "PartialBig": 2.642, "AbnormalQual": 0, "Qual2": 16},
    **{"PartialLogBig": math.log(5642 / 2500), "QualAge": 0, "PoolQC": 4, "FireplaceQu": 4},
}


def test_the_features_of_two_houses_by_hand(houses: KaggleHouse, numbers: pd.DataFrame) -> None:
    assert houses.train_ids[1298] == "1299"
    for row, expected in ((0, FIRST), (1298, LARGE)):
        found = numbers.loc[row, list(expected)].to_dict()
        assert found == pytest.approx(expected)
    size = np.log1p(numbers["TotalSF"]) - np.log1p(numbers["TotalSF"]).mean()
    assert numbers.loc[0, ["SizeRL", "Size2"]].tolist() == pytest.approx([size[0], size[0] ** 2])
    assert numbers.loc[1298, ["PartialSize", "SizeRL"]].tolist() == pytest.approx([size[1298]] * 2)
    for zone, name in {"RM": "SizeRM", "FV": "SizeFV", "C (all)": "SizeC"}.items():
        inside = houses.raw["MSZoning"] == zone
        assert numbers.loc[inside, name].tolist() == pytest.approx(size[inside].tolist())
        assert not numbers.loc[~inside, name].any()
    abnormal = houses.raw["SaleCondition"] == "Abnorml"
    assert (numbers["AbnormalQual"] == (numbers["OverallQual"] - 6) * abnormal).all()


# Changes of the first house, so that no number is 0 or equal to another one.
CHANGES = {
    **{
        "TotalBsmtSF": 901,
        "BsmtFinSF1": 502,
        "BsmtFinSF2": 103,
        "FullBath": 2,
        "HalfBath": 3,
        "GarageArea": 606,
    },
    **{"BsmtFullBath": 4, "BsmtHalfBath": 5, "OpenPorchSF": 11, "EnclosedPorch": 13, "3SsnPorch": 17},
    **{"ScreenPorch": 19, "WoodDeckSF": 23, "GrLivArea": 3007, "TotRmsAbvGrd": 9, "GarageCars": 4},
    **{"BedroomAbvGr": 6, "OverallQual": 8, "OverallCond": 9, "YearBuilt": 1850, "YearRemodAdd": 1990},
}
CHANGED = {
    **{"TotalSF": 3908, "FinSF": 3612, "Baths": 10, "Age": 158, "RemodAge": 18, "Porch": 60, "PorchDeck": 83},
    **{
        "Remod": 1,
        "QualSum": 8 + 4 + 4 + 4,
        "RoomSF": 3007 / 9,
        "Big": 0.007,
        "LogBig": math.log(3007 / 2500),
    },
    **{"PartialBig": 0, "Qual2": 4, "QualAge": 2 * 4, "CondAge": 4 * 4, "Age2": (158 / 30) ** 2},
    **{"BsmtFinished": 605 / 901, "CarArea": 606 / 4, "BathsPerBed": 10 / 6},
}


def test_each_column_of_a_house_counts(houses: KaggleHouse, ames: Ames) -> None:
    house = houses.raw.iloc[[0]].assign(**{column: str(value) for column, value in CHANGES.items()})
    assert ames.numbers(house).loc[0, list(CHANGED)].to_dict() == pytest.approx(CHANGED)
    # Sold a year after it was built, and before.
    for built, is_new, squared in (("2006", 0, 4 / 900), ("2007", 1, 1 / 900), ("2010", 1, 0)):
        found = ames.numbers(house.assign(YearBuilt=built))
        assert found.loc[0, ["IsNew", "Age2"]].tolist() == pytest.approx([is_new, squared])


def test_a_neighbourhood_is_the_mean_of_its_houses(houses: KaggleHouse, numbers: pd.DataFrame) -> None:
    inside = houses.raw["Neighborhood"] == "CollgCr"
    for name in NEIGHBOURHOOD:
        own = numbers[name]
        own = np.log1p(own) if name in ("GrLivArea", "LotArea") else own
        assert numbers.loc[0, f"Area{name}"] == pytest.approx(own[inside].mean())
        assert numbers.loc[0, f"Above{name}"] == pytest.approx(own[0] - own[inside].mean())


def test_what_a_missing_value_becomes(houses: KaggleHouse, ames: Ames) -> None:
    house = houses.raw.iloc[[0]].copy()
    house[:] = np.nan
    house[["Neighborhood", "YearBuilt", "YrSold"]] = ["CollgCr", "1999", "2006"]
    found = ames.numbers(house).iloc[0]
    inside = houses.raw["Neighborhood"] == "CollgCr"
    assert found["LotFrontage"] == houses.raw["LotFrontage"][inside].astype(float).median()
    assert (found["GarageYrBlt"], found["KitchenQual"], found["Functional"]) == (1999, 3, 7)
    given = {"LotFrontage", "GarageYrBlt", "KitchenQual", "Functional", "YearBuilt", "YrSold"}
    assert not found[[name for name in (*RAW, *ORDINALS) if name not in given]].any()
    later = ames.numbers(house.assign(GarageYrBlt="2207"))
    assert later["GarageYrBlt"].item() == 2010
    unknown = ames.numbers(house.assign(Neighborhood="Atlantis")).iloc[0]
    assert unknown["LotFrontage"] == houses.raw["LotFrontage"].astype(float).median()
    assert unknown["AreaOverallQual"] == pytest.approx(houses.raw["OverallQual"].astype(float).mean())
    nowhere = ames.numbers(house.assign(Neighborhood=np.nan)).iloc[0]
    pd.testing.assert_series_equal(nowhere, unknown)


@pytest.fixture(scope="module", params=["all", "train"])
def encoder(request: pytest.FixtureRequest, houses: KaggleHouse) -> Iterator[TableEncoder]:
    rows = None if request.param == "all" else torch.arange(700)
    return TableEncoder(Ames(houses.kinds)).fit(houses.raw, rows)


def test_a_house_has_the_same_features_alone(houses: KaggleHouse, encoder: TableEncoder) -> None:
    together = encoder.transform(houses.raw.iloc[1200:1500])
    alone = torch.cat([encoder.transform(houses.raw.iloc[[row]]) for row in range(1200, 1500, 30)])
    assert torch.equal(alone, together[::30])
    assert torch.equal(encoder.transform(houses.raw.iloc[1200:1500].set_axis([7] * 300)), together)


def test_rows_that_are_not_known_change_only_the_categories(houses: KaggleHouse) -> None:
    changed = houses.raw.copy()
    numeric = [column for column, kind in houses.kinds.items() if kind == "number"]
    changed.loc[700:, [c for c in numeric if c not in ("MSSubClass", "MoSold")]] = "12345"
    rows = torch.arange(700)
    before, after = (TableEncoder(Ames(houses.kinds)).fit_transform(t, rows) for t in (houses.raw, changed))
    assert torch.equal(before[:700], after[:700])
    assert not torch.equal(before[700:], after[700:])


def test_features_depend_on_no_price(houses: KaggleHouse) -> None:
    train = read_table(BUNDLED / "kaggle_house_pred_train.csv.gz")
    assert "SalePrice" not in houses.kinds
    assert torch.equal(houses.encoder.transform(train.drop(columns="SalePrice")), houses.features()[:1460])


def test_damaged_houses_have_finite_features(houses: KaggleHouse) -> None:
    """Sizes below zero, no rooms, no neighbourhood: an error of the file, but no infinite feature."""
    house = houses.raw.iloc[:20].copy()
    numeric = [column for column, kind in houses.kinds.items() if kind == "number"]
    for value in ("-1", "-1e15", "0", "1e15", np.nan):
        house[numeric] = value
        assert houses.encoder.transform(house).isfinite().all()
        assert TableEncoder(Ames(houses.kinds)).fit_transform(house).isfinite().all()
    house["TotalBsmtSF"], house["GrLivArea"] = "-1", "0"
    assert houses.encoder.features.numbers(house).map(math.isfinite).all().all()
    house["Neighborhood"] = np.nan
    assert TableEncoder(Ames(houses.kinds)).fit_transform(house).isfinite().all()


def test_codes_may_have_a_point_and_grades_that_are_unknown_are_counted(houses: KaggleHouse) -> None:
    some = houses.raw.iloc[:5]
    pointed = some.assign(MSSubClass=some["MSSubClass"] + ".0", MoSold=some["MoSold"] + ".0")
    assert houses.encoder.unseen(pointed) == {}
    assert torch.equal(houses.encoder.transform(pointed), houses.features()[:5])
    odd = some.assign(MSSubClass="61", ExterQual=["Gd", "gd", "Gd", "best", "Gd"], Neighborhood="Atlantis")
    assert houses.encoder.unseen(odd) == {"MSSubClass": 5, "Neighborhood": 5, "ExterQual": 2}
