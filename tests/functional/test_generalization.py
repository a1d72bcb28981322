"""The expected loss of linear regression against simulation, and losses against NumPy's least squares."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.functional.generalization import (
    expected_loss,
    fit_learning_curve,
    k_fold_losses,
    losses_by_rows,
    losses_of_parts,
    minimum_norm_losses,
)


def draw(num_sets: int, n: int, d: int, noise: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(num_sets, n, d, dtype=torch.float64, generator=generator)
    errors = torch.randn(num_sets, n, dtype=torch.float64, generator=generator)
    return X, X.sum(dim=-1) + noise * errors


def test_the_expected_loss_is_that_of_a_simulation() -> None:
    X, y = draw(4000, 40, 5, noise=0.7)
    rows = torch.arange(40)
    losses = minimum_norm_losses(X, y, rows[:20], rows[20:])[:, 1]
    assert losses.mean().item() == pytest.approx(expected_loss(20, 5, 0.7), rel=0.03)
    assert expected_loss(6, 5, 1.0) == math.inf


@pytest.mark.parametrize("n", [4, 9])
def test_losses_are_those_of_numpys_least_squares(n: int) -> None:
    X, y = draw(2, 12, 6)
    found = minimum_norm_losses(X, y, torch.arange(n), torch.arange(n, 12))
    for i in range(2):
        w = np.linalg.lstsq(X[i, :n].numpy(), y[i, :n].numpy(), rcond=None)[0]
        squares = (X[i].numpy() @ w - y[i].numpy()) ** 2 / 2
        assert found[i].tolist() == pytest.approx([squares[:n].mean(), squares[n:].mean()], abs=1e-12)


def test_the_loss_of_folds_is_the_mean_over_all_rows() -> None:
    X, y = draw(1, 11, 2)
    train, val = k_fold(11, 3)
    squares = np.empty(11)
    for rows, left_out in zip(train, val, strict=True):
        w = np.linalg.lstsq(X[0, rows].numpy(), y[0, rows].numpy(), rcond=None)[0]
        squares[left_out] = (X[0, left_out].numpy() @ w - y[0, left_out].numpy()) ** 2 / 2
    assert k_fold_losses(X, y, train, val).item() == pytest.approx(squares.mean())


def test_errors_are_0_without_noise_from_as_many_rows_as_features_on() -> None:
    exact = losses_by_rows(*draw(5, 60, 4, noise=0.0), [3, 4, 8])
    assert exact["n"] == [3, 4, 8]
    assert max(exact["train_loss"]) < 1e-20
    assert exact["test_loss"][0] > 0.01 > 1e-20 > max(exact["test_loss"][1:])
    noisy = losses_by_rows(*draw(5, 60, 4), [4, 8])
    assert noisy["train_loss"][0] < 1e-20 < noisy["train_loss"][1]
    assert min(noisy["test_loss"]) > 0.01


def test_a_learning_curve_of_the_expected_form_is_found_again() -> None:
    curve = {"n": [20.0, 30.0, 50.0], "loss": [expected_loss(n, 5, 2.0) for n in (20, 30, 50)]}
    a, b, law = fit_learning_curve(curve, 5)
    assert (a, b) == (pytest.approx(2.0, rel=1e-4), pytest.approx(10.0, rel=1e-4))
    assert law(1000) == pytest.approx(expected_loss(1000, 5, 2.0), rel=1e-4)


def test_the_loss_of_parts_falls_and_is_reproducible() -> None:
    X, y = (each[0] for each in draw(1, 200, 5))
    first, again = (
        losses_of_parts(X, y, 50, [10, 20, 150], 200, torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert first == again
    assert first["n"] == [10, 20, 150]
    assert first["loss"] == sorted(first["loss"], reverse=True)
