"""Classifiers: models from scratch equal their concise twins, and each setting has its effect."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.data.batches import RowLoader, ShuffledBatches, gather_from
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import DivergenceError, InputError
from d2l_lightning.models.dropout_mlp import (
    DropoutMLP,
    DropoutMLPScratch,
    probabilities_under_dropout,
    uncertainty_under_dropout,
)
from d2l_lightning.models.layers import make_activation
from d2l_lightning.models.mlp import MLP, MLPScratch
from d2l_lightning.models.softmax_regression import SoftmaxRegression, SoftmaxRegressionScratch
from tests.models.test_linear_regression import step_losses

SIZES: dict[str, Any] = {"num_inputs": 36, "num_outputs": 4}


class Blobs(LightningDataModule):
    """Images of 6 by 6 pixels; the brightest of the first rows is the class."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.y = torch.randint(4, (200,), generator=generator)
        self.X = torch.rand(200, 6, 6, generator=generator, dtype=torch.float64)
        self.X[torch.arange(200), self.y] += 1
        self.X = self.X.to(dtype)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.X, self.y), batch_size=32)

    val_dataloader = train_dataloader


def softmax_twins() -> tuple[Any, Any]:
    scratch, concise = SoftmaxRegressionScratch(**SIZES), SoftmaxRegression(**SIZES)
    concise.net.load_state_dict({"weight": scratch.W.detach().T, "bias": scratch.b.detach()})
    return scratch, concise


def mlp_twins() -> tuple[Any, Any]:
    scratch, concise = MLPScratch(**SIZES, num_hiddens=16), MLP(**SIZES, hidden_sizes=[16])
    weights = {"weight": scratch.W1.detach().T, "bias": scratch.b1.detach()}
    cast(nn.Linear, concise.net[0]).load_state_dict(weights)
    weights = {"weight": scratch.W2.detach().T, "bias": scratch.b2.detach()}
    cast(nn.Linear, concise.net[2]).load_state_dict(weights)
    return scratch, concise


def dropout_twins(*dropouts: float) -> tuple[Any, Any]:
    settings: dict[str, Any] = {
        **SIZES,
        "hidden_sizes": [16, 8],
        "dropouts": dropouts or (0.0, 0.0),
        "lr": 0.1,
    }
    scratch, concise = DropoutMLPScratch(**settings), DropoutMLP(**settings)
    layers = [layer for layer in concise.net if isinstance(layer, nn.Linear)]
    for layer, W, b in zip(layers, scratch.W, scratch.b, strict=True):
        layer.load_state_dict({"weight": W.detach().T, "bias": b.detach()})
    return scratch, concise


@pytest.mark.parametrize(
    "twins", [softmax_twins, mlp_twins, dropout_twins], ids=["softmax regression", "mlp", "dropout off"]
)
@pytest.mark.parametrize("clip", [None, 0.2])
def test_models_from_scratch_equal_concise_ones_at_every_step(
    trainer: Callable[..., Trainer], twins: Callable[[], tuple[Any, Any]], clip: float | None
) -> None:
    scratch, concise = twins()
    flags = {"max_epochs": 10, "gradient_clip_val": clip}
    ours = step_losses(scratch, trainer, Blobs(), **flags)
    theirs = step_losses(concise, trainer, Blobs(), **flags)
    assert ours == pytest.approx(theirs, rel=0, abs=1e-5)
    assert ours[-1] < ours[0]
    for metric, value in concise.evaluated.items():
        torch.testing.assert_close(scratch.evaluated[metric], value, rtol=0, atol=1e-5)
    X = Blobs().X
    torch.testing.assert_close(scratch(X), concise(X), rtol=1e-4, atol=1e-5)


def test_metrics_are_means_over_the_rows_of_an_epoch(trainer: Callable[..., Trainer]) -> None:
    model, data = SoftmaxRegression(**SIZES, lr=0.5), Blobs()
    trainer(max_epochs=5).fit(model, data)
    logits = model(data.X)
    assert model.evaluated["val/accuracy"] == (logits.argmax(dim=1) == data.y).float().mean()
    torch.testing.assert_close(model.evaluated["val/loss"], nn.functional.cross_entropy(logits, data.y))
    assert model.evaluated["val/accuracy"] > 0.9


def test_hidden_layers_have_the_given_sizes() -> None:
    model = MLP(hidden_sizes=[8, 3], activation="tanh")
    assert [type(layer).__name__ for layer in model.net] == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]
    assert [layer.out_features for layer in model.net if isinstance(layer, nn.Linear)] == [8, 3, 10]
    assert model(torch.rand(2, 28, 28)).shape == (2, 10)


def test_layers_with_the_identity_form_a_linear_model() -> None:
    model = MLP(**SIZES, hidden_sizes=[9, 7], activation="identity", initialization="default").double()
    a, b, mean = torch.rand(5, 36).double(), torch.rand(5, 36).double(), torch.tensor(0.3).double()
    torch.testing.assert_close(model(torch.lerp(a, b, mean)), torch.lerp(model(a), model(b), mean))


def test_a_dropout_perceptron_equals_a_perceptron_with_dropout(trainer: Callable[..., Trainer]) -> None:
    torch.manual_seed(3)
    dropout = DropoutMLP(**SIZES, hidden_sizes=[16, 8], weight_decay=0.01)
    other = MLP(**SIZES, hidden_sizes=[16, 8], dropouts=[0.2, 0.5], lr=0.5, weight_decay=0.01)
    other.load_state_dict(dropout.state_dict())
    losses = []
    for model in (dropout, other):
        torch.manual_seed(4)
        losses.append(step_losses(model, trainer, Blobs()))
    assert losses[0] == losses[1]


def test_labels_are_smoothed_in_training_only() -> None:
    model, data = MLP(**SIZES, label_smoothing=0.2), Blobs()
    log_p = model(data.X).log_softmax(dim=1)
    truth = 0.8 * nn.functional.one_hot(data.y, 4) + 0.2 / 4
    torch.testing.assert_close(model.loss(data.X, data.y), -(truth * log_p).sum(dim=1).mean())
    model.eval()
    loss = model.example_metrics(data.X, data.y)["loss"].mean()
    torch.testing.assert_close(loss, nn.functional.nll_loss(log_p, data.y))


def test_one_cycle_raises_the_learning_rate_and_lowers_it_again(trainer: Callable[..., Trainer]) -> None:
    model = MLP(**SIZES, optimizer="adamw", schedule="one_cycle", lr=0.02, weight_decay=0.1)
    rates: list[float] = []

    class Recorder(Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            assert isinstance(optimizer, torch.optim.AdamW)
            assert optimizer.param_groups[0]["weight_decay"] == 0.1
            assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)  # only the learning rate changes
            rates.append(optimizer.param_groups[0]["lr"])

    trainer(max_epochs=10, callbacks=[Recorder()]).fit(model, Blobs())
    assert len(rates) == 70
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.02, rel=0.01)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 1e-4 < rates[0]
    assert model.evaluated["val/accuracy"] > 0.9


@pytest.mark.parametrize("flags", [{"max_epochs": -1}, {"max_steps": 0}, {"limit_train_batches": 0}])
def test_one_cycle_needs_a_last_step(trainer: Callable[..., Trainer], flags: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="a schedule needs steps, and max_epochs or max_steps"):
        trainer(**flags).fit(MLP(**SIZES, schedule="one_cycle"), Blobs())


def test_one_cycle_is_the_same_in_a_stack(trainer: Callable[..., Trainer]) -> None:
    alone = MLP(**SIZES, schedule="one_cycle", lr=0.5)
    stacked = StackedModule([copy.deepcopy(alone), MLP(**SIZES, schedule="one_cycle", lr=0.5)])
    data = Blobs()
    rows = [torch.arange(200)] * 2
    stacks = StackedData(data.X, data.y, {"train": rows, "val": rows}, batch_size=32, seed=0, same_order=True)
    trainer(max_epochs=3).fit(stacked, stacks)
    loader = RowLoader(ShuffledBatches(200, 32, seed=0), gather_from(data.X, data.y))
    trainer(max_epochs=3).fit(alone, loader)
    for ours, theirs in zip(stacked.unstack()[0].parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_adamw_trains_with_clipping_in_mixed_precision(trainer: Callable[..., Trainer]) -> None:
    model = MLP(**SIZES, optimizer="adamw", lr=0.01)
    trainer(max_epochs=10, precision="bf16-mixed", gradient_clip_val=1.0).fit(model, Blobs())
    assert model.evaluated["val/accuracy"] > 0.9


@pytest.mark.parametrize("model", [*softmax_twins(), *mlp_twins()], ids=lambda m: type(m).__name__)
def test_a_checkpoint_restores_the_model(model: Any, trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    fit = trainer(max_epochs=1)
    fit.fit(model, Blobs())
    fit.save_checkpoint(tmp_path / "m.ckpt", weights_only=True)
    restored = type(model).load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True)
    assert torch.equal(restored(Blobs().X), model(Blobs().X))


@pytest.mark.parametrize("model", [*softmax_twins(), *mlp_twins()], ids=lambda m: type(m).__name__)
def test_images_of_a_wrong_shape_or_type_are_an_error(model: Any) -> None:
    with pytest.raises(InputError, match=r"X of shape \(5, 7, 6\) does not go with num_inputs, 36"):
        model(torch.rand(5, 7, 6))
    with pytest.raises(InputError, match=r"must hold floating-point numbers, not torch\.uint8"):
        model(torch.zeros(5, 6, 6, dtype=torch.uint8))


@pytest.mark.parametrize("model", [*softmax_twins(), *mlp_twins()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.zeros(4, dtype=torch.int64), r"logits of shape \(5, 4\) do not go with y of shape \(4,\)"),
        (torch.zeros(5, 1, dtype=torch.int64), r"logits of shape \(5, 4\) .* with y of shape \(5, 1\)"),
        (torch.zeros(5), r"y must hold classes, integers, not torch\.float32"),
    ],
)
def test_classes_of_a_wrong_shape_or_type_are_an_error(model: Any, y: Tensor, message: str) -> None:
    for compute in (model.loss, model.example_metrics):
        with pytest.raises(InputError, match=message):
            compute(torch.rand(5, 6, 6), y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(hidden_sizes=[]), "hidden_sizes must name at least one positive width"),
        (lambda: MLP(hidden_sizes=[4, 0]), "hidden_sizes must name at least one positive width"),
        (lambda: MLP(activation=cast(Any, "step")), "activation must be one of relu, .* not 'step'"),
        (
            lambda: MLP(initialization=cast(Any, "zeros")),
            "initialization must be one of default, .* not 'zeros'",
        ),
        (lambda: MLP(lr=0.0), "lr must be positive"),
        (lambda: MLPScratch(num_hiddens=0), "num_hiddens must be positive"),
        (lambda: MLPScratch(sigma=-1.0), "sigma must not be negative"),
        (lambda: SoftmaxRegressionScratch(num_outputs=0), "num_outputs must be positive"),
        (lambda: SoftmaxRegression(lr=float("nan")), "lr must be positive"),
        (lambda: DropoutMLP(dropouts=[0.2, 1.1]), r"dropouts must be from 0 to 1, not 1\.1"),
        (lambda: DropoutMLPScratch(dropouts=[-0.1, 0.5]), r"dropouts must be from 0 to 1, not -0\.1"),
        (lambda: DropoutMLPScratch(dropouts=[0.5]), "dropouts must be as many as hidden_sizes"),
        (lambda: DropoutMLP(hidden_sizes=[], dropouts=[]), "hidden_sizes must name at least one"),
        (lambda: DropoutMLP(weight_decay=-1.0), "weight_decay must not be negative"),
        (lambda: MLP(dropouts=[0.2, 0.5]), "dropouts must be as many as hidden_sizes"),
        (lambda: MLP(dropouts=[2.0]), "dropouts must be from 0 to 1, not 2"),
        (lambda: MLP(optimizer=cast(Any, "adam")), "optimizer must be one of sgd, adamw, lars, not 'adam'"),
        (lambda: MLP(schedule=cast(Any, "step")), "schedule must be one of constant, one_cycle, not 'step'"),
        (lambda: MLP(label_smoothing=1.5), "label_smoothing must be from 0 to 1, not 1"),
        (lambda: MLP(weight_decay=-1.0), "weight_decay must not be negative"),
        (lambda: make_activation(cast(Any, "")), "activation must be one of"),
    ],
)
def test_bad_settings_are_an_error(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("place", [0, 1], ids=["scratch", "concise"])
def test_dropout_is_only_active_in_training(place: int) -> None:
    model, X = dropout_twins(0.3, 0.5)[place], Blobs().X
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.train()
    assert not torch.equal(model(X), model(X))
    model.eval()
    assert torch.equal(model(X), model(X))


def test_probabilities_under_many_masks() -> None:
    model, X = dropout_twins(0.3, 0.5)[1].eval(), Blobs().X[:6]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    probabilities = probabilities_under_dropout(model, X, 50)
    assert probabilities.shape == (50, 6, 4)
    torch.testing.assert_close(probabilities.sum(dim=2), torch.ones(50, 6))
    assert probabilities.std(dim=0).amax(dim=1).min() > 0.3
    assert not model.training
    certain = dropout_twins()[1].eval()
    expected = certain(X).softmax(dim=1).detach()
    torch.testing.assert_close(probabilities_under_dropout(certain, X, 3), expected.expand(3, -1, -1))
    with pytest.raises(InputError, match="num_masks must be positive"):
        probabilities_under_dropout(certain, X, 0)


def test_uncertainty_is_averaged_over_tenths() -> None:
    model, data = dropout_twins(0.3, 0.5)[1].eval(), Blobs()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    torch.manual_seed(2)
    uncertainty = uncertainty_under_dropout(model, data.X, data.y, 20, chunk=200)
    torch.manual_seed(2)
    probabilities = probabilities_under_dropout(model, data.X, 20)
    mean = probabilities.mean(dim=0)
    spread = probabilities[:, torch.arange(200), mean.argmax(dim=1)].std(dim=0, correction=0)
    correct = (mean.argmax(dim=1) == data.y).float()
    order = mean.amax(dim=1).argsort()
    for name, values in {"confidence": mean.amax(dim=1), "spread": spread, "accuracy": correct}.items():
        torch.testing.assert_close(torch.tensor(uncertainty[name]), values[order].view(10, 20).mean(dim=1))


def test_predictions_under_masks_do_not_change_batch_norm(trainer: Callable[..., Trainer]) -> None:
    model = MLP(**SIZES, hidden_sizes=[16], dropouts=[0.5], batch_norm=True)
    trainer(max_epochs=3).fit(model, Blobs())
    assert model.evaluated["val/accuracy"] > 0.95
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()
    probabilities = probabilities_under_dropout(model, Blobs().X[:5], 20)
    assert probabilities.std(dim=0).amax(dim=1).min() > 0.04
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert not any(module.training for module in model.modules())


def test_batch_norm_standardises_each_unit_over_the_batch() -> None:
    model, X = MLP(**SIZES, hidden_sizes=[16], batch_norm=True, initialization="default"), Blobs().X
    H = model.net[:2](X.flatten(1))
    torch.testing.assert_close(H.mean(dim=0), torch.zeros(16), rtol=0, atol=1e-5)
    torch.testing.assert_close(H.var(dim=0, correction=0), torch.ones(16), rtol=0, atol=1e-2)
    assert model.eval()(X[:1]).shape == (1, 4)


@pytest.mark.parametrize("model", [*mlp_twins(), *dropout_twins()], ids=lambda m: type(m).__name__)
def test_weights_that_are_not_finite_are_an_error(model: Any, trainer: Callable[..., Trainer]) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(DivergenceError, match="training loss became nan in epoch 1; a lower lr or a grad"):
        trainer(max_epochs=1).fit(model, Blobs())


def test_predictions_are_logits(trainer: Callable[..., Trainer]) -> None:
    model, data = MLP(**SIZES), Blobs()
    predictions = trainer().predict(model, data.train_dataloader())
    logits = torch.cat(cast(list[Tensor], predictions))
    torch.testing.assert_close(logits, model(data.X))
