"""CUDA graphs give what models give without them, and are refused where they would not."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from torch import Tensor

from d2l_lightning.data.batches import InMemoryData, shuffled_loader
from d2l_lightning.ensemble.cuda_graph import CudaGraph, CudaGraphs
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models import base
from d2l_lightning.models.mlp import MLP
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.models.table_regressor import TableRegressor
from d2l_lightning.runs.run import Run
from tests.conftest import lean_trainer
from tests.tools.fake_cuda import Graph, use_fake_cuda

Prices = tuple[Tensor, Tensor]
NEEDS_CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


class Counting(TableRegressor):
    """A network with random numbers and a buffer that every step changes."""

    steps: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(6, [5], log_target=True, dropout=0.2, label_noise=0.1, lr=0.01, **settings)
        self.register_buffer("steps", torch.tensor(0.0))

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        self.steps.add_(1)
        return super().example_losses(X, y)


class Moves(Callback):
    """Moves the parameters to other memory."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for parameter in pl_module.parameters():
            parameter.data = parameter.data.clone()


class Leaves(Callback):
    """Drops the first member, so that the parameters move to other memory."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 2:
            assert isinstance(pl_module, StackedModule)
            pl_module.keep([1, 2, 3])


def fit(prices: Prices, cuda_graphs: CudaGraphs, accelerator: str, make: Any = Counting, **flags: Any) -> Any:
    seed_everything(0, verbose=False)
    (X, y), (train, val) = prices, k_fold(47, 3)
    rows = {"train": [*train, torch.arange(9)], "val": [*val, torch.arange(9, 20)]}
    stacked = StackedModule([make() for _ in range(4)])
    stacked.cuda_graphs = cuda_graphs
    trainer = lean_trainer(max_epochs=4, accelerator=accelerator, **flags)
    trainer.fit(stacked, StackedData(X, y, rows, 4, seed=0))
    return stacked.cpu()


@pytest.fixture(autouse=True)
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replay from the third step on."""
    monkeypatch.setattr(StackedModule, "replay_from", 2)


@pytest.fixture(name="accelerator", params=["fake", pytest.param("gpu", marks=NEEDS_CUDA)])
def accelerator_fixture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "gpu":
        return "gpu"
    use_fake_cuda(monkeypatch)
    return "cpu"


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"gradient_clip_val": 0.1},
        {"accumulate_grad_batches": 2},
        {"callbacks": [Leaves()]},
        {"callbacks": [Moves()]},
    ],
    ids=["", "clipping", "accumulation", "leaving", "moving"],
)
def test_weights_are_those_without_cuda_graphs(
    flags: dict[str, Any], accelerator: str, prices: Prices
) -> None:
    with_graphs, without = (fit(prices, on, accelerator, **flags) for on in (True, False))
    for (name, value), expected in zip(
        with_graphs.state_dict().items(), without.state_dict().values(), strict=True
    ):
        assert torch.equal(value, expected), name
    assert with_graphs._epoch_loss is not None
    assert torch.equal(with_graphs._epoch_loss, without._epoch_loss)
    assert with_graphs.stacked.steps.min() > 2
    if accelerator == "cpu":
        anew = {Leaves: 2, Moves: 4}  # once an epoch
        assert Graph.captures == anew.get(type(flags.get("callbacks", [None])[0]), 1)


@pytest.mark.parametrize(
    ("device", "plugin", "hooks", "message"),
    [
        ("cpu", Precision(), False, "a fit on the device cpu"),
        ("cuda", MixedPrecision("bf16-mixed", "cuda"), False, "the precision bf16-mixed"),
        ("cuda", Precision(), True, "members that have hooks"),
    ],
)
def test_they_are_refused_with_a_reason(device: str, plugin: Any, hooks: bool, message: str) -> None:
    def trainer(device: str, plugin: Any) -> Any:
        strategy = SimpleNamespace(root_device=torch.device(device))
        return SimpleNamespace(strategy=strategy, precision_plugin=plugin, precision="bf16-mixed")

    with pytest.raises(InputError, match=f"cuda_graphs does not go with {message}"):
        CudaGraph.require(trainer(device, plugin), hooks)
    CudaGraph.require(trainer("cuda", Precision()), has_hooks=False)


@pytest.mark.parametrize("flags", [{}, {"gradient_clip_val": 0.1}], ids=["", "clipping"])
def test_the_steps_of_a_single_model_are_those_without_cuda_graphs(
    flags: dict[str, Any], accelerator: str, prices: Prices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_REPLAY_FROM", 5)
    models = []
    for on in (True, False):
        seed_everything(0, verbose=False)
        model = MLP(lr=0.01, num_inputs=6, num_outputs=2, hidden_sizes=[8])
        X, y = prices
        data = Rows(X, (y > y.median()).long())
        flags |= {"accelerator": accelerator, "cuda_graphs": on, "max_epochs": 3}
        with Run("one", run_dir=tmp_path / str(on), **flags) as run:
            run.fit("one", model, data)
            run.finish({})
        models.append(model.cpu())
        assert model.step_graph is None
        copy.deepcopy(model)
    for (name, value), expected in zip(
        models[0].state_dict().items(), models[1].state_dict().values(), strict=True
    ):
        assert torch.equal(value, expected), name
    assert torch.equal(models[0]._epoch_loss, models[1]._epoch_loss)  # type: ignore[arg-type]
    if accelerator == "cpu":
        assert Graph.captures == 1  # the last batch of an epoch is a step of the Trainer's


class Rows(InMemoryData):
    """Rows in shuffled batches of 8."""

    def __init__(self, X: Tensor, y: Tensor) -> None:
        super().__init__()
        self.X, self.y = X, y

    def train_dataloader(self) -> Any:
        return shuffled_loader(self, 8, 0, self.X, self.y)


def test_a_fit_on_the_cpu_is_refused(prices: Prices) -> None:
    with pytest.raises(InputError, match="cuda_graphs does not go with a fit on the device cpu"):
        fit(prices, True, "cpu")


class Curious(PriceRegressor):
    """A member whose loss depends on the Trainer."""

    def __init__(self) -> None:
        super().__init__(6)

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        return super().example_losses(X, y) * (1 + self.trainer.current_epoch)


def test_auto_takes_them_where_that_is_possible(prices: Prices, monkeypatch: pytest.MonkeyPatch) -> None:
    without = fit(prices, False, "cpu")
    use_fake_cuda(monkeypatch)
    assert torch.equal(fit(prices, "auto", "cpu").stacked.net[0].weight, without.stacked.net[0].weight)
    assert Graph.captures == 1
    fit(prices, "auto", "cpu", Curious)

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", fails)
    assert torch.equal(fit(prices, "auto", "cpu").stacked.net[0].weight, without.stacked.net[0].weight)
    assert Graph.captures == 1


def test_a_loss_that_cannot_be_replayed_is_refused(prices: Prices, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fake_cuda(monkeypatch)
    with pytest.raises(InputError, match="cuda_graphs does not go with a loss that depends on more than"):
        fit(prices, True, "cpu", Curious)

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "graph", fails)
    message = "cuda_graphs does not go with this model; operation not permitted when stream is capturing$"
    with pytest.raises(InputError, match=message):
        fit(prices, True, "cpu")
