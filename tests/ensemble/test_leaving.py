"""Members leave a stack in the middle of a fit, and the others train on as if nobody had left."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from torch import Tensor, nn

from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.linear_regression import LinearRegressionScratch
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.models.table_regressor import TableRegressor
from tests.conftest import lean_trainer
from tests.ensemble.test_idle_members import Momentum, Normalized, Scheduled

Prices = tuple[Tensor, Tensor]
Make = Callable[[int], SupervisedModule]
NAMES = ["a1", "a2", "b1", "b2", "c1", "c2", "all"]
# In the epochs from 0 on. After b has left, a and c, which have equal settings, are neighbours.
LEAVING = {1: ["b1", "b2"], 3: ["all"]}


class Recorded(StackedModule):
    """Keeps the metrics that it logs, by epoch, metric and member."""

    def log_metrics(self, metrics: dict[str, Tensor]) -> None:
        rows = vars(self).setdefault("rows", {})
        for metric, values in metrics.items():
            for name, value in zip(self.names, values.tolist(), strict=True):
                rows[self.current_epoch, metric, name] = repr(value)
        super().log_metrics(metrics)


class Leaving(Callback):
    """Drops members before epochs."""

    def __init__(self, leaving: Mapping[int, Sequence[str]]) -> None:
        self.leaving = leaving

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        gone = self.leaving.get(trainer.current_epoch, [])
        module.keep([k for k, name in enumerate(module.names) if name not in gone])


class RMSprop(PriceRegressor):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(self.parameters(), lr=0.01, momentum=0.5)


def other(k: int) -> bool:
    """Return whether a member has other settings than its neighbours."""
    return k in (2, 3, 6)


def table(k: int, **settings: Any) -> TableRegressor:
    own: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.3} if other(k) else {"l1": 0.3}
    recipe: dict[str, Any] = {"log_target": True, "metric": "log_rmse", "optimizer": "adamw"}
    return TableRegressor(6, [16], **{**recipe, "lr": 0.01, **own, **settings})


MEMBERS: dict[str, tuple[Make, dict[str, Any]]] = {
    "fused Adam": (lambda k: PriceRegressor(6, lr=2.0 + other(k)), {}),
    "proximal AdamW, cosine": (lambda k: table(k, schedule="cosine"), {}),
    "proximal AdamW, clipped": (lambda k: table(k, schedule="cosine"), {"gradient_clip_val": 0.5}),
    "SGD with momentum": (lambda k: Momentum(6), {}),
    "RMSprop": (lambda k: RMSprop(6, [32], log_price=True), {}),
    "SGD from scratch": (lambda k: LinearRegressionScratch(6, lr=1e-4), {}),
    "batch normalization": (lambda k: Normalized(6, [16], log_price=True, lr=0.05 + 0.01 * other(k)), {}),
    "a scheduler": (lambda k: Scheduled(6, lr=2.0 + other(k)), {}),
    "dropout": (lambda k: table(k, dropout=0.3 if other(k) else 0.1), {"streams": [0, 1, 0, 1, 0, 1, 2]}),
}


def fitted(
    make: Make, prices: Prices, leaving: Mapping[int, Sequence[str]], streams: Any = None, **flags: Any
) -> Recorded:
    train, val = k_fold(47, 2)
    rows = {"train": [*train * 3, torch.arange(47)], "val": [*val * 3, torch.arange(0)]}
    if make is MEMBERS["RMSprop"][0]:  # it cannot leave out members
        rows["train"] = [torch.arange(k, k + 40) for k in range(7)]
    seed_everything(3, verbose=False)
    module = Recorded([make(k) for k in range(7)], NAMES, streams=streams)
    data = StackedData(*prices, rows, 8, seed=5, streams=streams)
    lean_trainer(max_epochs=5, callbacks=[Leaving(leaving)], **flags).fit(module, data)
    return module


@pytest.mark.parametrize("case", MEMBERS)
def test_members_that_stay_are_trained_to_the_same_bits(
    case: str, prices: Prices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StackedModule, "replay_from", 8)  # an epoch has 6 steps
    make, flags = MEMBERS[case]
    full, left = (fitted(make, prices, leaving, **flags) for leaving in ({}, LEAVING))
    assert left.names == ["a1", "a2", "c1", "c2"]
    stay = [NAMES.index(name) for name in left.names]
    optimizers: Any = [module.trainer.optimizers[0] for module in (full, left)]
    for ours, theirs in zip(full.parameters(), left.parameters(), strict=True):
        assert torch.equal(ours[stay], theirs)
        states = [optimizer.state.get(p, {}) for optimizer, p in zip(optimizers, (ours, theirs), strict=True)]
        assert states[0].keys() == states[1].keys()
        for name, value in states[0].items():
            assert torch.equal(value[stay] if value.ndim else value, states[1][name])
    for buffer, other in zip(full.buffers(), left.buffers(), strict=True):
        assert torch.equal(buffer[stay], other)
    rows = {key: value for key, value in full.rows.items() if key in left.rows}
    assert rows == left.rows
    assert {key for key in full.rows if key not in rows} == {
        (epoch, metric, name)
        for epoch, metric, name in full.rows
        for first, names in LEAVING.items()
        if name in names and epoch >= first
    }


def test_members_can_leave_before_a_fit_and_come_back_as_modules(prices: Prices) -> None:
    members = [PriceRegressor(6, lr=1.0 + k) for k in range(3)]
    module = StackedModule(members, averaged=["member_2"])
    module.keep([0, 1, 2])
    assert module.num_members == 3
    module.keep([0, 2])
    assert module.names == ["member_1", "member_3"]
    for member, own in zip((members[0], members[2]), module.unstack(), strict=True):
        assert own.hparams == member.hparams
        assert all(map(torch.equal, own.parameters(), member.parameters()))
    data = StackedData(*prices, {"train": [torch.arange(40)] * 2}, 8, seed=5)
    lean_trainer(max_epochs=1).fit(module, data)


@pytest.mark.parametrize("indices", [[], [0, 0], [1, 0], [-1, 0], [0, 3]])
def test_members_that_stay_must_be_ascending_indices(indices: list[int], prices: Prices) -> None:
    message = r"^indices must be different numbers from 0 to 2 in ascending order, not \["
    data = StackedData(*prices, {"train": [torch.arange(40)] * 3}, 8, seed=5)
    for whole in (StackedModule([PriceRegressor(6) for _ in range(3)]), data):
        with pytest.raises(InputError, match=message):
            whole.keep(indices)


def test_a_fit_with_other_data_cannot_drop_members(prices: Prices) -> None:
    loader = StackedData(*prices, {"train": [torch.arange(40)] * 2}, 8, seed=5).train_dataloader()
    module = StackedModule([PriceRegressor(6) for _ in range(2)], ["a", "b"])
    with pytest.raises(InputError, match="members can only be dropped in a fit whose data are"):
        lean_trainer(max_epochs=2, callbacks=[Leaving({1: ["a"]})]).fit(module, loader)


class Fails(nn.Module):
    """Makes all that it gets infinite, once a buffer says so."""

    bad: Tensor

    def __init__(self, bad: bool) -> None:
        super().__init__()
        self.register_buffer("bad", torch.tensor(1.0 if bad else 0.0), persistent=False)

    def forward(self, X: Tensor) -> Tensor:
        return X / (1 - self.bad)


@pytest.mark.parametrize("flags", [{}, {"gradient_clip_val": 0.5}])
def test_a_member_that_diverges_is_noted_and_changes_nothing_for_the_others(
    flags: dict[str, Any], prices: Prices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StackedModule, "replay_from", 4)
    data = [StackedData(*prices, {s: [torch.arange(40)] * 4 for s in ("train", "val")}, 8, 5) for _ in "12"]
    fits = []
    for bad, own in zip((True, False), data, strict=True):
        seed_everything(3, verbose=False)
        members = [PriceRegressor(6, [16], log_price=True, lr=0.01) for _ in range(4)]
        for k, member in enumerate(members):
            member.net.insert(0, Fails(bad and k == 1))
        module = Recorded(members, raise_on_divergence=not bad)
        lean_trainer(max_epochs=3, **flags).fit(module, own)
        fits.append(module)
    diverged, sound = fits
    message = "the training loss became nan in epoch 1; a lower lr or a gradient_clip_val may help"
    assert diverged.diverged == {"member_2": message}
    assert sound.diverged == {}
    for ours, theirs in zip(diverged.parameters(), sound.parameters(), strict=True):
        assert torch.equal(ours[[0, 2, 3]], theirs[[0, 2, 3]])
    others = {key: value for key, value in sound.rows.items() if key[2] != "member_2"}
    assert {key: value for key, value in diverged.rows.items() if key[2] != "member_2"} == others
    mean = sum(float(diverged.rows[2, "val/log_rmse", f"member_{k}"]) for k in (1, 3, 4)) / 3
    assert diverged.trainer.callback_metrics["val/log_rmse"].item() == pytest.approx(mean, rel=1e-6)


def test_a_member_whose_loss_grows_by_orders_of_magnitude_is_noted(prices: Prices) -> None:
    data = StackedData(*prices, {"train": [torch.arange(40)] * 2}, 8, 5)
    members = [LinearRegressionScratch(6, lr=1e-4) for _ in range(2)]
    module = StackedModule(members, ["a", "b"], raise_on_divergence=False)
    trainer = lean_trainer(max_epochs=1)
    trainer.fit(module, data)
    assert module.diverged == {}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter[1] += 1e5
    module._epoch_loss = torch.tensor([1.0, 1e30])
    module.on_train_end()
    assert list(module.diverged) == ["b"]
    assert "grew from" in module.diverged["b"]
