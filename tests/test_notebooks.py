"""Methods added later are methods."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.errors import InputError
from d2l_lightning.notebooks import add_to_class


def test_objects_that_exist_get_the_method() -> None:
    class Plain:
        def __init__(self) -> None:
            self.b = 1

    thing = Plain()

    @add_to_class(Plain)
    def do(self: Any, more: int) -> int:
        """Say so."""
        return self.b + more

    assert cast(Any, thing).do(2) == 3
    assert do(thing, 1) == 2  # and the function is there still
    assert do.__doc__ == "Say so."


def test_what_was_abstract_is_so_no_more() -> None:
    class Unfinished(ABC):
        @abstractmethod
        def answer(self) -> int: ...

    with pytest.raises(TypeError, match="abstract"):
        Unfinished()  # type: ignore[abstract]

    @add_to_class(Unfinished)
    def answer(self: Unfinished) -> int:
        return 42

    assert Unfinished().answer() == 42  # type: ignore[abstract]


def test_the_trainer_takes_a_module_told_in_pieces(trainer: Callable[..., Trainer]) -> None:
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


def test_only_classes() -> None:
    with pytest.raises(InputError, match="takes a class, not 3"):
        add_to_class(cast(Any, 3))
