"""Linear regression from scratch and with the framework: equal, and as in the book."""

import copy
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from d2l_lightning.callbacks.history import History
from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.errors import InputError
from d2l_lightning.models.linear_regression import LinearRegression, LinearRegressionScratch


class StepLosses(Callback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].item())


def twins(lr: float = 0.03, **settings: Any) -> tuple[LinearRegressionScratch, LinearRegression]:
    """Return both models with equal weights."""
    scratch = LinearRegressionScratch(2, lr)
    concise = LinearRegression(2, lr, **settings)
    concise.net.load_state_dict({"weight": scratch.w.detach()[None], "bias": scratch.b.detach()[None]})
    return scratch, concise


def step_losses(model: Any, trainer: Callable[..., Trainer], data: Any, **flags: Any) -> list[float]:
    watch = StepLosses()
    trainer(**{"max_epochs": 3, **flags, "callbacks": [watch]}).fit(model, data)
    return watch.losses


def in_double(data: SyntheticRegressionData) -> SyntheticRegressionData:
    data.X, data.y = data.X.double(), data.y.double()
    return data


@pytest.mark.parametrize(
    "flags",
    [{}, {"gradient_clip_val": 0.5}, {"gradient_clip_val": 0.3, "gradient_clip_algorithm": "value"}],
    ids=["unclipped", "by norm", "by value"],
)
@pytest.mark.parametrize("loader", ["scratch", "framework"])
def test_scratch_and_concise_are_equal_at_every_step(
    trainer: Callable[..., Trainer], flags: dict[str, Any], loader: Any
) -> None:
    scratch, concise = twins(loss="half_squared")
    # In double precision, because float32 resolves losses near 13 to 1e-6 only.
    ours = step_losses(scratch.double(), trainer, in_double(SyntheticRegressionData(loader=loader)), **flags)
    theirs = step_losses(concise.double(), trainer, in_double(SyntheticRegressionData()), **flags)
    assert len(ours) == 3 * 32
    assert ours == pytest.approx(theirs, rel=0, abs=1e-9)
    assert ours[-1] < ours[0]
    torch.testing.assert_close(scratch.get_w_b(), concise.get_w_b(), rtol=0, atol=1e-9)
    torch.testing.assert_close(scratch.evaluated, concise.evaluated)


def test_the_squared_loss_of_the_framework_and_its_step_are_twice_those_of_the_book(
    trainer: Callable[..., Trainer],
) -> None:
    half, whole = twins(0.06, loss="half_squared")[1], LinearRegression(2, 0.03)
    whole.load_state_dict(half.state_dict())
    data = SyntheticRegressionData()
    ours, theirs = step_losses(half, trainer, data), step_losses(whole, trainer, data)
    assert [2 * loss for loss in ours] == pytest.approx(theirs, rel=1e-4, abs=1e-7)


def test_the_trainer_takes_the_steps_of_a_plain_loop(trainer: Callable[..., Trainer]) -> None:
    model = LinearRegressionScratch(2)
    w, b = (tensor.requires_grad_() for tensor in model.get_w_b())
    data = SyntheticRegressionData()
    losses = step_losses(model, trainer, data, gradient_clip_val=1.0)
    bare = []
    loader = data.train_dataloader()
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        for X, y in loader:
            loss = ((X @ w + b - y) ** 2).mean() / 2
            grad_w, grad_b = torch.autograd.grad(loss, (w, b))
            norm = torch.sqrt((grad_w**2).sum() + grad_b**2)
            scale = min(1.0, 1.0 / (norm.item() + 1e-6))
            with torch.no_grad():
                w -= 0.03 * scale * grad_w
                b -= 0.03 * scale * grad_b
            bare.append(loss.item())
    assert losses == pytest.approx(bare, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(model.get_w_b(), (w.detach(), b.detach()))


def test_each_named_loss_is_its_formula() -> None:
    X, w = torch.tensor([[0.0], [1.0], [2.0], [-3.0]]), 1.0
    y = torch.tensor([0.5, 1.0, -1.0, -3.1])
    error = X[:, 0] * w - y  # -0.5, 0, 3, 0.1
    sigma = 0.4
    huber = [abs(e) - sigma / 2 if abs(e) > sigma else e * e / (2 * sigma) for e in error.tolist()]  # 3.5.1
    expected = {
        "squared": error**2,
        "half_squared": error**2 / 2,
        "absolute": error.abs(),
        "huber": torch.tensor(huber),
    }
    for loss, values in expected.items():
        model = LinearRegression(1, loss=loss, huber_threshold=sigma)  # type: ignore[arg-type]
        nn.init.constant_(model.net.weight, w)
        torch.testing.assert_close(model.example_losses(X, y), values)
        torch.testing.assert_close(model.loss(X, y), values.mean())


@pytest.mark.parametrize("loss", ["absolute", "huber"])
def test_robust_losses_ignore_one_extreme_target(trainer: Callable[..., Trainer], loss: Any) -> None:
    # Section 3.4.6, exercise 8: y_5 = 10000.
    data = SyntheticRegressionData(num_val=0)
    data.y[5] = 10_000.0
    errors = {}
    for name in (loss, "squared"):
        model = LinearRegression(2, 0.01, name)
        trainer(max_epochs=30).fit(model, data)
        errors[name] = (model.get_w_b()[0] - data.w).norm().item()
    assert errors[loss] < 0.05
    assert errors["squared"] > 1


def test_initial_weights_have_the_asked_deviation() -> None:
    torch.manual_seed(0)
    for model in (LinearRegressionScratch(10_000, sigma=0.5), LinearRegression(10_000, sigma=0.5)):
        w, b = model.get_w_b()
        assert w.std().item() == pytest.approx(0.5, rel=0.05)
        assert w.mean().item() == pytest.approx(0, abs=0.02)
        assert b.item() == 0
    own = LinearRegression(10_000, sigma=None).get_w_b()[0]  # uniform within 1 / sqrt(d)
    assert own.abs().max().item() == pytest.approx(0.01, rel=0.01)
    assert own.std().item() == pytest.approx(0.01 / 3**0.5, rel=0.05)


def test_get_w_b_returns_copies_in_the_shapes_of_the_formulas() -> None:
    for model in (LinearRegressionScratch(3), LinearRegression(3), LinearRegression(3, bias=False)):
        w, b = model.get_w_b()
        assert w.shape == (3,)
        assert b.shape == ()
        X = torch.randn(4, 3)
        torch.testing.assert_close(model(X).detach(), X @ w + b)
        w.zero_()
        assert not torch.equal(model.get_w_b()[0], w)
        assert not w.requires_grad
        assert not b.requires_grad


@pytest.mark.parametrize(
    "model",
    [LinearRegressionScratch(3, 0.5), LinearRegression(3, 0.1, "huber", bias=False, huber_threshold=2.0)],
    ids=["scratch", "concise"],
)
def test_a_checkpoint_restores_the_model(model: Any, trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    data = SyntheticRegressionData([1.0, 2.0, 3.0])
    fit = trainer(max_epochs=1)
    fit.fit(model, data)
    fit.save_checkpoint(tmp_path / "m.ckpt", weights_only=True)
    back = type(model).load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True)
    assert dict(back.hparams) == dict(model.hparams)
    assert torch.equal(back(data.X), model(data.X))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_inputs": 0}, "num_inputs must be positive, not 0"),
        ({"lr": 0.0}, "lr must be positive, not 0.0"),
        ({"lr": -1.0}, "lr must be positive, not -1.0"),
        ({"sigma": -0.1}, "sigma must not be negative; it is -0.1"),
    ],
)
@pytest.mark.parametrize("model", [LinearRegressionScratch, LinearRegression])
def test_bad_settings_are_an_error(model: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model(**{"num_inputs": 2, **settings})


def test_bad_settings_of_the_concise_model_are_an_error() -> None:
    with pytest.raises(InputError, match="loss must be one of squared, half_squared, absolute, huber"):
        LinearRegression(2, loss="cubed")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="huber_threshold must be positive, not 0"):
        LinearRegression(2, huber_threshold=0)


def test_features_without_weights_are_an_error() -> None:
    X = torch.zeros(4, 2)
    with pytest.raises(InputError, match="X has 2 features and w has 3 weights"):
        LinearRegressionScratch(3)(X)
    with pytest.raises(InputError, match="X has 2 features and num_inputs is 3"):
        LinearRegression(3)(X)


def errors_after(model: Any, data: SyntheticRegressionData, fit: Trainer) -> list[float]:
    fit.fit(model, data)
    w, b = model.get_w_b()
    return [*(data.w - w).abs().tolist(), abs(data.b - b.item())]


def test_median_errors_over_five_seeds_are_of_the_size_that_the_book_prints(
    trainer: Callable[..., Trainer],
) -> None:
    errors: dict[str, list[list[float]]] = {"scratch": [], "longer": [], "concise": []}
    for seed in range(5):
        torch.manual_seed(seed)
        data = SyntheticRegressionData(seed=seed, num_val=0)
        scratch, concise = LinearRegressionScratch(2), LinearRegression(2)
        errors["longer"].append(errors_after(copy.deepcopy(scratch), data, trainer(max_epochs=9)))
        errors["scratch"].append(errors_after(scratch, data, trainer(max_epochs=3)))
        errors["concise"].append(errors_after(concise, data, trainer(max_epochs=3)))
    # The book prints, for w1, w2 and b, 0.1408, 0.1493, 0.2130 and 0.0094, 0.0030, 0.0137: one draw.
    medians = {
        name: [statistics.median(of_one) for of_one in zip(*found, strict=True)]
        for name, found in errors.items()
    }
    assert medians["scratch"] == pytest.approx([0.1408, 0.1493, 0.2130], abs=0.07)
    assert all(error < 0.02 for error in medians["concise"])
    for before, after in zip(medians["scratch"], medians["longer"], strict=True):
        assert after < before / 50


def test_a_column_of_targets_is_an_error() -> None:
    X, y = torch.randn(6, 2), torch.randn(6, 1)
    for model in (LinearRegressionScratch(2), LinearRegression(2), LinearRegression(2, loss="absolute")):
        with pytest.raises(InputError, match=r"y_hat of shape \(6,\) does not go with y of shape \(6, 1\)"):
            model.loss(X, y)


def test_the_squared_loss_is_logged_for_every_loss(trainer: Callable[..., Trainer]) -> None:
    data = SyntheticRegressionData(num_train=50, num_val=30, watch_train=True)
    model = LinearRegression(2, loss="absolute")
    history = History()
    trainer(max_epochs=2, logger=[history], check_val_every_n_epoch=2).fit(model, data)
    error = model(data.X) - data.y
    for stage, rows in data.rows.items():
        half = error[rows].square().mean() / 2
        torch.testing.assert_close(model.evaluated[f"{stage}/squared_loss"], half)
    torch.testing.assert_close(model.evaluated["val/loss"], error[50:].abs().mean())
    # The loss of training is logged every epoch, as train/loss only.
    assert "train/loss" not in model.evaluated
    assert history.curve("train/loss")[0] == [1, 2]
    assert history.curve("train/squared_loss")[0] == [2]


def test_examples_of_weight_0_have_no_influence(trainer: Callable[..., Trainer]) -> None:
    X, y = torch.randn(6, 2), torch.randn(6)
    kept = torch.tensor([1.0, 1, 0, 0, 1, 0])
    for model in (LinearRegressionScratch(2), LinearRegression(2, loss="huber")):
        rows: Tensor = kept > 0
        torch.testing.assert_close(model.loss(X, y, kept), model.loss(X[rows], y[rows]))
