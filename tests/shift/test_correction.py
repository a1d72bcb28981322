"""Importance-weighted cross-validation estimates the risk on the target from the labels of the source."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.linear_model import LinearRegression as Reference

from d2l_lightning.errors import InputError
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.shift.correction import Correction, WeightedCrossValidation, feature_differences


def fit_with(trainer: Callable[..., Trainer]) -> Any:
    def fit(name: str, model: Any, data: Any, max_epochs: int, **_: Any) -> None:
        trainer(max_epochs=max_epochs).fit(model, data)

    return fit


def test_models_and_losses_are_those_of_weighted_least_squares(trainer: Callable[..., Trainer]) -> None:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(90, 1, generator=generator)
    y = X[:, 0] + 0.5 * X[:, 0].square()
    weights = (0.7 * X[:, 0] - 0.245).exp().double()
    model = LinearRegression(1, lr=0.05, optimizer="adamw")
    validation = WeightedCrossValidation(model, X, y, k=3, steps=600, batch_size=30)
    correction = validation.fit(fit_with(trainer), weights)
    for kind, of_rows in (("corrected", weights), ("uncorrected", torch.ones(90))):
        exact = Reference().fit(X, y, of_rows)
        fitted = correction.models[kind]
        assert fitted(torch.zeros(1, 1)).item() == pytest.approx(exact.intercept_, abs=0.05)
        for rows in validation.held_out:
            rest = torch.ones(90, dtype=torch.bool)
            rest[rows] = False
            exact = Reference().fit(X[rest], y[rest], of_rows[rest])
            losses = (torch.tensor(exact.predict(X[rows])) - y[rows]).square().double()
            assert correction.losses[kind][rows].mean().item() == pytest.approx(losses.mean().item(), rel=0.1)


def test_risks_are_weighted_means_of_the_losses() -> None:
    losses = {"corrected": torch.tensor([1.0, 2.0]), "uncorrected": torch.tensor([2.0, 6.0])}
    risks = Correction({}, losses, torch.tensor([3.0, 1.0])).risks(unit=2.0)
    assert risks == pytest.approx(
        {
            "risk_on_source": 8,
            "risk_uncorrected": 6,
            "risk_corrected": 2.5,
            "gain": 3.5,
            "gain_standard_error": 2 * ((0.75 * 0.75) ** 2 + (0.25 * 2.25) ** 2) ** 0.5,
        }
    )


def test_features_are_sorted_by_their_difference() -> None:
    source = torch.tensor([[0.0, 0.0], [1.0, 4.0]])
    target = torch.tensor([[1.0, 4.0], [1.0, 4.0]])
    shifted = feature_differences(
        ["a", "b"], source + torch.tensor([0.0, 9.0]), target, torch.ones(2).double()
    )
    assert [name for name, *_ in shifted] == ["b", "a"]
    assert all(before == pytest.approx(after) for _, before, after in shifted)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 1}, "k must be from 2"),
        ({"steps": 0}, "steps must be positive"),
        ({"batch_size": 0}, "batch_size must be positive"),
    ],
)
def test_settings_out_of_range_are_errors_before_training(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WeightedCrossValidation(LinearRegression(1), torch.zeros(9, 1), torch.zeros(9), **settings)


def test_negative_weights_are_an_error(trainer: Callable[..., Trainer]) -> None:
    validation = WeightedCrossValidation(LinearRegression(1), torch.zeros(9, 1), torch.zeros(9))
    with pytest.raises(InputError, match="must not be negative"):
        validation.fit(fit_with(trainer), torch.tensor([-1.0] + [2.0] * 8))
