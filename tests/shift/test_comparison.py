"""A comparison trains one model in three settings and measures the risks on the target."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from d2l_lightning.data.shifted_houses import ShiftedHouses
from d2l_lightning.data.synthetic_shift import SyntheticCovariateShift
from d2l_lightning.errors import InputError
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.shift.comparison import Comparison, compare, comparison_report, with_mean_1
from d2l_lightning.shift.covariate import Detection, EstimatedShift
from d2l_lightning.shift.domain import DomainSettings

QUICK = DomainSettings(domain_steps=20, num_permutations=19)


class Fits:
    """Fits models like ``Run.fit`` and keeps models and data."""

    def __init__(self, trainer: Callable[..., Trainer]) -> None:
        self.trainer, self.data = trainer, {}

    def __call__(self, name: str, model: Any, data: Any, max_epochs: int = 2, **_: Any) -> "Fits":
        self.data[name] = data
        self.trainer(max_epochs=max_epochs).fit(model, data)
        return self

    def curve(self, metric: str) -> tuple[list[int], list[float]]:
        return [1], [len(metric)]


def test_the_fits_are_those_of_single_models(trainer: Callable[..., Trainer]) -> None:
    data = SyntheticCovariateShift(num_source=200, num_target=150, num_test=100, batch_size=50)
    model, fits = LinearRegression(5), Fits(trainer)
    comparison = compare(fits, data, model, QUICK)
    assert data.ratio is not None
    for name, weights in (("uncorrected", None), ("oracle", with_mean_1(data.ratio))):
        single = copy.deepcopy(model)
        data.weights = weights
        trainer(max_epochs=2).fit(single, data)
        for parameter, expected in zip(
            comparison.models[name].parameters(), single.parameters(), strict=True
        ):
            torch.testing.assert_close(parameter, expected)
        X, y = data.X[data.rows["test"]], data.y[data.rows["test"]]
        with torch.no_grad():
            risk = (single(X) - y).square().mean().item()
        assert comparison.risks[name] == pytest.approx(risk, rel=1e-4)
    corrected = fits.data["models"].weights["train"][1, data.rows["source"]]
    torch.testing.assert_close(corrected, with_mean_1(comparison.estimated.weights))
    assert comparison.curves["corrected"] == ([1], [len("val/loss/corrected")])


def test_without_true_weights_the_oracle_trains_on_the_target(trainer: Callable[..., Trainer]) -> None:
    data = ShiftedHouses()
    data.setup()
    model, fits = PriceRegressor(data.X.shape[1], log_price=True, lr=0.001), Fits(trainer)
    comparison = compare(fits, data, model, QUICK, "log_rmse")
    source, _, oracle = fits.data["models"].rows["train"]
    assert len(oracle) == len(source)
    assert set(oracle.tolist()) == set(data.rows["target"].tolist())
    assert comparison.weight_correlation is None
    assert comparison_report(comparison, "loss", "log RMSE").results["weight_correlation"] is None


def comparison_of(risks: list[float], weights: Tensor, ratio: Tensor | None) -> Comparison:
    estimated = EstimatedShift(weights, torch.zeros(3), torch.zeros(3), 3.0, 0.0)
    names = ("uncorrected", "corrected", "oracle")
    return Comparison(estimated, Detection(0.5, 1.0), ratio, {}, dict(zip(names, risks, strict=True)), {})


def test_derived_values_follow_from_risks_and_weights() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0])
    comparison = comparison_of([3.0, 1.5, 1.0], weights, 2 * weights)
    assert comparison.recovered == 0.75
    assert comparison.weight_correlation == pytest.approx(1)
    constant = comparison_of([1.0, 2.0, 1.0], torch.ones(3), weights)
    assert constant.recovered is None
    assert constant.weight_correlation is None


def test_a_diverged_model_is_an_error(trainer: Callable[..., Trainer]) -> None:
    data = SyntheticCovariateShift(num_source=200, num_target=150, num_test=100)
    with pytest.raises(InputError, match=r"finite number|became"):
        compare(Fits(trainer), data, LinearRegression(5, lr=1e30), QUICK)
