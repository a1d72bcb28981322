"""Several minibatches in one training step: the same fit as with a training step for each."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, LearningRateMonitor, Timer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from d2l_lightning.callbacks.history import History
from d2l_lightning.callbacks.layer_statistics import UnitSpread
from d2l_lightning.callbacks.prequential import PrequentialErrors
from d2l_lightning.callbacks.progress import EpochProgressBar
from d2l_lightning.callbacks.progress_board import ProgressBoard
from d2l_lightning.data.batches import GeneratedBatches
from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import DivergenceError, InputError
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.execution import StepsPerExecution
from d2l_lightning.models.linear_regression import LinearRegression
from tests.conftest import lean_trainer

# Fits of three epochs of seven minibatches.
EPOCHS, STEPS = 3, 7


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replay from the first step on."""
    monkeypatch.setattr(StackedModule, "replay_from", 0)


class Net(SupervisedModule):
    """A network with dropout, batch normalization and the schedulers of its argument."""

    def __init__(self, schedulers: str = "") -> None:
        super().__init__()
        self.save_hyperparameters()
        layers = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 1)
        self.net = nn.Sequential(*layers)

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        return (self.net(X).squeeze(-1) - y.log()).square()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        if not self.hparams["schedulers"]:
            return optimizer
        step, cycle = torch.optim.lr_scheduler.StepLR, torch.optim.lr_scheduler.OneCycleLR
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.3, threshold=1e3)
        kinds = {
            "step": {"scheduler": step(optimizer, 2, 0.9), "interval": "step"},
            "every third step": {"scheduler": step(optimizer, 1, 0.9), "interval": "step", "frequency": 3},
            "epoch": {"scheduler": step(optimizer, 1, 0.5)},
            "one cycle": {"scheduler": cycle(optimizer, 0.05, EPOCHS * STEPS), "interval": "step"},
            "plateau": {"scheduler": plateau, "monitor": "val/loss", "interval": "step", "frequency": STEPS},
        }
        return {"optimizer": optimizer, "lr_scheduler": kinds[self.hparams["schedulers"]]}


def make_data(prices: tuple[Tensor, Tensor], batch_size: int = 6) -> StackedData:
    """Return two folds of 47 rows, with 40 and 41 training rows: seven steps, the last of them padded."""
    rows = dict(zip(("train", "val"), k_fold(47, 7), strict=True))
    return StackedData(*prices, {stage: each[-2:] for stage, each in rows.items()}, batch_size, seed=3)


class Fit:
    """A fit and all that is left of it."""

    def __init__(
        self,
        steps: StepsPerExecution,
        model: SupervisedModule,
        data: Any,
        callbacks: tuple[Callback, ...] = (),
        **flags: Any,
    ) -> None:
        self.calls = 0
        model.steps_per_execution = steps
        self.history = History()
        self.rows: list[tuple[dict[str, float], int | None]] = []
        log = self.history.log_metrics
        self.history.log_metrics = lambda metrics, step=None: (  # type: ignore[method-assign]
            self.rows.append((dict(metrics), step)),
            log(metrics, step),
        )
        flags = {"max_epochs": EPOCHS, "logger": self.history, **copy.deepcopy(flags)}
        self.trainer = lean_trainer(callbacks=list(callbacks), **flags)
        loop = self.trainer.fit_loop.epoch_loop.automatic_optimization
        training_step = loop._training_step

        def count(kwargs: Any) -> Any:
            self.calls += 1
            return training_step(kwargs)

        loop._training_step = count  # type: ignore[method-assign]
        seed_everything(5, verbose=False)
        self.error = ""
        try:
            self.trainer.fit(model, data)
        except DivergenceError as error:
            self.error = str(error)
        self.model = model

    def state(self) -> dict[str, Any]:
        """Return weights, rows of metrics, and the states of loops, optimizers, schedulers and generators."""
        trainer = self.trainer
        return {
            "weights": self.model.state_dict(),
            "rows": self.rows,
            "error": self.error,
            "global_step": trainer.global_step,
            "loops": trainer.fit_loop.state_dict(),
            "precision": trainer.precision_plugin.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
            "rng": torch.get_rng_state(),
        }


def require_equal(one: Any, other: Any, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, Mapping):
        assert one.keys() == other.keys(), where
        for key in one:
            require_equal(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            require_equal(*pair, f"{where}/{index}")
    elif isinstance(one, Tensor):
        assert torch.equal(one, other), where
    elif not callable(one):
        assert one == other, where


FLAGS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "max_steps in the second epoch": {"max_steps": 10},
    "max_steps at the end of an epoch": {"max_steps": 14},
    "min_steps": {"min_steps": 25, "max_epochs": 2},
    "clipping by norm": {"gradient_clip_val": 0.05},
    "clipping by value": {"gradient_clip_val": 0.02, "gradient_clip_algorithm": "value"},
    "double precision": {"precision": "64-true"},
    "half precision": {"precision": "bf16-true"},
    "mixed precision": {"precision": "bf16-mixed"},
    "mixed precision, clipping": {"precision": "bf16-mixed", "gradient_clip_val": 0.05},
    "scaled gradients": {"plugins": [MixedPrecision("16-mixed", "cpu")]},
    "scaled gradients, clipping": {"plugins": [MixedPrecision("16-mixed", "cpu")], "gradient_clip_val": 0.05},
    "anomaly detection": {"detect_anomaly": True},
    "validation every 2 steps": {"val_check_interval": 2},
    "validation twice an epoch": {"val_check_interval": 0.5},
    "validation every 5 steps, across epochs": {"val_check_interval": 5, "check_val_every_n_epoch": None},
    "validation every other epoch": {"check_val_every_n_epoch": 2},
    "three batches": {"limit_train_batches": 3},
    "a share of the batches": {"limit_train_batches": 0.5},
    "a trial": {"fast_dev_run": 4, "logger": False},
    "new loaders": {"reload_dataloaders_every_n_epochs": 1},
}
# What needs a training step for every minibatch.
EVERY_STEP: dict[str, dict[str, Any]] = {
    "accumulate_grad_batches": {"accumulate_grad_batches": 2},
    "a profiler": {"profiler": "simple"},
}


@pytest.mark.parametrize("stacked", [True, False], ids=["members side by side", "one model"])
@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS.keys())
def test_a_fit_is_the_same_to_the_bit(
    flags: dict[str, Any], stacked: bool, prices: tuple[Tensor, Tensor]
) -> None:
    def fit(steps: StepsPerExecution) -> Fit:
        seed_everything(1, verbose=False)
        if stacked:
            # Batch normalization takes another path, and has a test of its own.
            members = [Net() for _ in range(2)]
            for member in members:
                member.net[1] = nn.Identity()
            return Fit(steps, StackedModule(members), make_data(prices), **flags)
        data = SyntheticRegressionData(w=[1.0, 2, 3, 4, 5, 6], b=100.0, num_train=41, num_val=6, batch_size=6)
        return Fit(steps, Net(), data, **flags)

    alone, auto = fit(1), fit("auto")
    require_equal(alone.state(), auto.state())
    require_equal(alone.state(), fit(3).state())
    assert alone.calls >= alone.trainer.global_step
    assert auto.calls < alone.calls


@pytest.mark.filterwarnings("error:.*lr_scheduler")
@pytest.mark.parametrize("schedulers", ["step", "every third step", "epoch", "one cycle", "plateau"])
def test_schedulers_take_the_same_steps(schedulers: str, prices: tuple[Tensor, Tensor]) -> None:
    def fit(steps: StepsPerExecution) -> Fit:
        seed_everything(1, verbose=False)
        return Fit(steps, StackedModule([Net(schedulers) for _ in range(2)]), make_data(prices))

    alone, auto = fit(1), fit("auto")
    require_equal(alone.state(), auto.state())
    assert auto.calls < alone.calls
    assert auto.trainer.optimizers[0].param_groups[0]["lr"] != 0.01


@pytest.mark.parametrize("flags", EVERY_STEP.values(), ids=EVERY_STEP.keys())
def test_flags_that_need_every_step_get_it(flags: dict[str, Any], prices: tuple[Tensor, Tensor]) -> None:
    def fit(steps: StepsPerExecution) -> Fit:
        seed_everything(1, verbose=False)
        return Fit(steps, StackedModule([Net() for _ in range(2)]), make_data(prices), **flags)

    alone, auto = fit(1), fit("auto")
    require_equal(alone.state(), auto.state())
    assert auto.calls == alone.calls == EPOCHS * STEPS


@given(
    steps=st.integers(1, 30),
    max_steps=st.sampled_from([-1, *range(1, 22)]),
    interval=st.integers(1, 7),
    limit=st.integers(1, 7),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_any_number_of_steps_gives_the_same_fit(
    steps: int, max_steps: int, interval: int, limit: int, prices: tuple[Tensor, Tensor]
) -> None:
    flags = {
        "max_steps": max_steps,
        "val_check_interval": min(interval, limit),
        "limit_train_batches": limit,
        "max_epochs": 2,
    }

    def fit(steps: StepsPerExecution) -> Fit:
        return Fit(steps, linear(lr=1e-6), make_one(prices), **flags)

    require_equal(fit(1).state(), fit(steps).state())


def linear(kind: type[LinearRegression] = LinearRegression, **settings: Any) -> LinearRegression:
    seed_everything(1, verbose=False)
    return kind(1, **settings)


def make_one(prices: tuple[Tensor, Tensor]) -> SyntheticRegressionData:
    return SyntheticRegressionData(w=[2.0], b=4.0, num_train=41, num_val=6, batch_size=6)


def test_steps_beyond_an_epoch_end_with_it(prices: tuple[Tensor, Tensor]) -> None:
    fit = Fit(1000, linear(), make_one(prices))
    # The first minibatch of a fit has a step of its own.
    assert fit.calls == 1 + EPOCHS


def test_a_board_and_the_spread_of_units_see_every_minibatch(prices: tuple[Tensor, Tensor]) -> None:
    def fit(steps: StepsPerExecution) -> tuple[Fit, ProgressBoard, UnitSpread]:
        seed_everything(1, verbose=False)
        net = Net()
        board, spread = ProgressBoard(live=False), UnitSpread(net.net[0])  # type: ignore[arg-type]
        data = SyntheticRegressionData(w=[1.0, 2, 3, 4, 5, 6], b=100.0, num_train=41, num_val=6, batch_size=6)
        bar = EpochProgressBar("a fit")
        return Fit(steps, net, data, (board, spread, bar), enable_progress_bar=True), board, spread

    (one, board, spread), (auto, auto_board, auto_spread) = fit(1), fit("auto")
    assert auto.calls < one.calls
    label = "loss of a batch"
    assert board.curve(label) == auto_board.curve(label)
    assert len(board.curve(label)[0]) == EPOCHS * STEPS
    assert spread.spread == auto_spread.spread
    assert len(spread.spread) == EPOCHS * STEPS


def test_a_fit_that_diverges_has_the_same_error(prices: tuple[Tensor, Tensor]) -> None:
    fits = [Fit(steps, linear(lr=1e9), make_one(prices)) for steps in (1, "auto")]
    assert fits[0].error
    assert fits[0].error == fits[1].error


def test_early_stopping_ends_the_same_epoch(prices: tuple[Tensor, Tensor]) -> None:
    def fit(steps: StepsPerExecution) -> Fit:
        stopping = EarlyStopping("val/loss", min_delta=1e9, patience=2)
        return Fit(steps, linear(), make_one(prices), (stopping,), max_epochs=9)

    alone, auto = fit(1), fit("auto")
    require_equal(alone.state(), auto.state())
    assert auto.calls < alone.calls
    assert auto.trainer.current_epoch == 3


class Hooks(Callback):
    def on_before_optimizer_step(self, *_: Any) -> None: ...


class Scaled(LinearRegression):
    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        (2 * loss).backward()


class Logging(LinearRegression):
    def loss(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        loss = super().loss(X, y, weight)
        self.log("a loss", loss, on_step=True)
        return loss


class Quasi(LinearRegression):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(self.parameters(), max_iter=2)


NEEDED: dict[str, Callable[[], tuple[SupervisedModule, tuple[Callback, ...], dict[str, Any]]]] = {
    "on_before_optimizer_step of the callback Hooks": lambda: (LinearRegression(1), (Hooks(),), {}),
    "on_train_batch_start of the callback PrequentialErrors": lambda: (
        LinearRegression(1),
        (PrequentialErrors(3),),
        {},
    ),
    "on_train_batch_start of the callback LearningRateMonitor": lambda: (
        LinearRegression(1),
        (LearningRateMonitor("step"),),
        {},
    ),
    "on_train_batch_end of the callback LambdaCallback": lambda: (
        LinearRegression(1),
        (LambdaCallback(on_train_batch_end=lambda *_: None),),
        {},
    ),
    "on_train_batch_end of the callback Timer": lambda: (LinearRegression(1), (Timer("00:01:00:00"),), {}),
    "backward of Scaled": lambda: (Scaled(1), (), {}),
    "a loss that logs": lambda: (Logging(1), (), {}),
    "the optimizer LBFGS": lambda: (Quasi(1), (), {}),
    "accumulate_grad_batches": lambda: (LinearRegression(1), (), EVERY_STEP["accumulate_grad_batches"]),
    "a profiler": lambda: (LinearRegression(1), (), EVERY_STEP["a profiler"]),
}


@pytest.mark.parametrize("name", NEEDED)
def test_what_needs_every_step_gets_it_and_refuses_a_number(name: str, prices: tuple[Tensor, Tensor]) -> None:
    model, callbacks, flags = NEEDED[name]()
    assert Fit("auto", model, make_one(prices), callbacks, **flags).calls >= EPOCHS * STEPS
    model, callbacks, flags = NEEDED[name]()
    with pytest.raises(InputError, match=f"^steps_per_execution 4 does not go with {name}; take 1 or auto$"):
        Fit(4, model, make_one(prices), callbacks, **flags)


def test_an_optimizer_clears_gradients_in_its_own_fashion(prices: tuple[Tensor, Tensor]) -> None:
    cleared: list[bool] = []

    class Own(torch.optim.SGD):
        def zero_grad(self, set_to_none: bool = True) -> None:
            cleared.append(set_to_none)
            super().zero_grad(set_to_none)

    class Model(LinearRegression):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return Own(self.parameters(), lr=1e-3)

    Fit("auto", linear(Model), make_one(prices))
    assert len(cleared) == EPOCHS * STEPS


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, "all"])
def test_a_number_of_steps_is_positive_or_auto(steps: Any, prices: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match=f"must be a positive whole number or auto, not {steps}"):
        Fit(steps, linear(), make_one(prices))


def test_a_stream_without_a_length_is_trained_on_to_its_end() -> None:
    X = torch.randn(9, 4, 2)

    def fit(steps: StepsPerExecution) -> Fit:
        stream = GeneratedBatches(lambda: iter(zip(X, X.sum(dim=-1), strict=True)))
        seed_everything(1, verbose=False)
        return Fit(steps, LinearRegression(2), stream, max_epochs=1)

    alone, auto = fit(1), fit("auto")
    require_equal(alone.state(), auto.state())
    assert (alone.calls, auto.calls) == (9, 2)


def test_a_batch_is_handed_over_by_the_hooks(prices: tuple[Tensor, Tensor]) -> None:
    class Shifted(LinearRegression):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0] + 1, batch[1]

    require_equal(
        *(Fit(steps, linear(Shifted, lr=1e-3), make_one(prices)).state() for steps in (1, "auto"))  # type: ignore[arg-type]
    )
    plain = Fit("auto", linear(lr=1e-3), make_one(prices))
    shifted = Fit("auto", linear(Shifted, lr=1e-3), make_one(prices))
    assert not torch.equal(*(fit.model.state_dict()["net.weight"] for fit in (plain, shifted)))


def test_a_loss_sees_the_step_that_it_belongs_to(prices: tuple[Tensor, Tensor]) -> None:
    steps: list[tuple[int, int]] = []

    class Watching(LinearRegression):
        def loss(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
            steps.append((self.global_step, self.trainer.fit_loop.batch_idx))
            return super().loss(X, y, weight)

    Fit("auto", linear(Watching), make_one(prices))
    assert steps == [(step, step % STEPS) for step in range(EPOCHS * STEPS)]
