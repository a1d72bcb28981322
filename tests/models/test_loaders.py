"""Generators as loaders, and models that take their number of inputs from the first batch."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.classifier import Classifier
from d2l_lightning.models.dropout_mlp import DropoutMLP
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.models.mlp import MLP
from d2l_lightning.models.softmax_regression import SoftmaxRegression
from d2l_lightning.models.weight_decay import WeightDecay

Make = Callable[..., Trainer]
ROWS = SyntheticRegressionData(num_train=30, num_val=0, batch_size=10)
BATCHES = [(ROWS.X[i : i + 10], ROWS.y[i : i + 10]) for i in (0, 10, 20)]
LOADER = DataLoader(BATCHES, batch_size=None)  # type: ignore[arg-type]


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    yield from BATCHES


class Yields(LightningDataModule):
    """Methods that are generator functions."""

    def train_dataloader(self) -> Any:
        yield from BATCHES

    def val_dataloader(self) -> Any:
        yield from BATCHES[:2]


class Returns(LightningDataModule):
    """Methods that return generators."""

    def train_dataloader(self) -> Any:
        return batches()


def trained(fits: Trainer, *data: Any) -> Tensor:
    torch.manual_seed(0)
    model = LinearRegression(2)
    fits.fit(model, *data)
    return model.net.weight.detach()


@pytest.mark.parametrize("data", [batches, Yields()])
def test_a_generator_function_begins_anew_in_each_epoch(data: Any, trainer: Make) -> None:
    fits = trainer(max_epochs=3, num_sanity_val_steps=1)
    assert trained(fits, data).equal(trained(trainer(max_epochs=3), LOADER))
    assert fits.global_step == 9
    if isinstance(data, Yields):
        model = fits.lightning_module
        assert model.examples["val"] == 20
        assert fits.validate(model, data, verbose=False)[0]["val/loss"] > 0


def test_a_generator_object_is_for_one_epoch(trainer: Make) -> None:
    assert trained(trainer(max_epochs=1), batches()).equal(trained(trainer(max_epochs=1), LOADER))
    for data in (batches(), Returns()):
        with pytest.raises(InputError, match="the training loader is a generator object, which is used up"):
            trainer(max_epochs=2).fit(LinearRegression(2), data)
    with pytest.raises(InputError, match="the validation loader is a generator object, which is used up"):
        trainer(max_epochs=2).fit(LinearRegression(2), LOADER, batches())


def test_an_epoch_without_a_batch_is_an_error(trainer: Make) -> None:
    class Once:
        def __init__(self) -> None:
            self.left = [BATCHES, BATCHES]  # the Trainer begins twice in the first epoch

        def __iter__(self) -> Iterator[Any]:
            return iter(self.left.pop() if self.left else [])

    with pytest.raises(InputError, match="the training loader had no batch in epoch 2"):
        trainer(max_epochs=3).fit(LinearRegression(2), Once())


def test_a_list_of_batches_is_an_error(trainer: Make) -> None:
    with pytest.raises(InputError, match=r"loader is a list.*pass DataLoader\(batches, batch_size=None\)"):
        trainer(max_epochs=1).fit(LinearRegression(2), BATCHES)


IMAGES = torch.rand(12, 3, 2), torch.tensor([0, 1, 2] * 4)
LAZY: dict[str, tuple[Callable[..., SupervisedModule], dict[str, Any], tuple[Tensor, Tensor]]] = {
    "linear": (LinearRegression, {"lr": 0.03}, (ROWS.X, ROWS.y)),
    "AdamW": (LinearRegression, {"optimizer": "adamw"}, (ROWS.X, ROWS.y)),
    "the layer's weights": (WeightDecay, {"wd": 3, "sigma": None}, (ROWS.X, ROWS.y)),
    "no bias": (LinearRegression, {"bias": False}, (ROWS.X, ROWS.y)),
    "softmax": (SoftmaxRegression, {"num_outputs": 3}, IMAGES),
    "perceptron": (
        MLP,
        {"num_outputs": 3, "hidden_sizes": [4, 5], "activation": "prelu", "batch_norm": True},
        IMAGES,
    ),
    "dropout": (DropoutMLP, {"num_outputs": 3, "hidden_sizes": [4, 5]}, IMAGES),
}


@pytest.mark.parametrize("case", LAZY)
def test_a_model_without_num_inputs_is_that_with_them(case: str, trainer: Make, tmp_path: Path) -> None:
    kind, settings, tensors = LAZY[case]
    size = tensors[0][0].numel()
    states = []
    for num_inputs in (size, None):
        torch.manual_seed(3)
        model = kind(num_inputs=num_inputs, **settings)
        fits = trainer(max_epochs=2)
        fits.fit(model, DataLoader(TensorDataset(*tensors), batch_size=4, shuffle=True))
        states.append(model.state_dict())
    assert all(value.equal(states[1][name]) for name, value in states[0].items())
    assert model.hparams["num_inputs"] == size
    fits.save_checkpoint(tmp_path / "model.ckpt")
    loaded = type(model).load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    model.eval()
    assert loaded.eval()(tensors[0]).equal(model(tensors[0]))
    with pytest.raises(InputError, match="num_inputs"):
        model(torch.ones(2, size + 1))
    StackedModule([model, loaded.train()] if model.training else [model, loaded])


def test_a_model_without_num_inputs_can_predict_before_it_is_trained() -> None:
    torch.manual_seed(0)
    lazy = MLP(None, 3, [4])
    assert lazy(IMAGES[0]).shape == (12, 3)
    torch.manual_seed(0)
    assert lazy.net[0].weight.equal(MLP(6, 3, [4]).net[0].weight)  # type: ignore[union-attr]


def test_there_are_no_weights_before_the_first_batch() -> None:
    with pytest.raises(InputError, match="no weights before its first batch; make it with num_inputs"):
        LinearRegression().get_w_b()


def test_members_without_shapes_are_an_error() -> None:
    with pytest.raises(InputError, match=r"net.weight has no shape yet; call each member on a batch"):
        StackedModule([LinearRegression(), LinearRegression()])


class Own(Classifier):
    """A classifier without ``num_inputs``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 3)

    def logits(self, X: Tensor) -> Tensor:
        return self.net(X)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Convolutional(Own):
    """A classifier of images that are not rows of pixels, with a lazy layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.LazyLinear(3))  # type: ignore[assignment]

    def forward(self, X: Tensor) -> Tensor:
        return self.net(X.unsqueeze(1))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), 0.1, fused=True)


@pytest.mark.parametrize("kind", [Own, Convolutional])
def test_a_classifier_of_ones_own_needs_no_number_of_pixels(kind: type[Own], trainer: Make) -> None:
    fits = trainer(max_epochs=2)
    loader = DataLoader(TensorDataset(*IMAGES), batch_size=4)
    fits.fit(kind(), loader, loader)
    assert 0 <= fits.callback_metrics["val/accuracy"] <= 1


def test_a_classifier_without_logits_is_an_error() -> None:
    with pytest.raises(InputError, match=r"Classifier has no logits\(self, X\); define it in the class"):
        Classifier()(IMAGES[0])


def test_a_model_without_num_inputs_keeps_the_weights_that_it_loads(trainer: Make, tmp_path: Path) -> None:
    class Wide(LinearRegression):
        """A class of one's own, whose checkpoints do not give it ``num_inputs``."""

        def __init__(self) -> None:
            super().__init__(sigma=1.0)

    model, fits = Wide(), trainer(max_epochs=1)
    fits.fit(model, LOADER)
    fits.save_checkpoint(tmp_path / "model.ckpt")
    loaded = Wide.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert loaded.get_w_b()[0].equal(model.get_w_b()[0])
    with pytest.raises(InputError, match="member_2 has had no batch yet; call each member on a batch"):
        StackedModule([model, loaded])
    with pytest.raises(InputError, match="X has 3 features and num_inputs is 2"):
        loaded(torch.ones(1, 3))
    assert loaded(ROWS.X).equal(model(ROWS.X))
    StackedModule([model, loaded])
    images = [MLP(6, 3, [4]), MLP(None, 3, [4])]
    images[1].load_state_dict(images[0].state_dict())
    assert images[1](IMAGES[0]).equal(images[0](IMAGES[0]))
    assert images[1].num_inputs == 6


def test_the_first_batch_is_not_missing_from_a_loaders_random_numbers(trainer: Make) -> None:
    """The order of a loader with a generator of its own, and layers that are in evaluation mode."""
    trained = []
    for num_inputs in (2, None):
        torch.manual_seed(0)
        model = LinearRegression(num_inputs)
        model.frozen = nn.Dropout().eval()
        generator = torch.Generator().manual_seed(5)
        rows = TensorDataset(ROWS.X, ROWS.y)
        loader = DataLoader(rows, batch_size=7, shuffle=True, generator=generator)
        trainer(max_epochs=1).fit(model, loader)
        trained.append(model.net.weight.detach())
        assert not model.frozen.training
    assert trained[0].equal(trained[1])
