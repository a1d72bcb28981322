"""Members with schedules, an l1 penalty and dropped batches train as they do alone."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models.execution import StepsPerExecution
from d2l_lightning.models.linear_regression import LinearRegressionScratch
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.models.table_regressor import TableRegressor
from d2l_lightning.optim.schedulers import StackedScheduler
from d2l_lightning.runs.run import Run
from tests.conftest import lean_trainer
from tests.ensemble.test_stacked import FoldAlone
from tests.models.test_execution import Fit, require_equal
from tests.runs.test_state import Kill, Killed
from tests.tools.kill_loop import outcome

Prices = tuple[Tensor, Tensor]
EPOCHS = 3
STEPS = [3, 3, 4, 5]  # of each member in an epoch
RECIPE: dict[str, Any] = {
    **{"hidden_sizes": [5], "activation": "silu", "parametrization": "ntk"},
    **{"log_target": True, "standardize": True, "clip": True, "loss": "huber", "huber_threshold": 0.2},
    **{"metric": "log_rmse", "optimizer": "adamw", "betas": (0.9, 0.99), "lr": 0.05, "bias_lr": 0.005},
    **{"schedule": "cosine", "weight_decay": 0.02, "l1": 2.0},
}
# The second and the third member have settings of their own.
OWN: list[dict[str, Any]] = [{}, {"l1": 0.0}, {"lr": 0.1, "bias_lr": None, "weight_decay": 0.3}, {}]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replay from the first step on."""
    monkeypatch.setattr(StackedModule, "replay_from", 0)


def made(prices: Prices, own: list[dict[str, Any]] = OWN) -> tuple[list[TableRegressor], StackedData]:
    """Return the members of three folds, with 31 or 32 rows, and of all 47 rows; and their data."""
    train, val = k_fold(47, 3)
    train.append(torch.arange(47))
    data = StackedData(*prices, {"train": train, "val": [*val, torch.arange(0)]}, 8, seed=5, drop_last=True)
    seed_everything(3, verbose=False)
    members = [TableRegressor(6, **{**RECIPE, **settings}) for settings in own]
    for member, rows in zip(members, train, strict=True):
        member.fit_target(prices[1][rows])
    return members, data


class Rates(Callback):
    """Keeps the learning rates after each step."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_train_minibatch_end(self, trainer: Any, *_: Any) -> None:
        groups = trainer.optimizers[0].param_groups
        self.seen.append([group["lr"] for group in groups if tuple(group["members"]) in ((0, 1), (3, 4))])

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:  # type: ignore[override]
        self.on_train_minibatch_end(trainer)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"limit_train_batches": 4},
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.05},
    ],
    ids=str,
)
@pytest.mark.parametrize("replays", [True, False], ids=["replays", "vmap"])
def test_the_whole_recipe_trains_as_alone(
    flags: dict[str, Any], replays: bool, prices: Prices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StackedModule, "replay_from", 0 if replays else 10**9)
    members, data = made(prices)
    assert data.batches.steps == STEPS
    alone = copy.deepcopy(members)
    stacked = StackedModule(members)
    trainer = lean_trainer(max_epochs=EPOCHS, **flags)
    trainer.fit(stacked, data)
    assert all(group["lr"] < 1e-12 for group in trainer.optimizers[0].param_groups)
    for place, (model, trained) in enumerate(zip(alone, stacked.unstack(), strict=True)):
        lean_trainer(max_epochs=EPOCHS, **flags).fit(model, FoldAlone(data, place))
        assert trained.hparams == model.hparams
        for name, value in model.state_dict().items():
            torch.testing.assert_close(trained.state_dict()[name], value, rtol=2e-4, atol=1e-5)
        torch.testing.assert_close(
            stacked.evaluated["train/log_rmse"][place], model.evaluated["train/log_rmse"]
        )
        assert (model.net[0].weight == 0).any() == (model.hparams["l1"] > 0)


@pytest.mark.parametrize("steps", [1, 2, "auto"])
def test_a_member_s_rate_falls_with_its_own_steps(steps: StepsPerExecution, prices: Prices) -> None:
    members, data = made(prices)
    stacked, rates = StackedModule(members), Rates()
    stacked.steps_per_execution = steps
    lean_trainer(max_epochs=EPOCHS, callbacks=[rates]).fit(stacked, data)
    expected = []
    for step in range(EPOCHS * 5):
        epoch, batch = divmod(step, 5)
        shares = []
        for own in (STEPS[0], STEPS[3]):
            taken = epoch * own + min(batch + 1, own)
            shares.append((1 + math.cos(math.pi * taken / (EPOCHS * own))) / 2)
        expected.append([0.05 * share for share in shares] * 2 + [0.005 * share for share in shares])
    torch.testing.assert_close(torch.tensor(rates.seen), torch.tensor(expected), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("flags", [{}, {"limit_train_batches": 4}, {"max_steps": 13}], ids=str)
def test_several_steps_in_an_execution_are_the_same_to_the_bit(flags: dict[str, Any], prices: Prices) -> None:
    def fit(steps: StepsPerExecution) -> Fit:
        members, data = made(prices)
        return Fit(steps, StackedModule(members), data, **flags)

    one, auto = fit(1), fit("auto")
    assert isinstance(one.trainer.lr_scheduler_configs[0].scheduler, StackedScheduler)
    require_equal(one.state(), auto.state())
    assert auto.calls < one.calls


def test_the_end_of_a_fit_by_steps_is_the_end_of_each_schedule(prices: Prices) -> None:
    # Two epochs of five steps and two more steps.
    members, data = made(prices)
    trainer = lean_trainer(max_epochs=-1, max_steps=12)
    trainer.fit(StackedModule(members), data)
    assert [scheduler.T_max for scheduler in _schedulers(trainer)] == [8, 8, 10, 12]
    assert all(group["lr"] < 1e-12 for group in trainer.optimizers[0].param_groups)


def _schedulers(trainer: Any) -> list[Any]:
    return list(trainer.lr_scheduler_configs[0].scheduler.schedulers.values())


def test_members_with_equal_settings_and_steps_have_one_scheduler(prices: Prices) -> None:
    members, data = made(prices, [{}] * 4)
    trainer = lean_trainer(max_epochs=1)
    trainer.fit(StackedModule(members), data)
    assert list(trainer.lr_scheduler_configs[0].scheduler.schedulers) == [(0, 2), (2, 3), (3, 4)]
    # With equal steps, all members have one.
    rows = {"train": [torch.arange(40)] * 4, "val": [torch.arange(9)] * 4}
    members, _ = made(prices, [{}] * 4)
    trainer = lean_trainer(max_epochs=1)
    trainer.fit(StackedModule(members), StackedData(*prices, rows, 8, seed=5))
    assert list(trainer.lr_scheduler_configs[0].scheduler.schedulers) == [(0, 4)]
    assert trainer.lr_scheduler_configs[0].scheduler.get_last_lr() == pytest.approx([0] * 3, abs=1e-12)


def test_members_with_equal_settings_may_have_others_between_them(prices: Prices) -> None:
    members, _ = made(prices, [{}, {"l1": 4.0}, {}, {"lr": 0.1}])
    data = StackedData(*prices, {"train": [torch.arange(40)] * 4, "val": [torch.arange(9)] * 4}, 8, seed=5)
    alone = copy.deepcopy(members)
    stacked = StackedModule(members)
    lean_trainer(max_epochs=EPOCHS).fit(stacked, data)
    for place, (model, trained) in enumerate(zip(alone, stacked.unstack(), strict=True)):
        lean_trainer(max_epochs=EPOCHS).fit(model, FoldAlone(data, place))
        for name, value in model.state_dict().items():
            torch.testing.assert_close(trained.state_dict()[name], value, rtol=2e-4, atol=1e-5)


def test_a_constant_rate_keeps_members_with_different_steps_together(prices: Prices) -> None:
    settings = {"schedule": "constant", "l1": 0.0}
    # The settings of the optimizer are the same: a rate of the biases is that of the weights if not given.
    members, data = made(prices, [{**settings, "bias_lr": bias_lr} for bias_lr in (None, 0.05, None, 0.05)])
    trainer = lean_trainer(max_epochs=1)
    trainer.fit(StackedModule(members), data)
    assert [group["members"] for group in trainer.optimizers[0].param_groups] == [(0, 4)] * 3


def job(folder: Path, prices: Prices, kill: Callback | None = None, resume: bool = False) -> dict[str, Any]:
    flags = {"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 4, "checkpoint_every": 0}
    with Run("job", run_dir=str(folder), resume=resume, logger="csv", **flags) as run:
        members, data = made(prices)
        fit = run.fit("folds", StackedModule(members), data, callbacks=[] if kill is None else [kill])
        run.finish({"curve": fit.curve("train/loss")}, checkpoints={"folds": fit.model})
    return outcome(folder)


def test_a_run_that_is_killed_goes_on_with_each_member_s_schedule(prices: Prices, tmp_path: Path) -> None:
    expected = job(tmp_path / "whole", prices)
    for hook, calls in (("on_train_batch_start", 8), ("on_train_epoch_end", 2)):
        folder = tmp_path / hook
        with pytest.raises(Killed):
            job(folder, prices, Kill(hook, calls))
        assert job(folder, prices, resume=True) == expected


def test_a_checkpoint_holds_the_place_in_each_schedule(prices: Prices, tmp_path: Path) -> None:
    members, data = made(prices)
    trainer = lean_trainer(max_epochs=EPOCHS, limit_train_batches=4)
    trainer.fit(StackedModule(members), data)
    trainer.save_checkpoint(tmp_path / "fit.ckpt")
    (state,) = torch.load(tmp_path / "fit.ckpt", weights_only=True)["lr_schedulers"]
    assert [each["last_epoch"] for each in state["schedulers"]] == [9, 9, 12, 12]
    rates = trainer.lr_scheduler_configs[0].scheduler.get_last_lr()
    assert rates == [group["lr"] for group in trainer.optimizers[0].param_groups]


class Stepwise(PriceRegressor):
    """A model with a scheduler of the given kind."""

    make: Callable[..., Any] = StepLR

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        scheduler = type(self).make(optimizer)
        plan = {"scheduler": scheduler, "interval": "step", "monitor": "train/loss", "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": plan}


class Falling(Stepwise):
    make = staticmethod(lambda optimizer: StepLR(optimizer, 2, 0.5))


class Sequential(Stepwise):
    """Two schedules, one after the other."""

    @staticmethod
    def make(optimizer: Any) -> Any:
        kinds = torch.optim.lr_scheduler
        parts = [kinds.LinearLR(optimizer, 0.1, total_iters=3), kinds.ExponentialLR(optimizer, 0.8)]
        return kinds.SequentialLR(optimizer, parts, [4])


class Plateau(Stepwise):
    make = staticmethod(lambda optimizer: ReduceLROnPlateau(optimizer))


class Scratch(LinearRegressionScratch):
    """A model whose optimizer cannot give each member a rate of its own."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": StepLR(optimizer, 2), "interval": "step"},
        }


@pytest.mark.parametrize("kind", [Falling, Sequential])
@pytest.mark.filterwarnings("error:.*lr_scheduler", "error:Detected call")
def test_other_schedulers_of_steps_are_each_member_s_too(kind: Any, prices: Prices) -> None:
    _, data = made(prices)
    members = [kind(6, lr=lr) for lr in (2.0, 2.0, 0.5, 2.0)]
    alone = copy.deepcopy(members)
    stacked = StackedModule(members)
    lean_trainer(max_epochs=EPOCHS).fit(stacked, data)
    for place, (model, trained) in enumerate(zip(alone, stacked.unstack(), strict=True)):
        lean_trainer(max_epochs=EPOCHS).fit(model, FoldAlone(data, place))
        for name, value in model.state_dict().items():
            torch.testing.assert_close(trained.state_dict()[name], value, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([Plateau(6) for _ in range(4)], "a ReduceLROnPlateau that goes on at every step is for all of them"),
        ([Scratch(6) for _ in range(4)], "a StepLR that goes on at every step is for all of them"),
        ([Plateau(6, lr=lr) for lr in (1.0, 2.0, 1.0, 1.0)], "must have the same lr and weight_decay"),
    ],
    ids=["a plateau", "an optimizer from scratch", "a plateau and rates"],
)
def test_a_scheduler_that_is_for_all_members_is_refused(
    members: list[Any], message: str, prices: Prices
) -> None:
    with pytest.raises(InputError, match=message):
        lean_trainer(max_epochs=EPOCHS).fit(StackedModule(members), made(prices)[1])
