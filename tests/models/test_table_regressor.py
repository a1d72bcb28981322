"""Regression of tables: predictions, losses and steps by hand, and bad settings."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d2l_lightning.data.regression import RegressionData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models.layers import NTKLinear
from d2l_lightning.models.price_regressor import TYPICAL_PRICE, PriceRegressor
from d2l_lightning.models.table_regressor import TableRegressor
from d2l_lightning.optim.proximal import ProximalAdamW
from tests.conftest import lean_trainer

Data = tuple[Tensor, Tensor]


def constant(output: float, **settings: Any) -> TableRegressor:
    """Return a model whose net has the same output for all examples, with four training targets."""
    model = TableRegressor(1, **settings)
    nn.init.zeros_(model.net[-1].weight)
    nn.init.constant_(model.net[-1].bias, output)
    model.fit_target(torch.tensor([1.0, 3.0, 5.0, 7.0]).exp())
    return model


@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("clip", [False, True])
def test_predictions_have_the_unit_of_the_targets(log_target: bool, clip: bool) -> None:
    y = torch.tensor([1.0, 3.0, 5.0, 7.0]).exp()
    for output in (-3.0, 0.5, 3.0):
        model = constant(output, log_target=log_target, standardize=True, clip=clip)
        target = y.log() if log_target else y
        expected = output * target.std(correction=0) + target.mean()
        expected = expected.exp() if log_target else expected
        if clip:
            expected = expected.clamp(math.exp(1), math.exp(7))
        torch.testing.assert_close(model(torch.ones(2, 1)), expected.expand(2), rtol=1e-5, atol=1e-4)


def test_the_loss_is_on_the_standardised_logarithm() -> None:
    # The mean of the logarithms is 4, and their standard deviation the root of 5.
    y = torch.tensor([4.0, 4 + math.sqrt(5), 4 - 2 * math.sqrt(5)]).exp()
    settings: dict[str, Any] = {"log_target": True, "standardize": True, "clip": True}
    X = torch.ones(3, 1)
    squared = constant(0.1, **settings).example_losses(X, y)
    torch.testing.assert_close(squared, torch.tensor([0.1**2, 0.9**2, 2.1**2]) / 2)
    huber = constant(0.1, loss="huber", huber_threshold=0.5, **settings).example_losses(X, y)
    torch.testing.assert_close(huber, torch.tensor([0.005, 0.5 * (0.9 - 0.25), 0.5 * (2.1 - 0.25)]))
    # Not clipped: a net whose output is far too high has a gradient.
    model = constant(10.0, **settings)
    model.loss(X, y).backward()
    assert model.net[-1].bias.grad.abs() > 5


def test_label_noise_is_added_to_the_standardised_target_in_training_only() -> None:
    y, X = torch.tensor([4.0]).exp().expand(40_000), torch.ones(40_000, 1)
    settings: dict[str, Any] = {"log_target": True, "standardize": True}
    model = constant(0.3, label_noise=0.5, **settings)
    torch.manual_seed(0)
    # Half the squared error of 0.3 minus N(0, 0.5^2); its mean is within 5 standard deviations.
    assert model.example_losses(X, y).mean().item() == pytest.approx((0.3**2 + 0.5**2) / 2, abs=0.006)
    plain = constant(0.3, **settings)
    assert torch.equal(model.eval().example_losses(X, y), plain.example_losses(X, y))
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_before_fit_target_nothing_is_shifted_or_clipped() -> None:
    X = torch.randn(5, 3)
    plain, other = (TableRegressor(3, standardize=on, clip=on) for on in (False, True))
    other.net.load_state_dict(plain.net.state_dict())
    assert torch.equal(other(X), plain(X))
    assert set(other.state_dict()) - set(plain.state_dict()) == {"mean", "sd", "low", "high"}


@pytest.mark.parametrize("metric", ["rmse", "log_rmse", "mae"])
def test_each_stage_has_the_one_metric(metric: Any, prices: Data) -> None:
    X, y = prices
    model = TableRegressor(6, metric=metric, log_target=True)
    means = {name: values.mean() for name, values in model.example_metrics(X, y).items()}
    error = {
        "rmse": (model(X) - y).square().mean().sqrt(),
        "log_rmse": (model(X).clamp(min=1).log() - y.log()).square().mean().sqrt(),
        "mae": (model(X) - y).abs().mean(),
    }
    assert model.epoch_metrics(means).keys() == {metric}
    torch.testing.assert_close(model.epoch_metrics(means)[metric], error[metric])


def test_layers_in_the_ntk_parametrization_start_from_normal_weights() -> None:
    torch.manual_seed(0)
    net = TableRegressor(400, [300, 200], "silu", 0.1, "ntk").net
    kinds = [type(layer).__name__ for layer in net]
    assert kinds == ["NTKLinear", "SiLU", "Dropout"] * 2 + ["NTKLinear"]
    first, second, last = (layer for layer in net if isinstance(layer, NTKLinear))
    for values in (first.weight, second.weight, last.weight, first.bias, second.bias):
        assert values.std().item() == pytest.approx(1, rel=5 / math.sqrt(2 * values.numel()))
        assert values.mean().item() == pytest.approx(0, abs=5 / math.sqrt(values.numel()))
    assert last.bias.tolist() == [0.0]


def test_adamw_decays_weights_and_shrinks_those_of_the_first_layer() -> None:
    settings: dict[str, Any] = {"optimizer": "adamw", "lr": 0.1, "weight_decay": 0.5, "betas": [0.8, 0.9]}
    model = TableRegressor(3, [4, 2], "prelu", bias_lr=0.01, l1=2.0, **settings)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, ProximalAdamW)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}
    assert {group["fused"] for group in optimizer.param_groups} == {True}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # the first step is as long as the learning rate
    for name, parameter in model.named_parameters():
        layer, _, kind = name.removeprefix("net.").partition(".")
        weight = kind == "weight" and layer not in ("1", "4")  # those are slopes of activations
        expected = before[name] * 0.95 - 0.1 if weight else before[name] - 0.01
        if layer == "0" and weight:
            expected = nn.functional.softshrink(expected, 0.2)
            assert (expected == 0).any()
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-6)
    plain = TableRegressor(3, [4], **settings).configure_optimizers()
    assert [group["lr"] for group in plain.param_groups] == [0.1] * 3
    assert [group["weight_decay"] for group in plain.param_groups] == [0.5, 0.5, 0.0]
    assert not any(group.get("l1") for group in plain.param_groups)
    linear = TableRegressor(3, l1=1.0, **settings).configure_optimizers()
    assert [len(group["params"]) for group in linear.param_groups] == [1, 1]


def test_adam_takes_all_parameters_and_its_betas() -> None:
    optimizer = TableRegressor(3, [4], betas=(0.5, 0.7), weight_decay=0.1).configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert (len(group["params"]), group["betas"], group["weight_decay"]) == (4, (0.5, 0.7), 0.1)


def test_a_checkpoint_holds_all_settings_and_the_statistics_of_the_targets(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        **{"hidden_sizes": [4], "activation": "silu", "dropout": 0.1, "parametrization": "ntk"},
        **{"standardize": True, "clip": True, "loss": "huber", "huber_threshold": 0.3},
        **{"optimizer": "adamw", "betas": [0.8, 0.9], "lr": 0.1, "bias_lr": 0.01, "schedule": "cosine"},
        **{"weight_decay": 0.1, "l1": 0.2, "label_noise": 0.1},
    }
    kinds = (TableRegressor, {"log_target": True, "metric": "mae"}), (PriceRegressor, {"log_price": True})
    for kind, own in kinds:
        model = kind(3, **settings, **own)
        assert model.hparams == model.hparams_initial == {"num_features": 3, **settings, **own}
        model.fit_target(torch.tensor([1.0, 2.0, 4.0]))
        trainer = lean_trainer(max_epochs=1)
        trainer.strategy.connect(model)
        trainer.save_checkpoint(tmp_path / "model.ckpt")
        loaded = kind.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
        assert loaded.hparams == model.hparams
        X = torch.randn(5, 3)
        assert torch.equal(loaded.eval()(X), model.eval()(X))
        assert (loaded.low, loaded.high) == (1, 4)
        assert loaded.mean == pytest.approx(math.log(2), rel=1e-6)


def test_a_checkpoint_of_an_earlier_version_can_be_loaded(tmp_path: Path) -> None:
    model = PriceRegressor(3, [4], activation="tanh", dropout=0.2, log_price=True, lr=0.1)
    trainer = lean_trainer(max_epochs=1)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    checkpoint = torch.load(tmp_path / "model.ckpt", weights_only=True)
    names = ("num_features", "hidden_sizes", "activation", "dropout", "log_price", "lr", "weight_decay")
    checkpoint["hyper_parameters"] = {name: model.hparams[name] for name in names}
    assert set(checkpoint["state_dict"]) == {"net.0.weight", "net.0.bias", "net.3.weight", "net.3.bias"}
    torch.save(checkpoint, tmp_path / "model.ckpt")
    loaded = PriceRegressor.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True).eval()
    X = torch.randn(5, 3)
    assert torch.equal(loaded(X), model.eval()(X))
    assert loaded.hparams == model.hparams


def test_a_standardised_price_does_not_start_from_a_typical_price() -> None:
    typical, standardised = (
        PriceRegressor(6, log_price=True, standardize=standardize, parametrization="ntk")
        for standardize in (False, True)
    )
    assert typical(torch.zeros(1, 6)).item() == pytest.approx(TYPICAL_PRICE, rel=1e-5)
    standardised.fit_target(torch.tensor([100.0, 400.0]))
    assert standardised(torch.zeros(1, 6)).item() == pytest.approx(200, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_sizes": [0]}, r"hidden_sizes must be positive, not \[0\]"),
        ({"parametrization": "mup"}, "parametrization must be one of standard, ntk, not 'mup'"),
        ({"loss": "l1"}, "loss must be one of squared, huber, not 'l1'"),
        ({"metric": "r2"}, "metric must be one of rmse, log_rmse, mae, not 'r2'"),
        ({"optimizer": "sgd"}, "optimizer must be one of adam, adamw, not 'sgd'"),
        ({"schedule": "step"}, "schedule must be one of constant, cosine, not 'step'"),
        ({"huber_threshold": 0.0}, "huber_threshold must be positive, not 0.0"),
        ({"bias_lr": 0.0, "optimizer": "adamw"}, "bias_lr must be positive, not 0.0"),
        ({"bias_lr": 0.1}, "bias_lr goes with the optimizer adamw, not with adam"),
        ({"l1": -0.1, "optimizer": "adamw"}, "l1 must not be negative; it is -0.1"),
        ({"l1": 0.1}, "l1 goes with the optimizer adamw, not with adam"),
        ({"label_noise": -0.1}, "label_noise must not be negative"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\), not \[0.9, 1.0\]"),
        ({"betas": (-0.1, 0.9)}, "betas must be two numbers"),
        ({"betas": (0.9,)}, "betas must be two numbers"),
    ],
)
def test_bad_settings_are_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TableRegressor(3, **settings)


@pytest.mark.parametrize(
    ("settings", "y", "message"),
    [
        ({"log_target": True}, [1.0, 0.0], "log_target needs positive training targets; the least is 0"),
        ({}, [1.0, math.nan], r"y\[1\] must be a finite number, not nan"),
        ({}, [], "there are no training targets"),
        ({"standardize": True}, [3.0, 3.0], "the training targets are all 3; there is nothing to learn"),
    ],
)
def test_bad_targets_are_an_error(settings: dict[str, Any], y: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TableRegressor(3, **settings).fit_target(torch.tensor(y))


def test_a_cosine_without_an_end_is_an_error(prices: Data) -> None:
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*prices), batch_size=8)
    with pytest.raises(InputError, match="a schedule needs steps, and max_epochs or max_steps as its end"):
        lean_trainer(max_epochs=-1).fit(TableRegressor(6, schedule="cosine"), batches)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_members_with_prelu_train_side_by_side_as_alone(optimizer: Any) -> None:
    X, y = torch.randn(12, 3), torch.rand(12) + 1
    members = [TableRegressor(3, [4], "prelu", optimizer=optimizer, lr=0.1) for _ in range(2)]
    alone = [copy.deepcopy(member) for member in members]
    stacked = StackedModule(members)
    rows = {"train": [torch.arange(12)] * 2}
    lean_trainer(max_epochs=30).fit(stacked, StackedData(X, y, rows, 6, seed=0, same_order=True))
    for model, member in zip(alone, stacked.unstack(), strict=True):
        lean_trainer(max_epochs=30).fit(model, RegressionData(X, y, 12, 6))
        torch.testing.assert_close(model(X), member(X), rtol=1e-3, atol=1e-4)
        assert model.net[1].weight.item() != 0.25
