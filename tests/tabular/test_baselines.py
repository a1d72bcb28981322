"""Methods of other packages predict house prices from training rows alone, or name the package they need."""

import sys

import numpy as np
import pytest
import torch

from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.errors import InputError
from d2l_lightning.functional.regression import log_rmse
from d2l_lightning.tabular.baselines import BASELINES, PACKAGES, raw_columns, require_package

TRAIN, VAL = torch.arange(0, 600), torch.arange(600, 800)


@pytest.fixture(scope="module")
def houses() -> KaggleHouse:
    data = KaggleHouse()
    data.setup()
    return data


@pytest.mark.parametrize("method", BASELINES)
def test_prices_are_predicted_from_the_training_rows_alone(method: str, houses: KaggleHouse) -> None:
    pytest.importorskip(PACKAGES[method][0])
    found = BASELINES[method](houses, TRAIN, VAL, 0)
    assert found.dtype == torch.float64
    assert log_rmse(found, houses.prices[VAL].double()) < 0.2
    known = houses.labels.clone()
    try:
        houses.labels[VAL] *= 2
        assert torch.equal(BASELINES[method](houses, TRAIN, VAL, 0), found)
    finally:
        houses.labels = known
    assert not torch.equal(BASELINES[method](houses, TRAIN, VAL, 1), found)


def test_columns_are_numbers_and_texts_without_missing_values(houses: KaggleHouse) -> None:
    table, categories = raw_columns(houses)
    assert table.shape == (1460, 79)
    assert categories == [column for column, kind in houses.kinds.items() if kind == "category"]
    raw = houses.raw[: houses.num_train]
    for column in table:
        if column in categories:
            assert table[column].tolist() == raw[column].fillna("missing").tolist()
        else:
            assert np.array_equal(table[column], raw[column].astype(float), equal_nan=True)


@pytest.mark.parametrize("method", BASELINES)
def test_a_missing_package_is_named(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, package = PACKAGES[method]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"the method {method} needs the package {package}; pip install"):
        require_package(method)
