"""Dependent features: SciPy, NumPy and scikit-learn as references, and what noise on the features adds."""

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from d2l_lightning.errors import InputError
from d2l_lightning.functional.dependence import (
    expected_gram,
    least_norm_solution,
    noise_on_features,
    null_space,
    ridge,
)


def dependent(n: int = 30, d: int = 5, rank: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    A, B, y = (torch.randn(*s, generator=generator).double() for s in ((n, rank), (rank, d), (n,)))
    return A @ B, y


@pytest.mark.parametrize(("n", "d", "rank"), [(30, 5, 3), (3, 6, 2), (8, 4, 4)])
def test_the_null_space_is_that_of_scipy(n: int, d: int, rank: int) -> None:
    X, _ = dependent(n, d, rank)
    N = null_space(X)
    assert N.shape == (d, d - rank)
    torch.testing.assert_close(N.T @ N, torch.eye(d - rank).double())
    reference = torch.from_numpy(scipy.linalg.null_space(X.numpy()))
    torch.testing.assert_close(N @ N.T, reference @ reference.T, rtol=0, atol=1e-10)


def test_the_shortest_solution_is_that_of_numpy() -> None:
    X, y = dependent()
    reference = np.linalg.lstsq(X.numpy(), y.numpy(), rcond=None)[0]
    torch.testing.assert_close(least_norm_solution(X, y), torch.from_numpy(reference))


@pytest.mark.parametrize("lambd", [0.01, 2.0])
def test_ridge_is_that_of_scikit_learn_and_solves_the_expected_normal_equations(lambd: float) -> None:
    X, y = dependent()
    reference = Ridge(alpha=len(X) * lambd, fit_intercept=False).fit(X.numpy(), y.numpy()).coef_
    torch.testing.assert_close(ridge(X, y, lambd), torch.from_numpy(reference))
    torch.testing.assert_close(expected_gram(X, lambd**0.5) @ ridge(X, y, lambd), X.T @ y)


def test_noise_on_features_acts_as_ridge() -> None:
    X, y = dependent(20, 3, 2)
    found = noise_on_features(X, y, 0.5, 4000, torch.Generator().manual_seed(0))
    # The mean of 8,000 * 60 squares has a relative deviation of sqrt(2 / 480,000).
    assert found["added"] == pytest.approx(found["expected_added"], rel=0.01)
    assert found["expected_added"] == 20 * 0.25
    assert found["all_draws"] == pytest.approx(found["ridge"], rel=0.02)
    assert found["one_draw"] > 1.2 * found["ridge"]
    weak = noise_on_features(X, y, 0.01, 100, torch.Generator().manual_seed(0))
    assert weak["condition"] > 100 * found["condition"]
    assert weak["condition"] == pytest.approx(weak["expected_condition"], rel=0.5)
    # Noise makes the solution unique, but weak noise decides what it is.
    assert weak["one_draw"] > 10 * found["one_draw"] > 0


def test_constants_out_of_range_are_errors() -> None:
    X, y = dependent()
    with pytest.raises(InputError, match="lambd must be positive"):
        ridge(X, y, 0.0)
    with pytest.raises(InputError, match="sigma must not be negative"):
        expected_gram(X, -1.0)
