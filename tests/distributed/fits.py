"""Fits of many kinds of models on tiny data, as one process or as one of several."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from d2l_lightning.callbacks.history import History
from d2l_lightning.callbacks.layer_statistics import ActivationVariance, UnitSpread
from d2l_lightning.callbacks.prequential import PrequentialErrors
from d2l_lightning.callbacks.progress_board import ProgressBoard
from d2l_lightning.data.batches import loader_of, shuffled_loader
from d2l_lightning.distributed.group import num_processes
from d2l_lightning.distributed.strategy import DataParallelStrategy
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.models.backpropagation import BackpropagationMLP
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.dropout_mlp import DropoutMLP, DropoutMLPScratch
from d2l_lightning.models.linear_regression import LinearRegression, LinearRegressionScratch
from d2l_lightning.models.mlp import MLP
from d2l_lightning.models.softmax_regression import SoftmaxRegression
from d2l_lightning.models.table_regressor import TableRegressor
from d2l_lightning.models.weight_decay import Lasso, WeightDecayScratch
from tests.conftest import lean_trainer

N, D = 47, 6
GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(N, D, generator=GENERATOR)
TARGETS = X @ torch.linspace(-1, 2, D) + torch.randn(N, generator=GENERATOR)
# With rows whose gradients, multiplied by a scale, are too large for float16, whatever the other rows are.
OUTLIERS = TARGETS.where(torch.arange(N) % 20 > 0, 95.0)
CLASSES = torch.randint(3, (N,), generator=GENERATOR)
WEIGHTS = torch.rand(N, generator=GENERATOR).mul(2).masked_fill(torch.arange(N) % 4 == 0, 0.0)

Outcome = dict[str, Any]


class Rows(LightningDataModule):
    """Shuffled batches of rows; all rows are evaluated as ``val``, the last ten as ``test``."""

    def __init__(self, y: Tensor, batch_size: int = 10, weight: Tensor | None = None) -> None:
        super().__init__()
        self.tensors = (X, y) if weight is None else (X, y, weight)
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        return shuffled_loader(self, self.batch_size, 5, *self.tensors)

    def val_dataloader(self) -> Any:
        return loader_of(self, *zip(*(each.split(20) for each in self.tensors), strict=True))

    def test_dataloader(self) -> Any:
        return loader_of(self, (X[:1], self.tensors[1][:1]), (X[-10:], self.tensors[1][-10:]))


def outcome(module: LightningModule, data: Any, evaluates: bool = True, **flags: Any) -> Outcome:
    """Fit a module, and return its weights, what it logged, and the state of the generator."""
    history = History()
    shared: dict[str, Any] = {"strategy": DataParallelStrategy(), "devices": num_processes()}
    flags = {"max_epochs": 2, "logger": history, **flags, **(shared if num_processes() > 1 else {})}
    checkpoint, saves = flags.pop("ckpt_path", None), flags.pop("saves", None)
    if "mixed" in flags.get("precision", ""):  # with 16-mixed, a Trainer on the CPU would take bfloat16
        flags["plugins"] = [MixedPrecision(flags.pop("precision"), "cpu")]
    trainer = lean_trainer(use_distributed_sampler=False, **flags)
    torch.manual_seed(11)
    trainer.fit(module, data, ckpt_path=checkpoint)
    if saves is not None:
        trainer.save_checkpoint(saves)
    found: Outcome = {f"weights/{name}": value.clone() for name, value in module.state_dict().items()}
    found |= {f"history/{name}": history.curve(name) for name in history.latest()}
    if evaluates:
        trainer.test(module, data, verbose=False)
        found |= {f"test/{name}": value.clone() for name, value in module.evaluated.items()}
        predicted = trainer.predict(module, DataLoader(cast(Any, X.split(30)), batch_size=None))
        found["predictions"] = torch.cat(predicted)
    generator = zlib.crc32(torch.get_rng_state().numpy().tobytes())
    if isinstance(trainer.precision_plugin, MixedPrecision):
        found["scales"] = torch.tensor(trainer.precision_plugin.state_dict().get("scale", 1.0))
    return {**found, "generator": generator, "step": trainer.global_step}


class Overridden(LinearRegressionScratch):
    """A model of a notebook, which has a loss of its own and draws in evaluation too."""

    def loss(self, X: Tensor, y: Tensor) -> Tensor:
        noise = torch.randn(len(X)) + torch.randn(())
        return ((self(X) - y + 0.1 * noise) ** 2).mean() + 0.01 * self.w.abs().sum()

    def example_metrics(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"noisy": (self(X) - y).abs() + torch.rand_like(y)}


class Gated(LinearRegressionScratch):
    """A model in which a parameter has a gradient in some processes only, and another in none."""

    def __init__(self) -> None:
        super().__init__(D)
        self.extra, self.unused = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(()))

    def forward(self, X: Tensor) -> Tensor:
        large = X[:, 0] > 1.3
        return super().forward(X) + (self.extra * large if large.any() else 0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)


class ByLBFGS(LinearRegression):
    """A model whose optimizer computes the loss several times in a step."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(self.parameters(), lr=0.3, max_iter=3, line_search_fn="strong_wolfe")


class Foreign(LightningModule):
    """A module of Lightning's, which knows nothing of shares, with manual optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        losses = (self.net(batch[0]).squeeze(-1) - batch[1]).square().chunk(2)
        optimizer.zero_grad()
        for loss in losses:
            self.manual_backward(loss.sum(), retain_graph=True)
        optimizer.step()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.001)


def table(**settings: Any) -> TableRegressor:
    """Return a perceptron with dropout and noise."""
    torch.manual_seed(settings.pop("seed", 0))
    defaults: dict[str, Any] = {"dropout": 0.3, "label_noise": 0.1, "optimizer": "adamw", "lr": 0.02}
    return TableRegressor(D, [8], **{**defaults, **settings})


class Plain(TableRegressor):
    """A member with PyTorch's dropout."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.net[2] = nn.Dropout(0.3)


def stacked(
    kind: Callable[..., SupervisedModule] = TableRegressor,
    streams: bool = False,
    replay_from: int = 4,
    weights: bool = False,
    batch_size: int = 8,
    y: Tensor = TARGETS,
    **flags: Any,
) -> Outcome:
    """Return the outcome of folds and a model of all rows, which takes more steps in an epoch."""
    train, val = k_fold(N, 3)
    train = [*train[:2], train[2][:13], torch.arange(N)]
    val = [*val, torch.arange(0)]
    members = []
    for k in range(4):
        torch.manual_seed(k)
        settings = {"schedule": "cosine", "optimizer": "adamw", "weight_decay": 0.1}
        members.append(kind(D, [8], dropout=0.1 + 0.1 * k, label_noise=0.1, lr=0.01, **settings))
    module = StackedModule(members, streams=[0, 1, 0, 1] if streams else None)
    module.replay_from = replay_from
    weight = {"train": WEIGHTS.expand(4, -1)} if weights else None
    of_members = [0, 1, 0, 1] if streams else None
    data = StackedData(X, y, {"train": train, "val": val}, batch_size, 5, weights=weight, streams=of_members)
    return outcome(module, data, evaluates=False, **flags)


def observed(**flags: Any) -> Outcome:
    """Return the outcome of a fit with callbacks that look at each step."""
    torch.manual_seed(0)
    module = DropoutMLP(D, 3, [8, 8], lr=0.1)
    board, spread, variances = ProgressBoard(), UnitSpread(module.net[-1]), ActivationVariance(X)
    found = outcome(module, Rows(CLASSES), callbacks=[board, spread, variances], **flags)
    regression = LinearRegressionScratch(D)
    prequential = PrequentialErrors(2)
    found |= outcome(regression, Rows(TARGETS), callbacks=[prequential])
    found["board"] = [board.curve(label) for label in ("loss of a batch", "val/loss")]
    found["spread"], found["variances"] = spread.spread, variances.variances
    return {**found, "errors": [each for pair in prequential.errors for each in pair]}


def seeded(make: Callable[[], LightningModule], data: LightningDataModule, **flags: Any) -> Outcome:
    torch.manual_seed(0)
    return outcome(make(), data, **flags)


def plain(make: Callable[[], LightningModule], y: Tensor = TARGETS, **flags: Any) -> Callable[[], Outcome]:
    """Return a function that fits a module on rows."""
    rows = {name: flags.pop(name) for name in ("batch_size", "weight") if name in flags}
    return lambda: seeded(make, Rows(y, **rows), **flags)


def stepwise(make: Callable[..., SupervisedModule], *args: Any, **settings: Any) -> SupervisedModule:
    module = make(*args, **settings)
    module.steps_per_execution = 1
    return module


CASES: Mapping[str, Callable[[], Outcome]] = {
    "regression from scratch": plain(lambda: LinearRegressionScratch(D)),
    "regression": plain(lambda: LinearRegression(D, loss="huber", optimizer="adamw")),
    "step by step": plain(lambda: stepwise(LinearRegression, D)),
    "l1 in the loss": plain(lambda: WeightDecayScratch(D, lambd=0.5, penalty="l1"), weight=WEIGHTS),
    "proximal steps": plain(lambda: Lasso(D, lambd=0.5)),
    "softmax": plain(lambda: SoftmaxRegression(D, 3, optimizer="adamw"), CLASSES, weight=WEIGHTS),
    "dropout from scratch": plain(lambda: DropoutMLPScratch(D, 3, [8, 8]), CLASSES),
    "dropout": plain(lambda: DropoutMLP(D, 3, [8, 8]), CLASSES, batch_size=12),
    "label smoothing": plain(
        lambda: MLP(D, 3, [8], label_smoothing=0.1, dropouts=[0.5], schedule="one_cycle"), CLASSES
    ),
    "gradients by formulas": plain(lambda: BackpropagationMLP(D, 3, 8, lambd=0.1), CLASSES),
    "table": plain(lambda: table(schedule="cosine", l1=0.01), gradient_clip_val=0.5),
    "table in double precision": plain(
        lambda: table(), weight=WEIGHTS.double(), precision="64-true", gradient_clip_val=0.1,
        gradient_clip_algorithm="value",
    ),
    "table in mixed half precision": plain(lambda: table(), precision="bf16-mixed", weight=WEIGHTS),
    "scaled gradients in half precision": plain(
        lambda: table(), OUTLIERS, precision="16-mixed", gradient_clip_val=0.5
    ),
    "scaled and accumulated in half precision": plain(
        lambda: table(), OUTLIERS, precision="16-mixed", accumulate_grad_batches=3
    ),
    "table in half precision": plain(lambda: table(), precision="16-true"),
    "accumulated": plain(lambda: table(), accumulate_grad_batches=3, gradient_clip_val=0.5),
    "a last batch of one row": plain(lambda: table(), batch_size=23),
    "an interval": plain(lambda: table(), val_check_interval=2),
    "a loss of its own": plain(lambda: Overridden(D)),
    "missing gradients": plain(Gated, batch_size=5),
    "several closures in double precision": plain(lambda: ByLBFGS(D), precision="64-true"),
    "another module": plain(Foreign, evaluates=False),
    "callbacks": observed,
    "stacked": lambda: stacked(gradient_clip_val=0.5),
    "stacked without a graph": lambda: stacked(replay_from=10**6),
    "stacked with streams": lambda: stacked(
        streams=True, gradient_clip_val=0.1, gradient_clip_algorithm="value", weights=True
    ),
    "stacked in double precision": lambda: stacked(weights=True, precision="64-true"),
    "stacked and scaled in half precision": lambda: stacked(y=OUTLIERS, precision="16-mixed"),
    "stacked and accumulated": lambda: stacked(Plain, accumulate_grad_batches=3, batch_size=5),
}  # fmt: skip
OF_THREE = (
    "a last batch of one row", "a loss of its own", "missing gradients", "stacked with streams",
    "stacked in double precision", "table in double precision", "stacked and scaled in half precision",
)  # fmt: skip
