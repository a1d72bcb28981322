"""Members that take different numbers of steps, or steps of different sizes, train as they do alone."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.callbacks.history import History
from d2l_lightning.data.batches import ShuffledBatches
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.linear_regression import LinearRegression, LinearRegressionScratch
from d2l_lightning.models.logistic_regression import LogisticRegression
from d2l_lightning.models.mlp import MLP
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.models.softmax_regression import SoftmaxRegression
from d2l_lightning.models.weight_decay import Lasso, WeightDecay, WeightDecayScratch
from d2l_lightning.runs.run import Run
from tests.conftest import lean_trainer
from tests.ensemble.test_stacked import FoldAlone

Prices = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replay from the first step on."""
    monkeypatch.setattr(StackedModule, "replay_from", 0)


FLAGS: dict[str, Any] = {"max_epochs": 3}


class AdamW(PriceRegressor):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"], weight_decay=0.1)


class Momentum(PriceRegressor):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9, weight_decay=0.1)


class Normalized(PriceRegressor):
    """A network with batch normalization."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.net.insert(0, nn.BatchNorm1d(6))


class Scheduled(PriceRegressor):
    """A model whose learning rate falls after every epoch."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}


MEMBERS: dict[str, Callable[[], SupervisedModule]] = {
    "Adam": lambda: PriceRegressor(6, lr=2.0, weight_decay=0.1),
    "AdamW": lambda: AdamW(6, lr=2.0),
    "SGD with momentum": lambda: Momentum(6),
    "SGD from scratch, and a penalty": lambda: WeightDecayScratch(6, 3.0, lr=1e-3),
    "a scheduler": lambda: Scheduled(6, lr=2.0),
    "a network": lambda: PriceRegressor(6, [5], activation="tanh", log_price=True, lr=0.05),
    "batch normalization": lambda: Normalized(6, [5], log_price=True, lr=0.05),
}


def folds_and_all(prices: Prices) -> StackedData:
    """Return three folds, with 31 or 32 of 47 rows to train on, and all rows: 4, 4, 4 and 6 steps."""
    train, val = k_fold(47, 3)
    rows = {"train": [*train, torch.arange(47)], "val": [*val, torch.arange(0)]}
    return StackedData(*prices, rows, 8, seed=5)


@pytest.mark.parametrize("clip", [None, 0.5], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("make", MEMBERS.values(), ids=MEMBERS)
def test_folds_and_a_member_with_all_rows_train_as_alone(
    make: Callable[[], SupervisedModule], clip: float | None, prices: Prices
) -> None:
    seed_everything(3, verbose=False)
    members = [make() for _ in range(4)]
    alone = copy.deepcopy(members)
    data = folds_and_all(prices)
    stacked = StackedModule(members)
    trainer = lean_trainer(**FLAGS, gradient_clip_val=clip)
    trainer.fit(stacked, data)
    assert trainer.global_step == 3 * 6
    for place, (model, trained) in enumerate(zip(alone, stacked.unstack(), strict=True)):
        own = lean_trainer(**FLAGS, gradient_clip_val=clip)
        own.fit(model, FoldAlone(data, place))
        assert own.global_step == 3 * (6 if place == 3 else 4)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(trained.state_dict()[name], value, rtol=2e-4, atol=1e-5)
        assert not torch.allclose(
            torch.cat([p.flatten() for p in model.parameters()]),
            torch.cat([p.flatten() for p in members[place].parameters()]),
            rtol=1e-2,
        )


@pytest.mark.parametrize("name", ["Adam", "SGD from scratch, and a penalty"])
def test_gradients_of_members_that_are_idle_later_are_accumulated(name: str, prices: Prices) -> None:
    flags = {**FLAGS, "accumulate_grad_batches": 5}
    seed_everything(3, verbose=False)
    members = [MEMBERS[name]() for _ in range(4)]
    alone = copy.deepcopy(members)
    data = folds_and_all(prices)
    stacked = StackedModule(members)
    lean_trainer(**flags).fit(stacked, data)
    for place, (model, trained) in enumerate(zip(alone, stacked.unstack(), strict=True)):
        lean_trainer(**flags).fit(model, FoldAlone(data, place))
        for key, value in model.state_dict().items():
            torch.testing.assert_close(trained.state_dict()[key], value, rtol=2e-4, atol=1e-5)


def test_an_idle_member_is_not_touched(prices: Prices) -> None:
    """Neither by its loss nor by its moments, step count or weight decay."""
    X, y = prices
    rows = {"train": [torch.arange(8), torch.arange(40)], "val": [torch.arange(8)] * 2}
    seed_everything(3, verbose=False)
    members = [PriceRegressor(6, lr=2.0, weight_decay=0.5) for _ in range(2)]
    stacked = StackedModule(members)
    trainer = lean_trainer(max_epochs=1)
    trainer.fit(stacked, StackedData(X, y, rows, 8, seed=5))
    (optimizer,) = trainer.optimizers
    for parameter in stacked.parameters():
        assert optimizer.state[parameter]["step"].tolist() == [1, 5]
    after_one = StackedModule(members)
    lean_trainer(max_steps=1, max_epochs=1).fit(after_one, StackedData(X, y, rows, 8, seed=5))
    for name, value in after_one.state_dict().items():
        assert torch.equal(value[0], stacked.state_dict()[name][0])
        assert not torch.equal(value[1], stacked.state_dict()[name][1])


class OwnRows(LightningDataModule):
    """All rows in the order of ``ShuffledBatches``."""

    def __init__(self, prices: Prices) -> None:
        super().__init__()
        self.prices = prices

    def train_dataloader(self) -> Any:
        batches = ShuffledBatches(47, 8, seed=5)
        return DataLoader(TensorDataset(*self.prices), batch_size=None, sampler=batches)


def test_folds_train_beside_all_rows_as_without_them(prices: Prices) -> None:
    def member() -> PriceRegressor:
        return PriceRegressor(6, lr=2.0)

    seed_everything(3, verbose=False)
    members = [member() for _ in range(4)]
    train, val = k_fold(47, 3)
    folds = StackedModule(members[:3])
    lean_trainer(**FLAGS).fit(folds, StackedData(*prices, {"train": train, "val": val}, 8, seed=5))
    together = StackedModule(members)
    lean_trainer(**FLAGS).fit(together, folds_and_all(prices))
    for one, other in zip(folds.unstack(), together.unstack(), strict=False):
        for name, value in one.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-6, atol=1e-6)
    lean_trainer(**FLAGS).fit(members[3], OwnRows(prices))
    for name, value in members[3].state_dict().items():
        torch.testing.assert_close(together.unstack()[3].state_dict()[name], value, rtol=2e-5, atol=1e-5)


def test_an_optimizer_that_cannot_leave_out_members_is_refused(prices: Prices) -> None:
    members = [Lasso(6, 0.1, lr=1e-4) for _ in range(4)]
    with pytest.raises(InputError, match=r"ProximalSGD cannot leave them out; take Adam, AdamW or SGD"):
        lean_trainer(**FLAGS).fit(StackedModule(members), folds_and_all(prices))


DIFFERENT: dict[str, list[SupervisedModule]] = {
    "prices": [PriceRegressor(6, lr=lr, weight_decay=wd) for lr, wd in ((2.0, 0.0), (0.5, 0.0), (2.0, 0.3))],
    "linear": [LinearRegression(6, lr=lr) for lr in (1e-3, 1e-2)],
    "decay": [WeightDecay(6, wd, lr) for wd, lr in ((0.1, 1e-3), (0.1, 1e-2), (3.0, 1e-3))],
    "logistic": [LogisticRegression(6, lr, wd) for lr, wd in ((0.1, 0.0), (0.1, 0.5))],
    "softmax": [SoftmaxRegression(6, 2, lr=lr) for lr in (0.1, 0.5)],
    "perceptron": [MLP(6, 2, [4], lr=lr, weight_decay=wd) for lr, wd in ((0.1, 0.0), (0.5, 0.1))],
    "one cycle": [MLP(6, 2, [4], lr=lr, schedule="one_cycle") for lr in (0.1, 0.1, 0.5)],
    "a scheduler of epochs": [Scheduled(6, lr=lr) for lr in (2.0, 0.5, 2.0)],
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_members_may_differ_in_learning_rate_and_weight_decay(name: str, prices: Prices) -> None:
    X, y = prices
    members = copy.deepcopy(DIFFERENT[name])
    alone = copy.deepcopy(members)
    if name in ("logistic", "softmax", "perceptron", "one cycle"):
        y = (y > y.median()).long()
    rows = {stage: [torch.arange(40 + 3 * k) for k in range(len(members))] for stage in ("train", "val")}
    data = StackedData(X, y, rows, 8, seed=5)
    stacked = StackedModule(members)
    lean_trainer(**FLAGS).fit(stacked, data)
    for place, (model, trained) in enumerate(zip(alone, stacked.unstack(), strict=True)):
        lean_trainer(**FLAGS).fit(model, FoldAlone(data, place))
        assert trained.hparams == model.hparams
        for key, value in model.state_dict().items():
            torch.testing.assert_close(trained.state_dict()[key], value, rtol=2e-4, atol=1e-5)


REFUSED: list[tuple[list[SupervisedModule], str]] = [
    ([LinearRegressionScratch(6, lr=lr) for lr in (0.1, 0.2)], "have the same hyperparameters"),
    ([PriceRegressor(6, activation=f) for f in ("relu", "tanh")], "have the same hyperparameters"),
    ([PriceRegressor(6, [5], dropout=p) for p in (0.0, 0.2)], "member_2 differs from member_1 in net"),
    ([PriceRegressor(6, label_noise=p) for p in (0.1, 0.0)], "member_2 differs from member_1 in label_noise"),
]


@pytest.mark.parametrize(("members", "message"), REFUSED)
def test_other_differences_are_refused(members: list[SupervisedModule], message: str, prices: Prices) -> None:
    rows = {stage: [torch.arange(40)] * 2 for stage in ("train", "val")}
    data = StackedData(prices[0], prices[1].argsort() % 2, rows, 8, seed=5)
    with pytest.raises(InputError, match=message):
        lean_trainer(**FLAGS).fit(StackedModule(members), data)


def test_means_are_those_of_the_members_that_are_averaged_and_have_rows(prices: Prices) -> None:
    names = ["a", "b", "c", "all"]
    seed_everything(3, verbose=False)
    stacked = StackedModule([PriceRegressor(6, lr=2.0) for _ in names], names, averaged=names[:3])
    history = History()
    lean_trainer(max_epochs=1, logger=history).fit(stacked, folds_and_all(prices))
    logged = history.latest()
    for metric in ("train/loss", "train/log_rmse", "val/log_rmse"):
        mean = sum(logged[f"{metric}/{name}"] for name in names[:3]) / 3
        assert logged[metric] == pytest.approx(mean, rel=1e-6)
    assert "val/log_rmse/all" not in logged
    assert logged["train/log_rmse/all"] == stacked.evaluated["train/log_rmse"][3]
    assert stacked.evaluated["val/log_rmse"].isnan().tolist() == [False, False, False, True]
    everyone = StackedModule([PriceRegressor(6, lr=2.0) for _ in names], names)
    lean_trainer(max_epochs=1, logger=history).fit(everyone, folds_and_all(prices))
    logged = history.latest()
    assert logged["val/log_rmse"] == pytest.approx(
        sum(logged[f"val/log_rmse/{name}"] for name in names[:3]) / 3
    )


def test_averaged_members_must_be_there() -> None:
    with pytest.raises(InputError, match="averaged must be names of members"):
        StackedModule([PriceRegressor(6) for _ in range(2)], ["a", "b"], averaged=["c"])


def test_a_member_without_rows_of_a_stage_is_no_error_in_a_run(prices: Prices, tmp_path: Any) -> None:
    flags = {"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 1}
    with Run("job", run_dir=str(tmp_path / "run"), **flags) as run:
        seed_everything(3, verbose=False)
        fit = run.fit(
            "folds", StackedModule([PriceRegressor(6, lr=2.0) for _ in range(4)]), folds_and_all(prices)
        )
        assert fit.validate()["val/log_rmse"].isfinite().tolist() == [True, True, True, False]
        nan = torch.tensor([0.1, float("nan"), 0.2, float("nan")])
        fit.model.evaluated["val/log_rmse"] = nan
        with pytest.raises(InputError, match="val/log_rmse of the folds is not finite"):
            fit._finite_metrics(InputError)
