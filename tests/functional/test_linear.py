"""Formulas of the linear model against independent references."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression as SklearnRegression
from torch import Tensor

from d2l_lightning.errors import InputError
from d2l_lightning.functional.linear import (
    least_squares,
    least_squares_with_bias,
    linear,
    medians_by_amount,
    sgd_update,
)


def draw(n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return X, torch.randn(n, generator=generator, dtype=torch.float64)


@given(st.integers(1, 8), st.integers(0, 20), st.integers(0, 1000))
def test_least_squares_agrees_with_numpy(d: int, extra: int, seed: int) -> None:
    X, y = draw(d + extra, d, seed)
    if torch.linalg.cond(X) < 1e6:
        expected = np.linalg.lstsq(X.numpy(), y.numpy(), rcond=None)[0]
        np.testing.assert_allclose(least_squares(X, y), expected, rtol=1e-7, atol=1e-9)


@given(st.integers(0, 1000))
def test_the_residual_is_orthogonal_to_the_features(seed: int) -> None:
    X, y = draw(30, 4, seed)
    residual = y - X @ least_squares(X, y)
    assert (X.T @ residual).abs().max() < 1e-9  # eq. 3.1.8


def test_columns_may_differ_in_scale_by_more_than_the_precision_of_a_float() -> None:
    X, y = draw(40, 3, 0)
    scale = torch.tensor([1e-12, 1.0, 1e12], dtype=torch.float64)
    torch.testing.assert_close(least_squares(X * scale, y) * scale, least_squares(X, y))


def test_least_squares_does_not_square_the_condition_number() -> None:
    # With nearly equal columns, the inverse of X^T X has no correct digit in float32.
    X = torch.tensor([[1.0, 1.0], [1.0, 1.001], [1.0, 0.999], [1.0, 1.002]])
    w = torch.tensor([2.0, -1.0])
    torch.testing.assert_close(least_squares(X, X @ w), w, rtol=0, atol=2e-3)
    inverse = torch.linalg.inv(X.T @ X) @ (X.T @ (X @ w))
    assert (inverse - w).abs().max() > 2e-3


@pytest.mark.parametrize(
    ("X", "rank", "columns"),
    [
        (torch.ones(5, 2), 1, 2),
        (torch.zeros(5, 1), 0, 1),
        (torch.eye(3)[:2], 2, 3),
        (torch.arange(12.0).reshape(4, 3), 2, 3),
        (torch.zeros(0, 2), 0, 2),
    ],
)
def test_a_rank_below_the_number_of_columns_is_an_error(X: Tensor, rank: int, columns: int) -> None:
    with pytest.raises(InputError, match=f"X has rank {rank} and {columns} columns"):
        least_squares(X, torch.zeros(len(X)))


@pytest.mark.parametrize("n", [100, 1_000_000])
def test_the_rank_of_many_rows_in_single_precision_is_right(n: int) -> None:
    x = torch.randn(n, generator=torch.Generator().manual_seed(0)) + 10
    X = torch.stack([x, torch.ones(n)], dim=1)
    assert least_squares(X, 2 * x - 3).tolist() == pytest.approx([2, -3], abs=1e-2)
    with pytest.raises(InputError, match="rank 2 and 3 columns"):
        least_squares(torch.stack([x, torch.ones(n), 3 * x - 1], dim=1), x)


def test_bad_input_is_an_error() -> None:
    X, y = draw(4, 2, 0)
    with pytest.raises(InputError, match=r"X of shape \(4, 2\) does not go with y of shape \(3,\)"):
        least_squares(X, y[:3])
    with pytest.raises(InputError, match=r"y\[2\] must be a finite number, not nan"):
        least_squares(X, torch.tensor([0.0, 1.0, float("nan"), 2.0], dtype=torch.float64))
    X[3, 1] = float("inf")
    with pytest.raises(InputError, match=r"X\[3, 1\] must be a finite number, not inf"):
        least_squares(X, y)
    with pytest.raises(InputError, match="X has 2 features and w has 3 weights"):
        linear(torch.zeros(4, 2), torch.zeros(3))


@given(st.integers(0, 1000), st.floats(0.001, 1.0))
def test_a_step_of_sgd_is_the_closed_form_of_eq_3_1_11(seed: int, lr: float) -> None:
    X, y = draw(7, 3, seed)
    w, b = draw(1, 3, seed + 1)
    w, b = w[0].requires_grad_(), b[0].requires_grad_()
    (((linear(X, w, b) - y) ** 2).mean() / 2).backward()
    assert w.grad is not None
    assert b.grad is not None
    error = X @ w.detach() + b.detach() - y
    torch.testing.assert_close(  # eq. 3.1.11
        sgd_update(w, w.grad, lr), w - lr / 7 * sum(x * e for x, e in zip(X, error, strict=True))
    )
    torch.testing.assert_close(sgd_update(b, b.grad, lr), b - lr / 7 * error.sum())


@given(st.integers(0, 1000))
def test_the_solution_with_a_bias_agrees_with_scikit_learn(seed: int) -> None:
    X, y = draw(20, 3, seed)
    w, b = least_squares_with_bias(X, y)
    expected = SklearnRegression().fit(X.numpy(), y.numpy())
    np.testing.assert_allclose(w, expected.coef_, rtol=1e-6, atol=1e-9)
    assert b.item() == pytest.approx(expected.intercept_, rel=1e-6, abs=1e-9)


def test_medians_leave_out_amounts_that_are_too_few() -> None:
    def draws(n: int) -> list[tuple[Tensor, Tensor]]:
        return [(torch.ones(n, 1), torch.full((n,), float(n * factor))) for factor in (1, 5, 2)]

    def measure(X: Tensor, y: Tensor) -> Tensor:
        if len(y) < 3:
            raise InputError("too few")
        return torch.stack([y.mean(), -y.mean()])

    medians = medians_by_amount(measure, ["mean", "negative"], draws, [2, 3, 4])
    assert medians == {"n": [3, 4], "mean": [6, 8], "negative": [-6, -8]}
