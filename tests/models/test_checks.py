"""Mistakes in a model of one's own, its data or its Trainer are errors, not wrong results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import DivergenceError, InputError
from d2l_lightning.functional.backpropagation import shares
from d2l_lightning.functional.classification import correct_predictions
from d2l_lightning.functional.covariate_shift import importance_weighted_mean
from d2l_lightning.functional.linear import linear
from d2l_lightning.functional.risk import empirical_risk
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.linear_regression import LinearRegression, LinearRegressionScratch
from d2l_lightning.models.mlp import MLP
from d2l_lightning.models.weight_decay import WeightDecay, WeightDecayScratch

MakeTrainer = Callable[..., Trainer]


class Column(SupervisedModule):
    """The linear model of Section 3.4 with weights of shape (d, 1), as the book writes it."""

    def __init__(self, num_inputs: int = 2) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(num_inputs, 1))

    def forward(self, X: Tensor) -> Tensor:
        return X @ self.w

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        return (self(X) - y).square() / 2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.03)


class Vector(Column):
    """The same with predictions of shape (B,), and one metric that broadcasts."""

    def forward(self, X: Tensor) -> Tensor:
        return (X @ self.w).squeeze(-1)

    def example_metrics(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"loss": self.example_losses(X, y), "error": (self(X)[:, None] - y).abs()}


def loader_of(*batches: Any) -> Any:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def small_data(**settings: Any) -> SyntheticRegressionData:
    return SyntheticRegressionData(num_train=40, num_val=10, **settings)


def stacked_data() -> StackedData:
    data = small_data()
    rows = {"train": [torch.arange(40), torch.arange(33)], "val": [torch.arange(40, 50)] * 2}
    return StackedData(data.X, data.y, rows, batch_size=7, seed=0)


SHAPES = r"self\(X\) of shape \({0}, 1\) does not go with y of shape \({0},\); take self\(X\)\.squeeze\(-1\)"


def test_losses_that_broadcast_are_an_error_with_both_shapes(trainer: MakeTrainer) -> None:
    with pytest.raises(
        InputError, match=r"example_losses of Column has the shape \(32, 32\).*" + SHAPES.format(32)
    ):
        trainer(max_epochs=1).fit(Column(), small_data())
    with pytest.raises(InputError, match=r"the shape \(7, 7\).*" + SHAPES.format(7)):
        trainer(max_epochs=1).fit(StackedModule([Column(), Column()]), stacked_data())


@settings(deadline=None, max_examples=30)
@given(B=st.integers(1, 9), d=st.integers(1, 4), weighted=st.booleans())
def test_losses_of_any_other_shape_are_an_error(B: int, d: int, weighted: bool) -> None:
    X, weight = torch.ones(B, d), torch.ones(B) if weighted else None
    for y in (torch.ones(B), torch.ones(B, 1)):
        with pytest.raises(InputError, match="must have a value for each example"):
            Column(d).loss(X, y, weight)
    with pytest.raises(InputError, match=r"y of shape .* must be a vector, such as y\.squeeze"):
        Column(d).loss(X, torch.ones(B, 1), weight)
    torch.testing.assert_close(Vector(d).loss(X, torch.ones(B), weight), torch.tensor(0.5))


def test_metrics_that_broadcast_are_an_error(trainer: MakeTrainer) -> None:
    message = r"'{}' in example_metrics of {} has the shape \(10, 10\)"
    for model, name in ((Column(), "loss"), (Vector(), "error")):
        wanted = message.format(name, type(model).__name__)
        with pytest.raises(InputError, match=wanted):
            trainer().validate(model, small_data(), verbose=False)
        with pytest.raises(InputError, match=wanted.replace("10, 10", "50, 50")):
            trainer().validate(StackedModule([model]), [stacked_data().val_dataloader()], verbose=False)


def test_weights_that_broadcast_are_an_error(trainer: MakeTrainer) -> None:
    with pytest.raises(InputError, match=r"weight of shape \(4, 1\) does not go with losses of shape \(4,\)"):
        empirical_risk(torch.ones(4), torch.ones(4, 1))
    batch = (torch.ones(4, 2), torch.ones(4), {"val": torch.ones(4, 1)})
    with pytest.raises(InputError, match=r"weight of stage val of shape \(4, 1\) does not go with loss"):
        trainer().validate(LinearRegression(2), loader_of(batch), verbose=False)


def test_formulas_refuse_shapes_that_broadcast() -> None:
    column, row = torch.ones(4, 1), torch.ones(4)
    with pytest.raises(
        InputError, match=r"values of shape \(4, 1\) does not go with weights of shape \(4,\)"
    ):
        importance_weighted_mean(column, row)
    with pytest.raises(InputError, match=r"weight of shape \(4, 1\) does not go with y of shape \(4,\)"):
        shares(row.long(), column, row)
    with pytest.raises(InputError, match=r"logits of shape \(4, 2\) do not go with y of shape \(4, 1\)"):
        correct_predictions(torch.ones(4, 2), column.long())
    with pytest.raises(InputError, match=r"w of shape \(1, 1\) must be a vector, such as w\.squeeze\(-1\)"):
        linear(column, torch.ones(1, 1))


def test_a_loss_that_is_not_reduced_is_an_error(
    trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Column, "loss", lambda self, X, y, weight=None: (self(X).squeeze(1) - y).square())
    with pytest.raises(InputError, match=r"loss of Column must be a scalar, not \(32,\)"):
        trainer(max_epochs=1).fit(Column(), small_data())
    with pytest.raises(InputError, match=r"loss of StackedModule must be a scalar, not \(2, 7\)"):
        trainer(max_epochs=1).fit(StackedModule([Column(), Column()]), stacked_data())


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.float16], ids=str)
def test_features_of_another_type_are_an_error(dtype: torch.dtype, trainer: MakeTrainer) -> None:
    message = rf"X holds {dtype} and the parameters torch.float32; take X.to\(torch.float32\)"
    batch = (torch.ones(4, 2, dtype=dtype), torch.ones(4))
    for model in (LinearRegression(2), LinearRegressionScratch(2)):
        with pytest.raises(InputError, match=message):
            trainer(max_epochs=1).fit(model, loader_of(batch))
        with pytest.raises(InputError, match=message):
            trainer().validate(model, loader_of(batch), verbose=False)
    stacked = StackedModule([LinearRegressionScratch(2)])
    with pytest.raises(InputError, match=message):
        trainer(max_epochs=1).fit(stacked, loader_of([tensor[None] for tensor in (*batch, torch.ones(4))]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.float16, torch.bfloat16], ids=str)
def test_targets_of_any_type_train_the_same_model(dtype: torch.dtype, trainer: MakeTrainer) -> None:
    X, y = torch.randn(301, 2, generator=torch.Generator().manual_seed(0)), torch.arange(301) % 5
    models = [LinearRegressionScratch(2, sigma=0.0) for _ in range(2)]
    for model, targets in zip(models, (y.float(), y.to(dtype)), strict=True):
        fit = trainer(max_epochs=2)
        fit.fit(model, loader_of((X, targets)), loader_of((X, targets)))
    torch.testing.assert_close(models[1].w, models[0].w)
    # bfloat16 cannot count to 301.
    torch.testing.assert_close(models[1].evaluated["val/loss"].float(), models[0].evaluated["val/loss"])


def test_a_batch_of_one_row(trainer: MakeTrainer) -> None:
    trainer(max_epochs=1).fit(LinearRegression(2), loader_of((torch.ones(1, 2), torch.ones(1))))
    batch = (torch.ones(1, 4), torch.ones(1).long())
    with pytest.raises(InputError, match="batch normalization cannot train on a batch of one row"):
        trainer(max_epochs=1).fit(MLP(4, 2, [3], batch_norm=True), loader_of(batch))


def test_a_tensor_with_a_gradient_that_is_no_parameter_is_an_error(trainer: MakeTrainer) -> None:
    class Plain(Vector):  # as Section 3.4 writes it
        def __init__(self) -> None:
            super().__init__()
            del self.w
            self.w = torch.zeros(2, 1, requires_grad=True)  # type: ignore[assignment]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD([self.w], lr=0.03)

    message = r"w requires a gradient but is no parameter; make it an nn\.Parameter"
    with pytest.raises(InputError, match=message):
        StackedModule([Plain(), Plain()])
    with pytest.raises(InputError, match=message):
        trainer(max_epochs=1).fit(Plain(), small_data())


def test_lazy_layers_can_be_trained(trainer: MakeTrainer) -> None:
    class Lazy(Column):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.LazyLinear(1)

        def forward(self, X: Tensor) -> Tensor:
            return self.net(X).squeeze(-1)

    with pytest.raises(InputError, match=r"net\.weight has no shape yet"):
        StackedModule([Lazy(), Lazy()])
    trainer(max_epochs=1).fit(Lazy(), small_data())


def test_a_second_fit_of_a_trainer_is_an_error_unless_it_continues(
    trainer: MakeTrainer, tmp_path: Path
) -> None:
    first, data, fit = LinearRegressionScratch(2), small_data(), trainer(max_epochs=2)
    fit.fit(first, data)
    path = tmp_path / "finished.ckpt"
    fit.save_checkpoint(path)
    for model in (first, LinearRegressionScratch(2)):
        with pytest.raises(
            InputError, match=r"has already trained for 2 epochs and 4 steps .* make a new Trainer"
        ):
            fit.fit(model, data)
    fit.fit_loop.max_epochs = 4
    with pytest.raises(
        InputError, match="has already trained for 2 epochs"
    ):  # it would train for 2 of 4 epochs
        fit.fit(LinearRegressionScratch(2), data)
    before = first.w.detach().clone()
    fit.fit(first, data)
    assert fit.current_epoch == 4
    assert not torch.equal(first.w, before)
    for epochs in (2, 3):  # a checkpoint may be of a fit that is finished
        resumed = trainer(max_epochs=epochs)
        resumed.fit(LinearRegressionScratch(2), data, ckpt_path=path)
        assert resumed.current_epoch == epochs
        resumed.fit(LinearRegressionScratch(2), data, ckpt_path=path)  # also by a Trainer that made a fit
    quick = trainer(fast_dev_run=True)
    quick.fit(first, data)
    with pytest.raises(InputError, match="has already trained for 1 epochs"):
        quick.fit(first, data)


@pytest.mark.parametrize("stacked", [False, True], ids=["alone", "stacked"])
def test_a_loss_that_explodes_but_stays_finite_is_an_error(stacked: bool, trainer: MakeTrainer) -> None:
    if stacked:
        members = StackedModule([Vector(), Vector()], ["a", "b"])
        members.stacked.configure_optimizers = lambda: torch.optim.SGD(members.parameters(), lr=2.5)  # type: ignore[method-assign]
        data = stacked_data()
        with pytest.raises(
            DivergenceError, match=r"the training loss of a grew from .* to .*; a lower lr or"
        ):
            trainer(max_epochs=8, limit_val_batches=0).fit(members, data)
        return
    with pytest.raises(
        DivergenceError, match=r"the training loss grew from \d.* to \d\.?\d*e\+\d+; a lower lr or"
    ):
        trainer(max_epochs=4).fit(LinearRegressionScratch(2, lr=3.0), small_data(batch_size=5))


def test_a_loss_that_grows_from_almost_0_is_no_divergence(trainer: MakeTrainer) -> None:
    X = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    model = LinearRegressionScratch(2, lr=0.1)
    batches = [(X, X @ model.w.detach()), *((X + i, (X + i).sum(dim=1)) for i in range(3))]
    trainer(max_epochs=3).fit(model, loader_of(*batches))
    assert model._first_loss is not None
    assert model._epoch_loss is not None
    assert model._epoch_loss > 1e4 * model._first_loss


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda decay: WeightDecayScratch(2, decay, lr=0.01), "lambd"),
        (lambda decay: WeightDecay(2, decay, lr=0.01), "wd"),
        (lambda decay: MLP(4, 2, lr=0.01, weight_decay=decay), "weight_decay"),
        (lambda decay: MLP(4, 2, lr=0.01, weight_decay=decay, optimizer="adamw"), "weight_decay"),
        (lambda decay: StackedModule([WeightDecayScratch(2, d, lr=0.01) for d in (1.0, decay)]), "lambd"),
    ],
    ids=["scratch", "concise", "sgd", "adamw", "stacked"],
)
def test_weight_decay_that_makes_weights_grow_is_an_error(make: Callable[[float], Any], name: str) -> None:
    with pytest.raises(DivergenceError, match=f"lr times {name} is 3; above 2, .* a lower lr may help"):
        make(300.0).configure_optimizers()
    make(200.0).configure_optimizers()
