"""The perceptron that computes its own gradients trains as autograd would train it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from d2l_lightning.errors import DivergenceError, InputError
from d2l_lightning.models.backpropagation import Activation, BackpropagationMLP
from d2l_lightning.models.mlp import MLPScratch
from d2l_lightning.module import SupervisedModule
from tests.models.test_classifiers import SIZES, Blobs
from tests.models.test_linear_regression import step_losses


def model_of(**settings: Any) -> BackpropagationMLP:
    torch.manual_seed(1)
    return BackpropagationMLP(**{**SIZES, "num_hiddens": 16, "sigma": 0.1, "lambd": 0.01, **settings})


class Automatic(BackpropagationMLP):
    """The same model, trained by autograd under Lightning's automatic optimization."""

    training_step = SupervisedModule.training_step


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
def test_every_step_is_that_of_autograd(trainer: Callable[..., Trainer], activation: Activation) -> None:
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
        raise AssertionError("autograd was asked")

    for parameter in model.parameters():
        parameter.register_hook(refuse)
    trainer(max_epochs=10).fit(model, Blobs())
    assert model.evaluated["val/accuracy"] > 0.9


def test_weighted_examples_count_as_often_as_their_weight_says() -> None:
    model, data = model_of().double(), Blobs(torch.float64)
    weight = torch.arange(1, 11, dtype=torch.float64) % 4
    X, y = data.X[:10], data.y[:10]
    times = weight.long()
    weight *= (times > 0).sum() / times.sum()  # a mean of 1 over those that count
    J, gradients = model.gradients(X, y, weight)
    J_repeated, repeated = model.gradients(X.repeat_interleave(times, 0), y.repeat_interleave(times))
    torch.testing.assert_close(J, J_repeated)
    torch.testing.assert_close(gradients, repeated)
    torch.testing.assert_close(J, model.loss(X, y, weight).detach())


def test_a_checkpoint_gives_the_model_back(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    model, fit = model_of(activation="tanh"), trainer(max_epochs=1)
    fit.fit(model, Blobs())
    fit.save_checkpoint(tmp_path / "m.ckpt", weights_only=True)
    back = BackpropagationMLP.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True)
    assert torch.equal(back(Blobs().X), model(Blobs().X))
    torch.testing.assert_close(back.gradients(Blobs().X, Blobs().y), model.gradients(Blobs().X, Blobs().y))


def test_unregularized_it_is_the_perceptron_from_scratch(trainer: Callable[..., Trainer]) -> None:
    model = model_of(lambd=0.0).double()
    scratch = MLPScratch(**SIZES, num_hiddens=16).double()
    scratch.load_state_dict({"W1": model.W1.T, "b1": model.b1, "W2": model.W2.T, "b2": model.b2})
    data = Blobs(torch.float64)
    ours, theirs = (step_losses(m, trainer, data, max_epochs=5) for m in (model, scratch))
    assert ours == pytest.approx(theirs, rel=0, abs=1e-10)
    torch.testing.assert_close(model.W1.T, scratch.W1, rtol=0, atol=1e-10)


def test_a_loss_that_is_no_number_is_told_without_advice_to_clip(trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(DivergenceError, match=r"a lower lr may help$"):
        trainer(max_epochs=5).fit(model_of(lr=1e30), Blobs())


def test_bfloat16_trains_and_scaled_float16_is_refused(trainer: Callable[..., Trainer]) -> None:
    model = model_of(lr=0.5)
    trainer(max_epochs=10, precision="bf16-mixed").fit(model, Blobs())
    assert model.W1.dtype == torch.float32
    assert model.evaluated["val/accuracy"] > 0.9
    fit = trainer(max_epochs=1)
    fit.strategy.precision_plugin.precision = cast(Any, "16-mixed")  # which a CPU has not
    with pytest.raises(InputError, match="16-mixed scales the loss"):
        fit.fit(model_of(), Blobs())


def test_lightning_says_that_it_cannot_clip_by_hand(trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(MisconfigurationException, match="gradient clipping is not supported for manual"):
        trainer(max_epochs=1, gradient_clip_val=1.0).fit(model_of(), Blobs())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "gelu"}, "activation must be one of relu, sigmoid, tanh, not 'gelu'"),
        ({"num_hiddens": 0}, "num_hiddens must be positive"),
        ({"lambd": -1.0}, "lambd must not be negative"),
        ({"lr": 0.0}, "lr must be positive"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model_of(**settings)
