"""Conformal intervals cover new rows as often as they say."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d2l_lightning.errors import InputError
from d2l_lightning.functional.conformal import conformal_quantile, interval, rows_needed

RESIDUALS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)
PERCENT = st.integers(1, 99)


@given(RESIDUALS, PERCENT)
def test_the_quantile_is_that_of_numpy(values: list[float], percent: int) -> None:
    n = len(values)
    rank = math.ceil(Fraction(percent, 100) * (n + 1))
    found = conformal_quantile(torch.tensor(values, dtype=torch.float64), percent / 100).item()
    sizes = np.sort(np.abs(values))
    assert found == (math.inf if rank > n else sizes[rank - 1])
    if rank <= n:
        # As a quantile of the distribution of the sizes; a little less than rank / n, against rounding.
        assert found == np.quantile(sizes, (rank - 1e-6) / n, method="inverted_cdf")


def test_the_rank_is_not_raised_by_a_rounding_error() -> None:
    assert 25 * 0.56 > 14
    assert conformal_quantile(torch.arange(1.0, 25), 0.56) == 14


@given(PERCENT)
def test_a_finite_interval_needs_a_number_of_rows(percent: int) -> None:
    n = rows_needed(percent / 100)
    assert conformal_quantile(torch.ones(n), percent / 100).isfinite()
    assert n == 1 or conformal_quantile(torch.ones(n - 1), percent / 100).isinf()


@pytest.mark.parametrize(("n", "coverage"), [(9, 0.9), (40, 0.8), (199, 0.95)])
@pytest.mark.parametrize("log", [False, True])
def test_intervals_cover_new_rows_of_the_same_distribution(n: int, coverage: float, log: bool) -> None:
    # The coverage of a set of n residuals is a beta variable; that of m new rows is their mean.
    rng, draws, m = np.random.default_rng(0), 400, 100
    covered = []
    for _ in range(draws):
        error = torch.from_numpy(rng.standard_t(3, n + m))
        prediction = torch.from_numpy(rng.uniform(1, 5, n + m))
        truth = prediction * error.exp() if log else prediction + error
        residuals = truth.log() - prediction.log() if log else truth - prediction
        lower, upper = interval(prediction[n:], conformal_quantile(residuals[:n], coverage), log)
        covered.append(((lower <= truth[n:]) & (truth[n:] <= upper)).double().mean().item())
    rank = math.ceil(round((n + 1) * coverage, 9))
    mean = rank / (n + 1)
    assert coverage <= mean <= coverage + 1 / (n + 1)
    variance = mean * (1 - mean) / (n + 2)
    error_of_mean = math.sqrt((variance + (mean * (1 - mean) - variance) / m) / draws)
    assert np.mean(covered) == pytest.approx(mean, abs=4 * error_of_mean)


def test_an_interval_of_logarithms_is_a_factor() -> None:
    lower, upper = interval(torch.tensor([100.0, 200.0]), torch.tensor(math.log(1.25)), log=True)
    torch.testing.assert_close(lower, torch.tensor([80.0, 160.0]))
    torch.testing.assert_close(upper, torch.tensor([125.0, 250.0]))


def test_without_enough_rows_the_interval_is_everything() -> None:
    for log, least in ((False, -math.inf), (True, 0.0)):
        quantile = conformal_quantile(torch.empty(0), 0.5)
        lower, upper = interval(torch.tensor([3.0]), quantile, log)
        assert (lower.item(), upper.item()) == (least, math.inf)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.5, 90, math.nan])
def test_a_coverage_outside_0_and_1_is_refused(coverage: float) -> None:
    with pytest.raises(InputError, match="coverage must be between 0 and 1"):
        conformal_quantile(torch.ones(5), coverage)


def test_a_residual_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(InputError, match="not a number"):
        conformal_quantile(torch.tensor([1.0, math.nan]), 0.5)
