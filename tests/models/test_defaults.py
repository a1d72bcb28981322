"""The defaults of models are the settings of the book."""

from typing import Any

import pytest
import torch
from torch import nn

from d2l_lightning.errors import InputError
from d2l_lightning.models.backpropagation import BackpropagationMLP
from d2l_lightning.models.dropout_mlp import DropoutMLP, DropoutMLPScratch
from d2l_lightning.models.linear_regression import LinearRegression, LinearRegressionScratch
from d2l_lightning.models.logistic_regression import LogisticRegression
from d2l_lightning.models.mlp import MLP, MLPScratch
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.models.softmax_regression import SoftmaxRegression, SoftmaxRegressionScratch
from d2l_lightning.models.table_regressor import TableRegressor
from d2l_lightning.models.weight_decay import Lasso, WeightDecay, WeightDecayScratch

IMAGES: dict[str, Any] = {"num_inputs": 784, "num_outputs": 10, "sigma": 0.01}
TWO_LAYERS: dict[str, Any] = {"hidden_sizes": (256, 256), "dropouts": (0.2, 0.5), "lr": 0.5}
DEFAULTS: dict[Any, tuple[tuple[Any, ...], dict[str, Any]]] = {
    LinearRegressionScratch: ((), {"lr": 0.03, "sigma": 0.01}),
    LinearRegression: ((), {"lr": 0.03, "loss": "squared", "sigma": 0.01, "bias": True, "optimizer": "sgd"}),
    WeightDecayScratch: ((3.0,), {"lr": 0.01, "sigma": 0.01, "penalty": "l2"}),
    WeightDecay: ((3.0,), {"lr": 0.01, "sigma": 0.01, "loss": "squared", "wd": 3.0}),
    Lasso: ((3.0,), {"lr": 0.01, "sigma": 0.01}),
    LogisticRegression: ((), {"lr": 0.01, "weight_decay": 0.0}),
    PriceRegressor: ((), {"lr": 5.0, "hidden_sizes": (), "log_price": False, "weight_decay": 0.0}),
    TableRegressor: (
        (),
        {
            **{"hidden_sizes": (), "parametrization": "standard", "log_target": None, "standardize": False},
            **{"clip": False, "loss": "squared", "metric": "rmse", "optimizer": "adam", "bias_lr": None},
            **{"betas": (0.9, 0.999), "schedule": "constant", "dropout": 0.0, "weight_decay": 0.0, "l1": 0.0},
            "label_noise": 0.0,
        },
    ),
    SoftmaxRegressionScratch: ((), {**IMAGES, "lr": 0.1}),
    SoftmaxRegression: ((), {**IMAGES, "lr": 0.1, "optimizer": "sgd"}),
    MLPScratch: ((), {**IMAGES, "num_hiddens": 256, "lr": 0.1}),
    MLP: (
        (),
        {**IMAGES, "hidden_sizes": (256,), "lr": 0.1, "activation": "relu", "initialization": "normal"},
    ),
    DropoutMLPScratch: ((), {**IMAGES, **TWO_LAYERS}),
    DropoutMLP: ((), {**IMAGES, **TWO_LAYERS, "weight_decay": 0.0}),
    BackpropagationMLP: ((), {**IMAGES, "num_hiddens": 256, "lr": 0.1, "activation": "relu", "lambd": 0.0}),
}


@pytest.mark.parametrize("kind", DEFAULTS, ids=lambda kind: kind.__name__)
def test_the_defaults_of_a_model_are_those_of_the_book(kind: Any) -> None:
    arguments, expected = DEFAULTS[kind]
    images = "num_inputs" in expected
    torch.manual_seed(0)
    model = kind() if images else kind(4, *arguments)
    assert {name: model.hparams[name] for name in expected} == expected
    if images:
        assert model(torch.rand(2, 28, 28)).shape == (2, 10)
    for parameter in model.parameters():
        if parameter.ndim == 2 and parameter.numel() > 2000 and "sigma" in expected:
            assert parameter.std().item() == pytest.approx(0.01, rel=0.05)


def test_a_perceptron_has_no_extras_by_default() -> None:
    hparams = MLP().hparams
    assert not hparams["batch_norm"]
    assert (hparams["label_smoothing"], hparams["weight_decay"]) == (0.0, 0.0)
    assert (hparams["optimizer"], hparams["schedule"]) == ("sgd", "constant")
    assert [type(layer) for layer in MLP().net] == [nn.Linear, nn.ReLU, nn.Linear]


@pytest.mark.parametrize(
    "make",
    [
        lambda: PriceRegressor(1, [1], dropout=0.0, weight_decay=0.0),
        lambda: PriceRegressor(1, [1], dropout=0.999),
        lambda: MLP(1, 1, [1], sigma=0.0, dropouts=[0.0], label_smoothing=0.0),
        lambda: MLP(1, 1, [1], dropouts=[1.0], label_smoothing=1.0),
        lambda: MLPScratch(1, 1, 1, sigma=0.0),
        lambda: DropoutMLPScratch(1, 1, [1], [1.0], sigma=0.0),
        lambda: DropoutMLP(1, 1, [1], [0.0], sigma=0.0),
        lambda: SoftmaxRegressionScratch(1, 1, sigma=0.0),
        lambda: SoftmaxRegression(1, 1, sigma=0.0),
        lambda: BackpropagationMLP(1, 1, 1, lambd=0.0, sigma=0.0),
        lambda: LinearRegressionScratch(1, sigma=0.0),
        lambda: LinearRegression(1, sigma=0.0, huber_threshold=1e-9),
        lambda: WeightDecayScratch(1, 0.0),
        lambda: WeightDecay(1, 0.0),
        lambda: Lasso(1, 0.0),
        lambda: LogisticRegression(1),
    ],
)
def test_settings_at_the_ends_of_their_ranges_are_accepted(make: Any) -> None:
    model = make()
    assert model(torch.ones(3, 1)).isfinite().all()


@pytest.mark.parametrize("kind", [kind for kind in DEFAULTS if "sigma" in DEFAULTS[kind][1]])
def test_a_negative_standard_deviation_is_an_error(kind: Any) -> None:
    arguments = {"num_inputs": 4, "sigma": -0.01}
    given = (
        {"lambd": 1.0} if kind in (WeightDecayScratch, Lasso) else {"wd": 1.0} if kind is WeightDecay else {}
    )
    with pytest.raises(InputError, match=r"sigma must not be negative; it is -0\.01"):
        kind(**arguments, **given)
