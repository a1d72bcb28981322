"""The price model: shapes, losses, checkpoints, and bad hyperparameters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.errors import InputError
from d2l_lightning.functional.regression import log_rmse
from d2l_lightning.models.price_regressor import TYPICAL_PRICE, PriceRegressor

Data = tuple[Tensor, Tensor]


def test_without_hidden_layers_the_model_is_linear_as_in_the_book(prices: Data) -> None:
    X, y = prices
    model = PriceRegressor(6)
    (weight, bias) = model.parameters()
    torch.testing.assert_close(model(X), X @ weight[0] + bias)
    torch.testing.assert_close(model.loss(X, y), nn.functional.mse_loss(model(X), y) / 2)


def test_on_the_logarithm_the_loss_is_the_squared_error_of_logarithms(prices: Data) -> None:
    X, y = prices
    model = PriceRegressor(6, [4], log_price=True)
    torch.testing.assert_close(2 * model.loss(X, y), log_rmse(model(X), y).square())
    assert (model(X) > 1).all()


def test_the_initial_prediction_on_the_logarithm_is_a_typical_price() -> None:
    assert PriceRegressor(6, log_price=True)(torch.zeros(1, 6)).item() == pytest.approx(
        TYPICAL_PRICE, rel=1e-5
    )


def test_a_predicted_logarithm_cannot_overflow_the_loss() -> None:
    model = PriceRegressor(1, log_price=True)
    nn.init.constant_(model.net[-1].bias, 1000.0)
    assert model.loss(torch.zeros(2, 1), torch.ones(2)).isfinite()


def test_hidden_layers_are_as_asked_for() -> None:
    model = PriceRegressor(6, [8, 3], activation="tanh", dropout=0.25)
    kinds = [type(layer).__name__ for layer in model.net]
    assert kinds == ["Linear", "Tanh", "Dropout", "Linear", "Tanh", "Dropout", "Linear"]
    assert [layer.out_features for layer in model.net if isinstance(layer, nn.Linear)] == [8, 3, 1]
    assert model.net[2].p == 0.25


def test_weights_of_1_change_nothing_and_weights_of_0_leave_rows_out(prices: Data) -> None:
    X, y = prices
    model = PriceRegressor(6)
    assert torch.equal(model.loss(X, y, torch.ones(47)), model.loss(X, y))
    half = (torch.arange(47) < 20).float()
    torch.testing.assert_close(model.loss(X, y, half), model.loss(X[:20], y[:20]))


def test_metrics_are_over_all_examples_of_the_epoch(prices: Data, trainer: Callable[..., Trainer]) -> None:
    X, y = prices
    model = PriceRegressor(6, [4], log_price=True, lr=0.01)
    loader = DataLoader(TensorDataset(X, y), batch_size=20)  # 20, 20 and 7 rows
    fit = trainer(max_epochs=1)
    fit.fit(model, loader, loader)
    torch.testing.assert_close(model.evaluated["val/log_rmse"], log_rmse(model(X), y))
    torch.testing.assert_close(fit.callback_metrics["val/log_rmse"], log_rmse(model(X), y))

    frozen = PriceRegressor(6, lr=1e-12)
    fit = trainer(max_epochs=1)
    fit.fit(frozen, loader)
    torch.testing.assert_close(fit.callback_metrics["train/loss"], frozen.loss(X, y), rtol=1e-4, atol=0.0)


def test_each_evaluation_has_its_own_stages(prices: Data, trainer: Callable[..., Trainer]) -> None:
    X, y = prices
    model = PriceRegressor(6, log_price=True, lr=0.01)
    loader = DataLoader(TensorDataset(X, y), batch_size=20)
    fit = trainer(max_epochs=1)
    fit.fit(model, loader, loader)
    assert set(model.evaluated) == {"val/log_rmse"}
    (tested,) = fit.test(model, loader, verbose=False)
    assert tested == {"test/log_rmse": pytest.approx(log_rmse(model(X), y).item())}


def test_an_infinite_loss_names_the_epoch(prices: Data, trainer: Callable[..., Trainer]) -> None:
    model = PriceRegressor(6, lr=1e30)
    with pytest.raises(InputError, match=r"the training loss became (inf|nan) in epoch \d; a lower lr"):
        trainer(max_epochs=3).fit(model, DataLoader(TensorDataset(*prices), batch_size=8))


def test_a_checkpoint_holds_plain_values(
    prices: Data, trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    model = PriceRegressor(6, [5], activation="gelu", dropout=0.1, log_price=True, lr=0.01, weight_decay=0.5)
    fit = trainer(max_epochs=1)
    fit.fit(model, DataLoader(TensorDataset(*prices), batch_size=8))
    fit.save_checkpoint(tmp_path / "model.ckpt")
    loaded = PriceRegressor.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert loaded.hparams == model.hparams
    model.eval()
    loaded.eval()
    assert torch.equal(loaded(prices[0]), model(prices[0]))
    assert loaded.configure_optimizers().defaults["weight_decay"] == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_sizes": [4, 0]}, r"hidden_sizes must be positive, not \[4, 0\]"),
        ({"activation": "step"}, "activation must be one of relu, .* not 'step'"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
        ({"dropout": -0.1}, "dropout must be in"),
        ({"lr": 0.0}, "lr must be positive, not 0.0"),
        ({"lr": float("nan")}, "lr must be positive, not nan"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative; it is -1.0"),
    ],
)
def test_bad_hyperparameters_are_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PriceRegressor(6, **settings)
