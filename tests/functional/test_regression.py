"""Formulas of regression against independent references."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional import mean_squared_error

from d2l_lightning.errors import InputError
from d2l_lightning.functional.regression import (
    absolute_error,
    huber_loss,
    log_rmse,
    squared_error,
    squared_log_error,
    squared_loss,
)

PRICES = st.lists(st.tuples(st.floats(-1e3, 1e6), st.floats(0.5, 1e6)), min_size=1, max_size=30)


@given(PRICES)
def test_log_rmse_agrees_with_the_formula_of_the_book(pairs: list[tuple[float, float]]) -> None:
    errors = [(math.log(y) - math.log(max(y_hat, 1.0))) ** 2 for y_hat, y in pairs]
    y_hat, y = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    assert log_rmse(y_hat, y).item() == pytest.approx(math.sqrt(sum(errors) / len(errors)), abs=1e-12)


@given(PRICES)
def test_log_rmse_agrees_with_torchmetrics_on_the_logarithms(pairs: list[tuple[float, float]]) -> None:
    y_hat, y = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    expected = mean_squared_error(y_hat.clamp(min=1).log(), y.log(), squared=False)
    assert torch.allclose(log_rmse(y_hat, y), expected, atol=1e-12)


def test_log_rmse_is_over_all_rows_and_not_a_mean_of_batches() -> None:
    y_hat, y = torch.tensor([1.0, 10.0, 100.0]), torch.tensor([2.0, 10.0, 5e5])
    halves = (log_rmse(y_hat[:2], y[:2]) + log_rmse(y_hat[2:], y[2:])) / 2
    whole = log_rmse(y_hat, y)
    assert whole.item() == pytest.approx(np.sqrt((np.log(2) ** 2 + np.log(5000) ** 2) / 3), rel=1e-6)
    assert halves.item() == pytest.approx((np.log(2) / np.sqrt(2) + np.log(5000)) / 2, rel=1e-6)


def test_squared_loss_is_half_the_squared_error_of_each_example() -> None:
    losses = squared_loss(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.5]))
    assert losses.tolist() == [2.0, 0.125]
    assert squared_error(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.5])).tolist() == [4.0, 0.25]


def test_the_huber_loss_is_linear_beyond_the_threshold() -> None:
    y_hat, y = torch.tensor([1.0, 2.0, -3.0, 0.0]), torch.tensor([1.0, 1.5, 1.0, 2.0])
    assert huber_loss(y_hat, y, 2.0).tolist() == [0.0, 0.125, 2 * (4 - 1), 2.0]
    assert absolute_error(y_hat, y).tolist() == [0.0, 0.5, 4.0, 2.0]


def huber(y_hat: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return huber_loss(y_hat, y, 1.0)


@pytest.mark.parametrize(
    "loss", [squared_loss, squared_error, squared_log_error, log_rmse, absolute_error, huber]
)
def test_shapes_that_would_broadcast_are_an_error(loss: Callable[..., torch.Tensor]) -> None:
    with pytest.raises(InputError, match=r"y_hat of shape \(3,\) does not go with y of shape \(3, 1\)"):
        loss(torch.ones(3), torch.ones(3, 1))


def test_predictions_below_one_count_as_one() -> None:
    errors = squared_log_error(torch.tensor([-5.0, 0.0, 0.3, 1.0]), torch.full((4,), math.e))
    assert torch.allclose(errors, torch.ones(4))
