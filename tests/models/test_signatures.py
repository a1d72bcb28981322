"""Methods with the book's signatures, in models of one's own."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from d2l_lightning.data.module import DataModule
from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.linear_regression import LinearRegression, LinearRegressionScratch
from d2l_lightning.models.notebooks import add_to_class
from d2l_lightning.models.weight_decay import WeightDecayScratch
from d2l_lightning.optim.plain import PlainOptimizer

Make = Callable[..., Trainer]


class Book(LinearRegressionScratch):
    """Section 3.7.3, with the loss of the class before."""

    def __init__(self, num_inputs: int, lambd: float, lr: float) -> None:
        super().__init__(num_inputs, lr)
        self.save_hyperparameters()

    def loss(self, y_hat: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().loss(y_hat, y) + self.lambd * (self.w**2).sum() / 2


class Mean(LinearRegressionScratch):
    """Section 3.4.2: a number for each batch."""

    def loss(self, y_hat: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return ((y_hat - y) ** 2 / 2).mean()


class Each(LinearRegressionScratch):
    """A loss for each example, as a column."""

    def loss(self, y_hat: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return ((y_hat - y) ** 2 / 2).unsqueeze(1)


class Sum(LinearRegressionScratch):
    """No mean over rows."""

    def loss(self, y_hat: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return ((y_hat - y) ** 2 / 2).sum()


def data(**settings: Any) -> SyntheticRegressionData:
    """Return data whose last batches are shorter."""
    return SyntheticRegressionData(num_train=25, num_val=13, batch_size=10, **settings)


def fit(trainer: Make, model: SupervisedModule, rows: Any, epochs: int = 3) -> dict[str, float]:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    fits = trainer(max_epochs=epochs)
    fits.fit(model, rows)
    return {name: value.item() for name, value in fits.callback_metrics.items()}


@pytest.mark.parametrize("kind", [Mean, Each])
@pytest.mark.parametrize("watch_train", [False, True])  # with weights in evaluation
def test_the_books_loss_is_that_of_training_and_evaluation(
    kind: type[SupervisedModule], watch_train: bool, trainer: Make
) -> None:
    expected = fit(trainer, LinearRegressionScratch(2), data(watch_train=watch_train))
    assert fit(trainer, kind(2), data(watch_train=watch_train)) == pytest.approx(expected, rel=1e-5)  # type: ignore[call-arg]
    assert expected["val/loss"] > 0


def test_a_loss_that_calls_the_one_before_may_add_a_penalty(trainer: Make) -> None:
    ours, book = WeightDecayScratch(2, 3.0, lr=0.03), Book(2, 3.0, lr=0.03)
    expected, found = fit(trainer, ours, data()), fit(trainer, book, data())
    assert found["train/loss"] == pytest.approx(expected["train/loss"], rel=1e-5)
    assert found["val/squared_loss"] == pytest.approx(expected["val/squared_loss"], rel=1e-5)
    penalty = 3 * (book.w.detach() ** 2).sum().item() / 2
    assert found["val/loss"] == pytest.approx(found["val/squared_loss"] + penalty, rel=1e-5)
    torch.testing.assert_close(book.w, ours.w)


@pytest.mark.parametrize("kind", [Mean, Each])
def test_members_with_the_books_loss_train_as_they_do_alone(
    kind: Callable[[int], SupervisedModule], trainer: Make
) -> None:
    rows = data()
    # Batches of different lengths have rows of weight 0.
    train, val = [torch.arange(25), torch.arange(11)], [torch.arange(25, 38), torch.arange(11, 20)]
    members, alone = [[make(2) for make in (kind, kind)] for kind in (kind, LinearRegressionScratch)]
    values = []
    for models in (members, alone):
        torch.manual_seed(1)
        for model in models:
            for parameter in model.parameters():
                nn.init.normal_(parameter)
        stacked = StackedModule(models)
        stacked.replay_from = 5  # type: ignore[misc]
        folds = StackedData(rows.X, rows.y, {"train": train, "val": val}, batch_size=10, seed=0)
        trainer(max_epochs=4).fit(stacked, folds)
        values.append([*stacked.evaluated["val/loss"], *stacked.stacked.parameters()])
    for found, expected in zip(*values, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_loss_that_is_no_mean_is_an_error(stacked: bool, trainer: Make) -> None:
    rows = data()
    model: SupervisedModule = StackedModule([Sum(2), Sum(2)]) if stacked else Sum(2)
    folds = StackedData(rows.X, rows.y, {"train": [torch.arange(25)] * 2}, batch_size=10, seed=0)
    with pytest.raises(InputError, match=r"loss\(y_hat, y\) of Sum is .* return the loss of each example"):
        trainer(max_epochs=1).fit(model, folds if stacked else rows)


def test_a_column_minus_a_vector_is_an_error(trainer: Make) -> None:
    class Column(Mean):
        def forward(self, X: Tensor) -> Tensor:
            return super().forward(X).unsqueeze(1)

    with pytest.raises(InputError, match=r"take y_hat.squeeze\(-1\)"):
        trainer(max_epochs=1).fit(Column(2), data())


def test_a_loss_without_return_is_an_error(trainer: Make) -> None:
    class Nothing(LinearRegressionScratch):
        def loss(self, y_hat: Tensor, y: Tensor) -> None:  # type: ignore[override]
            ((y_hat - y) ** 2).mean()

    for method in (trainer(max_epochs=1).fit, trainer().validate):
        with pytest.raises(InputError, match="of Nothing must return a tensor, not None"):
            method(Nothing(2), data())


def test_a_loss_that_needs_the_whole_batch_is_an_error_where_there_are_weights(trainer: Make) -> None:
    class Branches(LinearRegressionScratch):
        def loss(self, y_hat: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
            losses = (y_hat - y) ** 2
            return losses.mean() if losses.sum() > 0 else losses.sum()

    with pytest.raises(InputError, match=r"Branches cannot be computed for each example"):
        trainer(max_epochs=1).fit(Branches(2), data(watch_train=True))


def test_a_model_is_written_as_in_the_book(trainer: Make) -> None:
    """Sections 3.2.3, 3.3.2, 3.4 and 3.5: an object first, columns, and attributes of hyperparameters."""

    class Model(SupervisedModule):
        def __init__(self, lr: float) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.LazyLinear(1)

    class Data(DataModule):
        def __init__(self, num_train: int, batch_size: int, root: str = "data") -> None:
            super().__init__()
            self.save_hyperparameters()
            self.X = torch.randn(30, 2)
            self.y = self.X @ torch.tensor([[2.0], [-3.4]]) + 4.2

    model, rows = Model(lr=0.1), Data(20, batch_size=10)
    with pytest.raises(InputError, match=r"Data has no get_dataloader\(self, train\)"):
        rows.train_dataloader()

    @add_to_class(Data)
    def get_dataloader(self: Data, train: bool) -> Any:
        i = slice(0, self.num_train) if train else slice(self.num_train, None)
        return self.get_tensorloader([self.X, self.y], train, i)

    with pytest.raises(InputError, match=r"Model has no configure_optimizers\(self\)"):
        trainer(max_epochs=1).fit(model, rows)

    @add_to_class(Model)
    def configure_optimizers(self: Model) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr)

    with pytest.raises(InputError, match=r"Model has no loss\(self, y_hat, y\)"):
        trainer(max_epochs=1).fit(model, rows)

    @add_to_class(Model)
    def loss(self: Model, y_hat: Tensor, y: Tensor) -> Tensor:
        return nn.MSELoss()(y_hat, y)

    fits = trainer(max_epochs=30)
    fits.fit(model, rows)
    assert fits.callback_metrics["val/loss"] < 1e-3
    torch.testing.assert_close(model.net.weight[0], torch.tensor([2, -3.4]), rtol=0.02, atol=0)
    with pytest.raises(AttributeError, match="Model has no board: pass callbacks="):
        model.board.yscale = "log"
    assert len(rows.val_dataloader()) == 1
    assert (rows.root, hasattr(rows, "seed")) == ("data", False)


def test_a_loss_may_be_replaced_by_one_of_x_and_y(trainer: Make) -> None:
    class Model(LinearRegression):
        """The concise model."""

    add_to_class(Model)(Sum.loss)

    @add_to_class(Model)
    def loss(self: Model, X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        return super(Model, self).loss(X, y, weight)

    expected = fit(trainer, LinearRegression(2), data())
    assert fit(trainer, Model(2), data()) == expected


def test_hyperparameters_in_buffers_and_of_optimizers_can_be_set(trainer: Make) -> None:
    model = WeightDecayScratch(2, 1.0, lr=0.03)
    model.lambd = 3.0  # type: ignore[assignment]
    assert (model.lambd.item(), model.hparams["lambd"]) == (3.0, 3.0)
    expected = fit(trainer, WeightDecayScratch(2, 3.0, lr=0.03), data())
    assert fit(trainer, model, data()) == expected
    model.lr = 1e-9
    before = model.w.detach().clone()
    trainer(max_epochs=1).fit(model, data())
    torch.testing.assert_close(model.w.detach(), before)
    for name, value, message in (
        ("lambd", -1.0, "lambd must not be negative"),
        ("lr", 0, "lr must be positive"),
    ):
        with pytest.raises(InputError, match=message):
            setattr(model, name, value)
    assert WeightDecayScratch(2, 1.0).lr == 0.01


class PlainMomentum:
    """An optimizer as in Section 3.4.3, with a momentum."""

    def __init__(self, params: Any, lr: float) -> None:
        self.params, self.lr = list(params), lr
        self.velocity = [torch.zeros_like(param) for param in self.params]

    def step(self) -> None:
        for param, v in zip(self.params, self.velocity, strict=True):
            v.mul_(0.9).add_(param.grad)
            param -= self.lr * v

    def zero_grad(self) -> None:
        for param in self.params:
            if param.grad is not None:
                param.grad.zero_()


class Plain(LinearRegressionScratch):
    """Trained by such an optimizer, with a schedule."""

    def configure_optimizers(self) -> Any:
        plain = PlainOptimizer(PlainMomentum(self.parameters(), self.lr))
        return [plain], [torch.optim.lr_scheduler.ExponentialLR(plain, 0.5)]


class Torch(LinearRegressionScratch):
    """The same by PyTorch."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]


def test_a_plain_optimizer_takes_the_steps_of_pytorchs_also_after_a_checkpoint(
    trainer: Make, tmp_path: Path
) -> None:
    expected = fit(trainer, Torch(2), data(), epochs=4)
    assert fit(trainer, Plain(2), data(), epochs=4) == pytest.approx(expected, rel=1e-5)
    model, half = Plain(2), trainer(max_epochs=2)
    fit(lambda **_: half, model, data())
    half.save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
    rest = trainer(max_epochs=4)
    rest.fit(Plain(2), data(), ckpt_path=tmp_path / "half.ckpt")
    assert rest.callback_metrics["val/loss"].item() == pytest.approx(expected["val/loss"], rel=1e-5)


def test_the_books_sgd_can_be_returned_as_it_is(trainer: Make) -> None:
    class Model(LinearRegressionScratch):
        def configure_optimizers(self) -> Any:
            return PlainMomentum([self.w, self.b], self.lr)

    class OfPyTorch(LinearRegressionScratch):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)

    rows, trained = data(), []
    for kind in (Model, OfPyTorch):
        torch.manual_seed(0)
        stacked = StackedModule([kind(2), kind(2)])
        folds = StackedData(rows.X, rows.y, {"train": [torch.arange(20)] * 2}, 10, seed=0)
        trainer(max_epochs=5).fit(stacked, folds)
        trained.append(torch.stack([member.get_w_b()[0] for member in stacked.unstack()]))  # type: ignore[operator]
    torch.testing.assert_close(*trained)
    assert not torch.allclose(*trained[0])

    class Nothing(LinearRegressionScratch):
        def configure_optimizers(self) -> Any:
            return type("Steps", (), {"step": lambda self: None})()

    with pytest.raises(InputError, match="the optimizer Steps has no params; it needs step"):
        trainer(max_epochs=1).fit(Nothing(2), rows)


def test_a_training_step_of_ones_own_logs_its_own_loss(trainer: Make) -> None:
    class Own(LinearRegression):
        def training_step(self, batch: Any) -> Tensor:  # type: ignore[override]
            X, y = batch
            return ((self(X) - y) ** 2).mean()

    fits = trainer(max_epochs=2)
    fits.fit(Own(2), data())
    assert set(fits.callback_metrics) == {"val/loss", "val/squared_loss"}


def test_a_loss_may_have_settings_with_values(trainer: Make) -> None:
    class Averaged(LinearRegressionScratch):
        def loss(self, Y_hat: Tensor, Y: Tensor, averaged: bool = True) -> Tensor:  # type: ignore[override]
            losses = (Y_hat - Y) ** 2 / 2
            return losses.mean() if averaged else losses

    assert fit(trainer, Averaged(2), data(), 1) == pytest.approx(fit(trainer, Mean(2), data(), 1))


def test_a_learning_rate_that_is_set_before_the_hyperparameters_can_be_changed() -> None:
    class Model(SupervisedModule):
        def __init__(self, lr: float) -> None:
            super().__init__()
            self.lr = lr
            self.save_hyperparameters()

    model = Model(0.1)
    model.lr = torch.tensor(0.5)
    assert (model.lr, model.hparams["lr"]) == (0.5, 0.5)


class OfParameters:
    """SGD with momentum and weight decay, whose attributes have parameters in them."""

    def __init__(self, params: Any, lr: float) -> None:
        self.params, self.lr = list(params), lr
        self.velocity = defaultdict(float, {param: torch.zeros_like(param) for param in self.params})
        self.decayed = [param for param in self.params if param.ndim]

    def step(self) -> None:
        for param in self.params:
            self.velocity[param] = 0.9 * self.velocity[param] + param.grad
            param -= self.lr * self.velocity[param]
        for param in self.decayed:
            param *= 0.9

    def zero_grad(self) -> None:
        for param in self.params:
            param.grad = None


def test_a_checkpoint_keeps_which_parameters_an_optimizer_means(trainer: Make, tmp_path: Path) -> None:
    class Model(LinearRegressionScratch):
        def configure_optimizers(self) -> Any:
            return OfParameters(self.parameters(), self.lr)

    whole, half, rest = Model(2), Model(2), Model(2)
    fit(trainer, whole, data(), epochs=4)
    stopped = trainer(max_epochs=2)
    fit(lambda **_: stopped, half, data())
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    trainer(max_epochs=4).fit(rest, data(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert rest.w.equal(whole.w)
    assert rest.b.equal(whole.b)
    assert not whole.w.equal(half.w)
