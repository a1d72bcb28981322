"""Methods that are added to a class later."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn

from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.errors import InputError
from d2l_lightning.models.notebooks import HyperParameters, add_to_class


def test_existing_objects_have_the_method() -> None:
    class Plain:
        def __init__(self) -> None:
            self.b = 1

    thing = Plain()

    @add_to_class(Plain)
    def do(self: Any, number: int) -> int:
        """Add a number."""
        return self.b + number

    assert cast(Any, thing).do(2) == 3
    assert do(thing, 1) == 2  # the function can still be called
    assert do.__doc__ == "Add a number."


def test_an_abstract_method_can_be_implemented() -> None:
    class Unfinished(ABC):
        @abstractmethod
        def answer(self) -> int: ...

    with pytest.raises(TypeError, match="abstract"):
        Unfinished()  # type: ignore[abstract]

    @add_to_class(Unfinished)
    def answer(self: Unfinished) -> int:
        return 42

    assert Unfinished().answer() == 42  # type: ignore[abstract]


def test_the_trainer_fits_a_module_that_is_defined_in_pieces(trainer: Callable[..., Trainer]) -> None:
    class Pieces(LightningModule):
        def __init__(self, lr: float) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Linear(2, 1)

    model = Pieces(lr=0.1)

    @add_to_class(Pieces)
    def training_step(self: Pieces, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        X, y = batch
        return nn.functional.mse_loss(self.net(X).squeeze(1), y)

    @add_to_class(Pieces)
    def configure_optimizers(self: Pieces) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])

    data = SyntheticRegressionData(num_val=0)
    trainer(max_epochs=3).fit(model, data)
    torch.testing.assert_close(model.net.weight.detach()[0], data.w, rtol=0, atol=0.01)


def test_other_objects_than_classes_are_an_error() -> None:
    with pytest.raises(InputError, match="takes a class, not 3"):
        add_to_class(cast(Any, 3))


def named(name: str, function: Callable[..., object]) -> Callable[..., object]:
    def renamed(*args: Any) -> object:
        return function(*args)

    renamed.__name__ = name
    return renamed


@pytest.mark.parametrize(
    ("cls", "name", "message"),
    [
        (
            KaggleHouse,
            "get_dataloader",
            "nothing calls get_dataloader of KaggleHouse; use train_dataloader and",
        ),
        (LightningDataModule, "get_dataloader", "nothing calls get_dataloader of LightningDataModule"),
        (Trainer, "fit_epoch", "nothing calls fit_epoch of Trainer; use the model's training_step"),
        (Trainer, "prepare_batch", "nothing calls prepare_batch of Trainer"),
    ],
)
def test_a_method_of_the_book_that_nothing_calls_is_an_error(cls: type, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        add_to_class(cls)(named(name, lambda self: None))
    assert not hasattr(cls, name)


def test_arguments_become_attributes() -> None:
    class B(HyperParameters):
        def __init__(self, a: int, b: int, c: int, *rest: int, **more: int) -> None:
            self.save_hyperparameters(ignore=["c"])

    assert vars(B(1, 2, 3, 4, d=5)) == {"a": 1, "b": 2, "rest": (4,), "more": {"d": 5}}
