"""The perceptron that computes its own gradients equals one that autograd trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision

from d2l_lightning.errors import DivergenceError, InputError
from d2l_lightning.models.backpropagation import Activation, BackpropagationMLP, gradient_errors
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.mlp import MLPScratch
from tests.models.test_classifiers import SIZES, Blobs
from tests.models.test_linear_regression import step_losses


def model_of(**settings: Any) -> BackpropagationMLP:
    torch.manual_seed(1)
    return BackpropagationMLP(**{**SIZES, "num_hiddens": 16, "sigma": 0.1, "lambd": 0.01, **settings})


class Automatic(BackpropagationMLP):
    """The same model, trained by autograd under Lightning's automatic optimization."""

    training_step = SupervisedModule.training_step


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
def test_every_step_equals_autograds(trainer: Callable[..., Trainer], activation: Activation) -> None:
    ours = model_of(activation=activation).double()
    theirs = Automatic(**ours.hparams)
    theirs.automatic_optimization = True
    theirs.double().load_state_dict(ours.state_dict())
    data = Blobs(torch.float64)
    losses = step_losses(ours, trainer, data, max_epochs=5)
    expected = step_losses(theirs, trainer, data, max_epochs=5)
    assert len(losses) == 5 * 7
    assert losses == pytest.approx(expected, rel=0, abs=1e-10)
    assert losses[-1] < losses[0]
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, theirs.get_parameter(name), rtol=0, atol=1e-10)
    torch.testing.assert_close(ours.evaluated, theirs.evaluated)


def test_it_trains_without_autograd(trainer: Callable[..., Trainer]) -> None:
    model = model_of(lr=0.5)

    def refuse(*_: Any) -> None:
        raise AssertionError("autograd was used")

    for parameter in model.parameters():
        parameter.register_hook(refuse)
    trainer(max_epochs=10).fit(model, Blobs())
    assert model.evaluated["val/accuracy"] > 0.9


def test_weighted_examples_equal_repeated_examples() -> None:
    model, data = model_of().double(), Blobs(torch.float64)
    weight = torch.arange(1, 11, dtype=torch.float64) % 4
    X, y = data.X[:10], data.y[:10]
    times = weight.long()
    weight *= (times > 0).sum() / times.sum()  # a mean of 1 over those with a weight
    J, gradients = model.gradients(X, y, weight)
    J_repeated, repeated = model.gradients(X.repeat_interleave(times, 0), y.repeat_interleave(times))
    torch.testing.assert_close(J, J_repeated)
    torch.testing.assert_close(gradients, repeated)
    torch.testing.assert_close(J, model.loss(X, y, weight).detach())


def test_a_checkpoint_restores_the_model(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    model, fit = model_of(activation="tanh"), trainer(max_epochs=1)
    fit.fit(model, Blobs())
    fit.save_checkpoint(tmp_path / "m.ckpt", weights_only=True)
    restored = BackpropagationMLP.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True)
    assert torch.equal(restored(Blobs().X), model(Blobs().X))
    X, y = Blobs().X, Blobs().y
    torch.testing.assert_close(restored.gradients(X, y), model.gradients(X, y))


def test_without_penalty_it_equals_the_perceptron_from_scratch(trainer: Callable[..., Trainer]) -> None:
    model = model_of(lambd=0.0).double()
    scratch = MLPScratch(**SIZES, num_hiddens=16).double()
    scratch.load_state_dict({"W1": model.W1.T, "b1": model.b1, "W2": model.W2.T, "b2": model.b2})
    data = Blobs(torch.float64)
    ours, theirs = (step_losses(m, trainer, data, max_epochs=5) for m in (model, scratch))
    assert ours == pytest.approx(theirs, rel=0, abs=1e-10)
    torch.testing.assert_close(model.W1.T, scratch.W1, rtol=0, atol=1e-10)


def test_the_error_of_divergence_does_not_advise_clipping(trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(DivergenceError, match=r"a lower lr may help$"):
        trainer(max_epochs=5).fit(model_of(lr=1e30), Blobs())


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_trains(precision: Any, trainer: Callable[..., Trainer]) -> None:
    flags: dict[str, Any] = {"plugins": [MixedPrecision(precision, "cpu")]}
    model = model_of(lr=0.5)
    trainer(max_epochs=10, **flags).fit(model, Blobs())
    assert model.W1.dtype == torch.float32
    assert model.evaluated["val/accuracy"] > 0.9


def test_scaled_gradients_do_not_vanish_in_half_precision() -> None:
    torch.manual_seed(0)
    X, y, weight, scale = torch.rand(5, 9), torch.tensor([0, 1, 2, 1, 0]), torch.full((5,), 1e-6), 2.0**16
    model = BackpropagationMLP(9, 3, 4, activation="tanh")
    expected = model.gradients(X, y, weight)[1].W1
    with torch.autocast("cpu", torch.float16):
        scaled, plain = (model.gradients(X, y, weight, s)[1].W1 for s in (scale, 1.0))
    torch.testing.assert_close(scaled.float() / scale, expected, rtol=0.02, atol=1e-11)
    assert expected.abs().max() > 1e-9
    assert not plain.any()  # float16 holds no number below 6e-8


def test_clipping_is_an_error(trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(MisconfigurationException, match="gradient clipping is not supported for manual"):
        trainer(max_epochs=1, gradient_clip_val=1.0).fit(model_of(), Blobs())


def test_gradient_errors_show_a_wrong_formula() -> None:
    model = BackpropagationMLP(9, 3, 4, lambd=0.1, sigma=1.0)
    X, y = torch.rand(5, 9), torch.tensor([0, 1, 2, 1, 0])
    assert max(gradient_errors(model, X, y).values()) < 1e-12
    model.phi_derivative = torch.ones_like
    errors = gradient_errors(model, X, y)
    assert errors["W1"] > 1e-3
    assert errors["W2"] < 1e-12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "gelu"}, "activation must be one of relu, sigmoid, tanh, not 'gelu'"),
        ({"num_hiddens": 0}, "num_hiddens must be positive"),
        ({"lambd": -1.0}, "lambd must not be negative"),
        ({"lr": 0.0}, "lr must be positive"),
    ],
)
def test_bad_settings_are_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model_of(**settings)
