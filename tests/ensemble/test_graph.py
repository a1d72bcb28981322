"""Replayed losses and gradients are those of the members, and are not used where they would not be."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.graph import LossGraph, traced
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.dropout_mlp import DropoutMLPScratch
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.models.mlp import MLP
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.models.softmax_regression import SoftmaxRegression
from d2l_lightning.models.weight_decay import WeightDecayScratch
from tests.conftest import lean_trainer

Prices = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replay from the first step on."""
    monkeypatch.setattr(StackedModule, "replay_from", 0)


class Net(SupervisedModule):
    """A small network, for tests that change a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        return (self.net(X).squeeze(-1) - y.log()).square() * self.factor()

    def factor(self) -> Any:
        return 1.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Tied(Net):
    """A network that uses one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(layer := nn.Linear(6, 6), nn.Tanh(), layer, nn.Linear(6, 1))


class Normalized(Net):
    """A network with batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))


class Partial(Net):
    """A network with a frozen layer and a parameter that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.net[0].requires_grad_(False)  # type: ignore[union-attr]
        self.unused = nn.Parameter(torch.ones(3))


MEMBERS: dict[str, Callable[[], SupervisedModule]] = {
    "linear": lambda: PriceRegressor(6, lr=2.0),
    "a network": lambda: PriceRegressor(6, [8, 5], activation="tanh", log_price=True, lr=0.01),
    "huber": lambda: LinearRegression(6, loss="huber", lr=1e-3),
    "weight decay": lambda: WeightDecayScratch(6, 3.0, lr=1e-6),
    "softmax": lambda: SoftmaxRegression(6, 3),
    "perceptron": lambda: MLP(6, 3, [5]),
    "dropout from scratch": lambda: DropoutMLPScratch(6, 3, [7, 5], [0.2, 0.4]),
    "tied layers": Tied,
    "batch normalization": Normalized,
    "frozen and unused parameters": Partial,
}


def make_data(prices: Prices, members: int = 3, classes: bool = False) -> StackedData:
    X, y = prices
    rows = [torch.arange(40).roll(k) for k in range(members)]
    return StackedData(X, (y.argsort() % 3) if classes else y, {"train": rows, "val": rows}, 8, seed=3)


def fit(stacked: StackedModule, data: StackedData, *callbacks: Callback, **flags: Any) -> dict[str, Tensor]:
    """Return all that is left of a fit, with the state of the random numbers."""
    seed_everything(5, verbose=False)
    trainer = lean_trainer(callbacks=list(callbacks), **{"max_epochs": 3, **flags})
    trainer.fit(stacked, data)
    loss = trainer.callback_metrics.get("train/loss", torch.zeros(()))
    return {**stacked.state_dict(), **stacked.evaluated, "train/loss": loss, "rng": torch.get_rng_state()}


def stack(make: Callable[[], SupervisedModule], members: int = 3) -> StackedModule:
    seed_everything(1, verbose=False)
    return StackedModule([make() for _ in range(members)])


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(LossGraph, "__call__", lambda self, *batch, **scales: None)


@pytest.mark.parametrize("name", MEMBERS)
def test_a_fit_by_graphs_is_the_fit_without_them(
    name: str, prices: Prices, eager: Callable[[], None]
) -> None:
    classes = name in ("softmax", "perceptron", "dropout from scratch")
    stacked = stack(MEMBERS[name])
    replayed = fit(stacked, make_data(prices, classes=classes))
    assert stacked._graph._graphs
    eager()
    expected = fit(stack(MEMBERS[name]), make_data(prices, classes=classes))
    assert torch.equal(replayed.pop("rng"), expected.pop("rng"))
    assert replayed.keys() == expected.keys()
    for key, value in replayed.items():
        torch.testing.assert_close(value, expected[key], rtol=2e-5, atol=1e-6, msg=f"{name} {key}")


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("name", ["a network", "perceptron", "batch normalization"])
def test_graphs_have_the_conversions_of_mixed_precision(
    name: str, precision: Any, prices: Prices, eager: Callable[[], None]
) -> None:
    def losses() -> tuple[Tensor, StackedModule]:
        rows: list[Tensor] = []
        stacked = stack(MEMBERS[name])
        accumulate = stacked.accumulate_loss
        stacked.accumulate_loss = lambda loss, batch: (rows.append(loss), accumulate(loss, batch))  # type: ignore[assignment, func-returns-value, return-value]
        plugin = MixedPrecision(precision, "cpu")
        fit(stacked, make_data(prices, classes=name == "perceptron"), plugins=[plugin], max_epochs=1)
        return torch.stack(rows).detach(), stacked

    replayed, stacked = losses()
    (graph,) = stacked._graph._graphs.values()
    half = stacked._graph.autocast
    assert any(node.kwargs.get("dtype") == half for node in graph.graph.nodes)
    eager()
    expected, _ = losses()
    assert torch.equal(replayed[0], expected[0])
    assert not replayed[0].bfloat16().equal(replayed[0])  # sums are not rounded
    torch.testing.assert_close(replayed, expected, rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["linear", "a network", "dropout from scratch"])
def test_replays_have_the_losses_to_the_bit(name: str, prices: Prices) -> None:
    stacked = stack(MEMBERS[name])
    for batch in make_data(prices, classes=name == "dropout from scratch").train_dataloader():
        torch.manual_seed(0)
        losses, *gradients = stacked._graph(*batch)  # type: ignore[misc]
        torch.manual_seed(0)
        expected = stacked.loss(*batch)
        assert torch.equal(losses, expected)
        of_eager = torch.autograd.grad(expected.sum(), stacked._graph.trained)
        for gradient, other in zip(gradients, of_eager, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()))
            assert gradient.is_contiguous()
    assert len(stacked._graph._graphs) == 1


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_a_graph_waits_for_no_value_and_can_be_captured(device: str, prices: Prices) -> None:
    stacked = stack(MEMBERS["linear"]).to(device)
    batch = [x.to(device) for x in next(iter(make_data(prices).train_dataloader()))]
    expected = stacked._graph(*batch)
    (graph,) = stacked._graph._graphs.values()
    reads = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
    assert not any(node.target in reads for node in graph.graph.nodes)
    if device == "cuda":
        captured = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(captured):
            results = graph.forward(*stacked._members.distinct, *batch)
        captured.replay()
        for result, other in zip(results, expected, strict=True):  # type: ignore[arg-type]
            torch.testing.assert_close(result, other)


def test_products_of_transposed_matrices_are_the_same() -> None:
    A, B = torch.randn(3, 7, 4), torch.randn(3, 7, 5)
    graph = traced(lambda A, B: ((A.mT @ B).mT, A.mT @ B, A.view(3, 7, 4) * 2), (A, B))
    assert sum(node.target is torch.ops.aten.view.default for node in graph.graph.nodes) == 0
    one, other, double = graph.forward(A, B)
    torch.testing.assert_close(one, (A.mT @ B).mT)
    torch.testing.assert_close(other, A.mT @ B)
    assert torch.equal(double, A * 2)
    assert one.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_masks_of_dropout_keep_the_share_of_units_that_they_should(dtype: torch.dtype) -> None:
    dropout = torch.vmap(lambda x: (nn.functional.dropout(x, 0.3),), randomness="different")
    ones = torch.ones(4, 250, 100, dtype=dtype)
    graph = traced(dropout, [ones])
    torch.manual_seed(0)
    (masks,) = graph.forward(ones)
    assert masks.dtype == dtype
    kept = masks != 0
    assert torch.equal(masks[kept], (ones / 0.7)[kept])
    # Of 100,000 units, the share that is kept has a standard deviation of 0.0015; of a member's, 0.003.
    assert abs(kept.float().mean() - 0.7) < 0.006
    assert (kept.float().mean(dim=(1, 2)) - 0.7).abs().max() < 0.012
    # Masks of members, and of calls, agree where both keep a unit or both drop it.
    for other in (kept.roll(1, dims=0), graph.forward(ones)[0] != 0):
        assert abs((kept == other).float().mean() - (0.7**2 + 0.3**2)) < 0.006
    torch.manual_seed(0)
    assert torch.equal(graph.forward(ones)[0], masks)


class TwoBiases(Net):
    """A linear model with two parameters that have one gradient, and one whose gradient is one number."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 1, bias=False)
        self.a, self.b, self.c = (nn.Parameter(torch.full((3,), 0.1)) for _ in range(3))

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        return ((self.net(X) + self.a + self.b).mean(dim=-1) - y.log()).square()

    def loss(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        return super().loss(X, y, weight) + self.c.sum()


def test_gradients_that_are_one_tensor_are_clipped_once(prices: Prices, eager: Callable[[], None]) -> None:
    replayed = fit(stack(TwoBiases), make_data(prices), gradient_clip_val=0.1)
    eager()
    expected = fit(stack(TwoBiases), make_data(prices), gradient_clip_val=0.1)
    for key, value in replayed.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6, msg=key)


def test_results_have_memory_of_their_own() -> None:
    x = torch.ones(3)
    graph = traced(lambda x: (x, x.sum(), (2 * x).sum().expand(4), x.view(3, 1)), [x])
    same, total, four, view = graph.forward(x)
    assert (total.item(), four.tolist(), view.tolist()) == (3.0, [6.0] * 4, [[1.0]] * 3)
    for result in (same, four, view):
        result.mul_(2)
    assert x.tolist() == [1.0] * 3
    assert four.tolist() == [12.0] * 4


class UsesTrainer(Net):
    def factor(self) -> float:
        return 0.5**self.current_epoch


class UsesRandom(Net):
    def factor(self) -> float:
        return random.random()


class UsesNumPy(Net):
    def factor(self) -> float:
        return float(np.random.rand())


class Counts(Net):
    def __init__(self) -> None:
        super().__init__()
        self.calls = [0]

    def factor(self) -> float:
        self.calls[0] += 1
        return 1 / self.calls[0]


class Holder:
    def __init__(self) -> None:
        self.value = 1.0


class Annealed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.holder = Holder()

    def factor(self) -> float:
        return self.holder.value


class Masked(Net):
    def __init__(self) -> None:
        super().__init__()
        self.mask = torch.ones(())

    def factor(self) -> Tensor:
        return self.mask


class Hooked(Net):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.net.register_forward_hook(self.count)

    def count(self, *_: Any) -> None:
        self.calls += 1


class Change(Callback):
    """Changes a member after the first epoch."""

    def __init__(self, change: Callable[[Any], None]) -> None:
        self.change = change

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 0:
            self.change(pl_module.stacked)


def anneal(member: Any) -> None:
    member.holder.value = 0.1


def fill(member: Any) -> None:
    member.mask.fill_(0.1)


def freeze(member: Any) -> None:
    member.net[0].requires_grad_(False)


CHANGING: list[tuple[type[Net], tuple[Callback, ...]]] = [
    (UsesTrainer, ()),
    (UsesRandom, ()),
    (UsesNumPy, ()),
    (Counts, ()),
    (Hooked, ()),
    (Annealed, (Change(anneal),)),
    (Masked, (Change(fill),)),
    (Net, (Change(freeze),)),
]


@pytest.mark.parametrize(("kind", "callbacks"), CHANGING, ids=lambda x: getattr(x, "__name__", ""))
def test_what_is_not_a_function_of_tensors_is_not_replayed(
    kind: type[Net], callbacks: tuple[Callback, ...], prices: Prices, eager: Callable[[], None]
) -> None:
    stacked = stack(kind)
    left = fit(stacked, make_data(prices), *callbacks)
    assert not stacked._graph.enabled
    if kind is Hooked:
        assert stacked.stacked.calls >= 15
    eager()
    expected = fit(stack(kind), make_data(prices), *callbacks)
    for key, value in left.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6, msg=key)
    plain = fit(stack(Net), make_data(prices))
    if kind is not Hooked:
        assert not torch.allclose(plain["stacked.net.0.weight"], left["stacked.net.0.weight"], rtol=1e-4)


def test_a_resumed_fit_knows_that_nothing_is_replayed() -> None:
    stacked = stack(Net)
    assert stacked.fit_state()["replays"]
    stacked._graph.enabled = False
    again = stack(Net)
    again.load_fit_state(stacked.fit_state())
    assert not again._graph.enabled


def test_the_next_fit_traces_again(prices: Prices) -> None:
    stacked = stack(Annealed)
    fit(stacked, make_data(prices), Change(anneal))
    assert not stacked._graph.enabled
    fit(stacked, make_data(prices))
    assert stacked._graph.enabled


def test_tracing_changes_neither_buffers_nor_random_numbers(prices: Prices) -> None:
    stacked = stack(Normalized)
    batch = next(iter(make_data(prices).train_dataloader()))
    before = {name: value.clone() for name, value in stacked.state_dict().items()}
    states = torch.get_rng_state(), random.getstate()
    assert stacked._graph._trace(stacked._members.distinct, batch) is not None
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    for name, value in stacked.state_dict().items():
        assert torch.equal(value, before[name])


def test_an_error_in_a_loss_is_raised_as_without_a_graph(prices: Prices) -> None:
    class Wrong(Net):
        def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
            return self.net(X)

    with pytest.raises(InputError, match="example_losses of Wrong"):
        fit(stack(Wrong), make_data(prices))


def test_anomalies_are_found_in_a_stack(prices: Prices) -> None:
    class Root(Net):
        def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
            return (super().example_losses(X, y) * 0).sqrt()

    with pytest.raises(RuntimeError, match="returned nan values"):
        fit(stack(Root), make_data(prices), detect_anomaly=True)


def test_folds_are_of_one_shape(prices: Prices) -> None:
    """Padding makes one graph do for all batches."""
    train, val = k_fold(47, 5)
    stacked = stack(MEMBERS["linear"], 5)
    fit(stacked, StackedData(*prices, {"train": train, "val": val}, 8, seed=3))
    assert len(stacked._graph._graphs) == 1


def test_the_first_steps_of_a_fit_are_not_replayed(prices: Prices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StackedModule, "replay_from", 7)
    stacked = stack(MEMBERS["linear"])
    steps: list[int] = []
    replay = LossGraph.__call__

    def count(self: LossGraph, *batch: Tensor, **scales: Any) -> Any:
        steps.append(stacked.trainer.fit_loop.epoch_loop.total_batch_idx)
        return replay(self, *batch, **scales)

    monkeypatch.setattr(LossGraph, "__call__", count)
    fit(stacked, make_data(prices))
    assert steps == list(range(7, 15))
