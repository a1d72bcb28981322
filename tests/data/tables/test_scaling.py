"""Scalers compute what scikit-learn's do, whatever the columns hold."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri
from sklearn.preprocessing import QuantileTransformer, RobustScaler, StandardScaler
from torch import Tensor

from d2l_lightning.data.tables.scaling import SCALERS, Scaler, make_scaler, scaler_from
from d2l_lightning.errors import InputError


def table(*columns: Sequence[float]) -> pd.DataFrame:
    return pd.DataFrame({f"c{i}": np.array(column, np.float64) for i, column in enumerate(columns)})


def made(n: int = 300) -> pd.DataFrame:
    """Normal, skewed, and mostly zero numbers, with gaps in the first column."""
    rng = np.random.default_rng(0)
    zeros = np.where(rng.random(n) < 0.8, 0, rng.integers(1, 200, n))
    numbers = table(rng.normal(size=n), rng.exponential(size=n) ** 2, zeros)
    return numbers.mask(rng.random((n, 3)) < [0.1, 0, 0])


def fitted(name: str, known: pd.DataFrame) -> Scaler:
    scaler = make_scaler(name)
    scaler.fit(known)
    return scaler


def scaled(name: str, known: pd.DataFrame, new: pd.DataFrame | None = None) -> Tensor:
    return fitted(name, known).transform(known if new is None else new)


def equal(values: Tensor, expected: np.ndarray) -> None:
    torch.testing.assert_close(values, torch.from_numpy(np.nan_to_num(expected)), rtol=1e-9, atol=1e-9)


def test_standard_is_that_of_sklearn_with_the_standard_deviation_of_a_sample() -> None:
    known, new = made(), made(400)
    theirs = StandardScaler().fit(known.to_numpy())
    n = known.notna().sum().to_numpy()
    equal(scaled("standard", known, new), theirs.transform(new.to_numpy()) * np.sqrt((n - 1) / n))


def test_log_standard_takes_logarithms_of_skewed_columns() -> None:
    known = made()
    log = known.assign(c1=np.log1p(known["c1"]), c2=np.log1p(known["c2"]))
    assert fitted("log_standard", known).fitted["log"].tolist() == [False, True, True]
    torch.testing.assert_close(scaled("log_standard", known), scaled("standard", log))


@pytest.mark.parametrize(
    ("column", "log"),
    [
        ([*range(15), 100], True),
        ([*range(14), 100], False),  # 15 different values
        ([-1, *range(15), 100], False),  # a negative value
        ([*range(30)], False),  # not skewed
        ([100 - x for x in [*range(15), 100]], True),  # skewed to the other side
    ],
)
def test_log_standard_takes_logarithms_only_by_its_rule(column: list[float], log: bool) -> None:
    scaler = fitted("log_standard", table(column))
    assert scaler.fitted["log"].tolist() == [log]
    if log:
        assert scaler.transform(table([-5.0])).tolist() == scaler.transform(table([0.0])).tolist()


def test_robust_is_that_of_sklearn_made_smooth() -> None:
    known, new = made()[["c0", "c1"]], made(400)[["c0", "c1"]]
    z = RobustScaler().fit(known.to_numpy()).transform(new.to_numpy())
    equal(scaled("robust", known, new), z / np.sqrt(1 + (z / 3) ** 2))


def test_robust_takes_half_of_the_range_where_most_values_are_equal() -> None:
    values = scaled("robust", table([0, 0, 0, 0, 0, 0, 0, 0, 8]))
    assert values[-1].item() == pytest.approx(2 / np.sqrt(1 + (2 / 3) ** 2))
    assert not values[:-1].any()
    far = scaled("robust", table([0, 1, 2, 3]), table([1e9, -1e9]))
    assert far.flatten().tolist() == pytest.approx([3, -3])


@pytest.mark.parametrize("n", [40, 3000])
def test_normal_quantile_is_that_of_sklearn(n: int) -> None:
    known, new = made(n), made(200)
    quantiles = min(500, n)
    theirs = QuantileTransformer(n_quantiles=quantiles, output_distribution="normal", subsample=None)
    expected = theirs.fit(known.to_numpy()).transform(new.to_numpy()).clip(-3, 3)
    equal(scaled("normal_quantile", known, new), expected)


def test_normal_quantile_by_hand() -> None:
    # The ranks of 10 to 50 are 0, 1/4, 1/2, 3/4 and 1; equal values have the mean of their ranks.
    values = scaled("normal_quantile", table([10, 20, 30, 40, 50]), table([5, 20, 25, 50, 99]))
    equal(values[:, 0], np.array([-3, ndtri(0.25), ndtri(0.375), 3, 3]))
    with_ties = scaled("normal_quantile", table([0, 1, 1, 1, 2]), table([0, 1, 2]))
    equal(with_ties[:, 0], np.array([-3.0, 0.0, 3.0]))


NUMBER = st.just(np.nan) | st.floats(-1e15, 1e15)
COLUMNS = st.integers(1, 12).flatmap(
    lambda n: st.lists(st.lists(NUMBER, min_size=n, max_size=n), min_size=1, max_size=3)
)


@settings(deadline=None)
@given(st.sampled_from(sorted(SCALERS)), COLUMNS, st.lists(NUMBER, min_size=1))
def test_scaled_values_are_finite_and_those_that_are_missing_are_zero(
    name: str, columns: list[list[float]], new: list[float]
) -> None:
    scaler = fitted(name, table(*columns))
    again = scaler_from(scaler.state())
    for values in (table(*columns), table(*[new] * len(columns))):
        result = scaler.transform(values)
        assert result.shape == values.shape
        assert result.dtype == torch.float64
        assert result.isfinite().all()
        missing = torch.from_numpy(values.isna().to_numpy(copy=True))
        if name == "unscaled":  # they are the mean, or 0 if no value is known
            filled = values.fillna(table(*columns).mean()).fillna(0.0)
            torch.testing.assert_close(result, torch.from_numpy(filled.to_numpy(copy=True)))
        else:
            assert not result[missing].any()
        assert torch.equal(again.transform(values), result)


@pytest.mark.parametrize("name", sorted(SCALERS.keys() - {"unscaled"}))
@pytest.mark.parametrize("column", [[0.1] * 30, [np.nan] * 3, [5.0]])
def test_a_column_that_does_not_vary_becomes_zeros(name: str, column: list[float]) -> None:
    assert not scaled(name, table(column), table([1e15, 0.1, -3, np.nan])).any()


def test_a_scaler_takes_its_columns_in_their_order() -> None:
    scaler = make_scaler("standard", ["c1", "c0"])
    scaler.fit(table([1, 3], [10, 30], [0, 0]))
    assert scaler.transform(table([2], [30], [0])).tolist() == [[pytest.approx(0.5**0.5), 0]]


def test_an_unknown_scaler_is_an_error() -> None:
    with pytest.raises(InputError, match=r"^a scaler must be one of standard, .*, not 'minmax'$"):
        make_scaler("minmax")
