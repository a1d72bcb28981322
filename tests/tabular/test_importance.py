"""Permutation importance: how much each column of a table matters to the models of the folds."""

import copy
from itertools import chain

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.inspection import permutation_importance as sklearn_importance
from torch import Tensor, nn

from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.data.tables.ames import Ames
from d2l_lightning.data.tables.encoder import TableEncoder
from d2l_lightning.data.tables.features import Columns
from d2l_lightning.data.tables.reading import is_numeric
from d2l_lightning.errors import InputError
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.tabular import importance
from d2l_lightning.tabular.importance import permutation_importance

KINDS = {"size": "number", "sold": "date %Y-%m-%d", "street": "category", "new": "boolean", "age": "number"}
N = 60


class Mixed(Columns):
    """The same features, of which nobody knows which columns they are made of."""

    sources = None


class Weighted(nn.Module):
    """A linear model with given weights; its dropout would show if it were in training mode."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights, self.dropout = weights, nn.Dropout(0.5)

    def forward(self, X: Tensor) -> Tensor:
        return self.dropout(X @ self.weights) + 10


def houses(n: int = N) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "size": rng.integers(50, 200, n).astype(str),
            "sold": [f"{2000 + year}-0{month}-1{month}" for year, month in rng.integers(1, 9, (n, 2))],
            "street": rng.choice(["Pave", "Grvl", "Dirt"], n),
            "new": rng.choice(["yes", "no"], n),
            "age": rng.integers(0, 100, n).astype(str),
        },
        dtype=object,
    )
    return table.mask(rng.random(table.shape) < 0.1)


def folds(n: int = N) -> list[Tensor]:
    return list(torch.randperm(n, generator=torch.Generator().manual_seed(0)).split(n // 3))


def encoder(table: pd.DataFrame, kind: type[Columns] = Columns, rows: Tensor | None = None) -> TableEncoder:
    return TableEncoder(kind(KINDS)).fit(table, rows)


def values(found: pd.DataFrame) -> dict[str, float]:
    return dict(zip(found["column"], found["importance"], strict=True))


def test_only_the_column_that_carries_the_signal_has_importance() -> None:
    table = houses()
    fitted = encoder(table)
    X = fitted.transform(table)
    weights = torch.zeros(X.shape[1])
    for name in ("street_Dirt", "street_Grvl"):
        weights[fitted.feature_names.index(name)] = 3.0
    found = permutation_importance(
        table, X @ weights + 10, fitted, [Weighted(weights)] * 3, folds(), "rmse", 0
    )
    assert list(found) == ["column", "importance", "standard_error"]
    assert found["column"][0] == "street"
    assert found["importance"][0] > 1
    assert found["standard_error"][0] > 0
    assert (found[["importance", "standard_error"]][1:] == 0).all(axis=None)


@pytest.mark.parametrize("own", [False, True])
def test_features_that_are_rearranged_and_encoded_again_give_the_same_bits(
    own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importance, "ENCODED_ROWS", 2 * N)  # so that the last table is encoded alone
    table, rows = houses(), [torch.arange(0, N, 2), torch.arange(10, N), torch.arange(30)]
    found = []
    for kind in (Columns, Mixed):
        encoders = [encoder(table, kind, each) for each in rows] if own else encoder(table, kind)
        first = encoders[0] if isinstance(encoders, list) else encoders
        torch.manual_seed(0)
        members = [PriceRegressor(len(first.feature_names), [8], log_price=True) for _ in range(3)]
        y = torch.linspace(5e4, 2e5, N)
        found.append(permutation_importance(table, y, encoders, members, folds(), "log_rmse", 0))
    pd.testing.assert_frame_equal(*found, check_exact=True)
    assert (found[0]["importance"] != 0).all()


def test_importance_is_that_of_scikit_learn_on_average() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(0, 1, (20, 3)), columns=list("abc")).astype(str).astype(object)
    fitted = TableEncoder(Columns(dict.fromkeys("abc", "number"))).fit(table)
    X, weights = fitted.transform(table), torch.tensor([2.0, -1.0, 0.5])
    y = X @ weights + torch.from_numpy(rng.normal(0, 1, 20)).float()

    class Estimator(RegressorMixin, BaseEstimator):
        def fit(self) -> None: ...

        def predict(self, X: np.ndarray) -> np.ndarray:
            return X @ weights.numpy() + 10

    rows, times = [torch.arange(0, 20, 2), torch.arange(1, 20, 2)], 150
    theirs = np.mean(
        [
            sklearn_importance(
                *(Estimator(), X[own].numpy(), y[own].numpy() + 10),
                scoring="neg_mean_absolute_error",
                n_repeats=times,
                random_state=fold,
            ).importances
            for fold, own in enumerate(rows)
        ],
        axis=0,
    )
    members = [Weighted(weights)] * 2
    found = (
        permutation_importance(table, y + 10, fitted, members, rows, "mae", seed) for seed in range(times)
    )
    ours = np.array([[values(each)[column] for column in "abc"] for each in found]).T
    error = np.hypot(ours.std(axis=1), theirs.std(axis=1)) / times**0.5
    assert (np.abs(ours.mean(axis=1) - theirs.mean(axis=1)) < 4 * error).all()
    assert (error < [0.06, 0.03, 0.02]).all()


def test_models_of_double_precision_have_the_same_importance() -> None:
    table, y = houses(), torch.linspace(5e4, 2e5, N)
    fitted = encoder(table)
    members = [PriceRegressor(len(fitted.feature_names), [8], log_price=True) for _ in range(3)]
    single, double = (
        values(permutation_importance(table, y, fitted, each, folds(), "log_rmse", 0))
        for each in (members, [copy.deepcopy(member).double() for member in members])
    )
    assert single == pytest.approx(double, abs=1e-5)


def test_values_are_shuffled_among_the_rows_of_a_fold_alone() -> None:
    table = houses()
    for street, rows in zip(("Pave", "Grvl", "Dirt"), folds(), strict=True):
        table.loc[rows.numpy(), "street"] = street
    for kind in (Columns, Mixed):
        fitted = encoder(table, kind)
        weights = torch.ones(len(fitted.feature_names))
        arguments = ([Weighted(weights)] * 3, folds(), "rmse", 0)
        found = values(permutation_importance(table, torch.arange(N).float(), fitted, *arguments))
        assert found["street"] == 0
        assert found["size"] != 0


def test_importance_depends_on_the_seed_alone() -> None:
    table, y, found = houses(), torch.arange(N).float(), []
    fitted = encoder(table)
    members = [Weighted(torch.linspace(1, 2, len(fitted.feature_names)))] * 3
    for seed in (3, 3, 4):
        torch.rand(1)
        state = torch.get_rng_state()
        found.append(values(permutation_importance(table, y, fitted, members, folds(), "rmse", seed)))
        assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1]
    assert all(found[0][column] != found[2][column] for column in KINDS)


def test_the_standard_error_is_that_of_the_folds_mean() -> None:
    table, rows = houses(), folds()
    fitted = encoder(table)
    member = Weighted(torch.ones(len(fitted.feature_names)))
    y = torch.arange(N).float()
    found = permutation_importance(table, y, fitted, [member] * 3, rows, "mae", 0).set_index("column")
    alone = permutation_importance(table, y, fitted, [member], rows[:1], "mae", 0)
    assert alone["standard_error"].isna().all()
    generator = importance.epoch_generator(0, 0, 6)
    X, increases = fitted.transform(table), []
    for own in rows:
        order = torch.rand(len(KINDS), len(own), generator=generator)[0].argsort()
        shuffled = X[own]
        columns = [fitted.feature_names.index(name) for name in ("size", "size_nan")]
        shuffled[:, columns] = shuffled[order][:, columns]
        before, after = ((member(each) - y[own]).abs().mean().item() for each in (X[own], shuffled))
        increases.append(after - before)
    assert found.loc["size", "importance"] == pytest.approx(np.mean(increases), rel=1e-4)
    assert found.loc["size", "standard_error"] == pytest.approx(np.std(increases, ddof=1) / 3**0.5, rel=1e-4)


def test_an_encoder_knows_which_columns_its_features_are_made_of() -> None:
    data = KaggleHouse()
    data.setup()
    kinds = {column: "number" if is_numeric(data.raw[column]) else "category" for column in data.raw}
    book = TableEncoder(Columns(kinds), always_missing=True).fit(data.raw)
    for fitted in (book, encoder(houses())):
        parts = fitted.features_of_columns()
        assert parts is not None
        assert sorted(chain(*parts.values())) == list(range(len(fitted.feature_names)))
        for column, features in parts.items():
            assert all(fitted.feature_names[i].startswith(column) for i in features)
    assert TableEncoder(Ames(kinds)).features_of_columns() is None


def test_models_need_encoders_and_rows() -> None:
    table, y = houses(), torch.arange(N).float()
    fitted = encoder(table)
    member = Weighted(torch.ones(len(fitted.feature_names)))
    for encoders, members, rows, message in (
        (fitted, [member], folds(), "1 encoders and 3 sets of rows do not go with 1 models"),
        ([fitted], [member] * 3, folds(), "1 encoders and 3 sets"),
        (fitted, [], [], "importance needs a model"),
        (fitted, [member] * 2, [torch.arange(3), torch.arange(0)], "validation rows in every fold"),
    ):
        with pytest.raises(InputError, match=message):
            permutation_importance(table, y, encoders, members, rows, "rmse", 0)
