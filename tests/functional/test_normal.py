"""The normal density and likelihood against torch.distributions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.distributions import Normal

from d2l_lightning.errors import InputError
from d2l_lightning.functional.normal import gaussian_negative_log_likelihood, normal_density, skewness

X = torch.linspace(-30, 30, 6001, dtype=torch.float64)


def reference(mean: float, std: float) -> Normal:
    return Normal(*torch.tensor([mean, std], dtype=torch.float64))


@given(st.floats(-5, 5), st.floats(0.1, 4))
def test_the_density_agrees_with_torch(mean: float, std: float) -> None:
    torch.testing.assert_close(normal_density(X, mean, std), reference(mean, std).log_prob(X).exp())


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.0, 2.0), (3.0, 1.0)])
def test_a_density_has_integral_1_and_68_percent_of_it_within_one_deviation(mean: float, std: float) -> None:
    p = normal_density(X, mean, std)
    assert torch.trapezoid(p, X).item() == pytest.approx(1)
    within = (X - mean).abs() <= std + 1e-9
    assert torch.trapezoid(p[within], X[within]).item() == pytest.approx(0.6826895, abs=1e-5)


@given(st.integers(0, 1000), st.floats(0.1, 4))
def test_the_likelihood_agrees_with_torch(seed: int, std: float) -> None:
    y_hat, y = torch.randn(2, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = -Normal(y_hat, torch.tensor(std, dtype=torch.float64)).log_prob(y).sum()
    torch.testing.assert_close(gaussian_negative_log_likelihood(y_hat, y, std), expected)


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
def test_a_standard_deviation_that_is_not_positive_is_an_error(std: float) -> None:
    with pytest.raises(InputError, match="std must be positive"):
        normal_density(X, 0.0, std)
    with pytest.raises(InputError, match="std must be positive"):
        gaussian_negative_log_likelihood(X, X, std)


def test_the_skewness_is_that_of_scipy() -> None:
    x = torch.randn(50, generator=torch.Generator().manual_seed(0)).double().exp()
    assert skewness(x).item() == pytest.approx(stats.skew(x.numpy()))
    assert skewness(torch.tensor([1.0, 2.0, 3.0])) == 0
