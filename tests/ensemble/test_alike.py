"""Members are of one structure, and come back as what was trained."""

import copy
import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import DivergenceError, InputError
from d2l_lightning.models.mlp import MLP
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.models.softmax_regression import SoftmaxRegression
from d2l_lightning.models.weight_decay import WeightDecayScratch

MakeTrainer = Callable[..., Trainer]
Change = Callable[[Any], Any]


def made(**settings: Any) -> PriceRegressor:
    return PriceRegressor(6, **{"hidden_sizes": [5, 5], "log_price": True, "lr": 0.01, **settings})


def data_of(prices: tuple[Tensor, Tensor], k: int = 2, **settings: Any) -> StackedData:
    rows = {"train": [torch.arange(40 - i) for i in range(k)], "val": [torch.arange(40, 47)] * k}
    return StackedData(*prices, rows, **{"batch_size": 11, "seed": 0, **settings})


def replace_layer(index: int, layer: Callable[[], nn.Module]) -> Change:
    def change(member: Any) -> None:
        member.net[index] = layer()

    return change


def tie(member: Any) -> None:
    member.net[3].weight = nn.Parameter(torch.randn(5, 5))
    member.net.append(nn.Linear(1, 1))
    member.net.insert(3, nn.Linear(5, 5))
    member.net[3].weight = member.net[4].weight


CHANGES: dict[str, Change] = {
    "activation": replace_layer(1, nn.Softplus),
    "normalization": replace_layer(2, lambda: nn.BatchNorm1d(5)),
    "appended layer": lambda member: member.net.append(nn.Linear(1, 1)),
    "shared weights": tie,
    "shared layer": lambda member: member.net.insert(3, member.net[3]),
    "parametrization": lambda member: parametrizations.weight_norm(member.net[3]),
    "frozen": lambda member: member.net[0].requires_grad_(False),
    "evaluation mode": lambda member: member.net[2].eval(),
    "attribute": lambda member: setattr(member, "log_price", False),
    "buffer": lambda member: member.register_buffer("scale", torch.rand(3)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_unstacking_returns_what_was_trained(
    change: Change, prices: tuple[Tensor, Tensor], trainer: MakeTrainer
) -> None:
    torch.manual_seed(0)
    members = [made(), made()]
    for member in members:
        change(member)
    alone = copy.deepcopy(members)
    data, stacked = data_of(prices), StackedModule(members)
    fit = trainer(max_epochs=2)
    fit.fit(stacked, data)
    for k, (start, back) in enumerate(zip(alone, stacked.unstack(), strict=True)):
        before, batches = copy.deepcopy(start.state_dict()), []
        for epoch in range(2):
            data.batches.set_epoch(epoch)
            batches += [(X[k][w[k] > 0], y[k][w[k] > 0]) for X, y, w in data.train_dataloader()]
        optimizer = start.configure_optimizers()
        for batch in batches:
            optimizer.zero_grad()
            start.loss(*batch).backward()
            optimizer.step()
        assert str(back) == str(start)
        assert [m.training for m in back.modules()] == [m.training for m in start.modules()]
        assert any(not torch.equal(value, before[name]) for name, value in start.state_dict().items())
        for name, value in start.state_dict().items():
            torch.testing.assert_close(back.state_dict()[name], value, rtol=5e-3, atol=1e-3)
        trained = {name: p.requires_grad for name, p in start.named_parameters()}
        assert {name: p.requires_grad for name, p in back.named_parameters()} == trained
        torch.testing.assert_close(back.eval()(prices[0]), start.eval()(prices[0]), rtol=5e-3, atol=1e-3)
        assert back._trainer is None


def test_members_do_not_share_weights_with_each_other_or_the_stack() -> None:
    stacked = StackedModule([made(), made()])
    one, other = stacked.unstack()
    before = [copy.deepcopy(module.state_dict()) for module in (other, stacked)]
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.fill_(7.0)
    for module, state in zip((other, stacked), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert all(parameter.is_leaf for parameter in one.parameters())


def test_a_member_takes_neither_the_trainer_nor_the_data_with_it(
    prices: tuple[Tensor, Tensor], trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacked, sizes = StackedModule([made(), made()]), []

    def unstack(self: StackedModule) -> None:
        assert self.stacked._trainer is not None
        sizes.extend(len(pickle.dumps(member)) for member in self.unstack())

    monkeypatch.setattr(StackedModule, "on_train_end", unstack)
    trainer(max_epochs=1).fit(stacked, data_of(prices))
    assert max(sizes) < 2 * len(pickle.dumps(made()))


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true"])
def test_members_have_the_type_and_the_settings_that_were_trained(
    precision: Any, prices: tuple[Tensor, Tensor], trainer: MakeTrainer, tmp_path: Path
) -> None:
    members = [WeightDecayScratch(6, lambd, lr=0.001) for lambd in (0.5, 2.0)]
    stacked = StackedModule(members)
    fit = trainer(max_epochs=1, precision=precision, limit_val_batches=0)
    fit.fit(stacked, data_of((prices[0], prices[1].log())))
    dtype = {"32-true": torch.float32, "64-true": torch.float64, "bf16-true": torch.bfloat16}[precision]
    for member, lambd in zip(stacked.unstack(), (0.5, 2.0), strict=True):
        assert isinstance(member, WeightDecayScratch)
        assert {tensor.dtype for tensor in (member.w, member.b, member.lambd)} == {dtype}
        assert member.lambd.item() == member.hparams["lambd"] == member.hparams_initial["lambd"] == lambd
        writer = trainer()
        writer.strategy.connect(member)
        writer.save_checkpoint(tmp_path / "member.ckpt", weights_only=True)
        loaded = WeightDecayScratch.load_from_checkpoint(tmp_path / "member.ckpt")
        assert loaded.hparams == member.hparams
        assert torch.equal(loaded.w, member.w.to(loaded.w.dtype))


def act(slope: float) -> Callable[[Tensor], Tensor]:
    return lambda H: slope * H


def nothing(member: Any) -> None: ...


def with_attribute(name: str, value: Any) -> Change:
    return lambda member: setattr(member, name, value)


def untie(member: Any) -> None:
    tie(member)
    member.net[3] = nn.Linear(5, 5)


DIFFERENCES: dict[str, tuple[Change, Change, str]] = {
    "activation": (replace_layer(1, nn.Softplus), nothing, r"member_2 differs from member_1 in net\.1"),
    "slope": (
        *(replace_layer(1, partial(nn.LeakyReLU, slope)) for slope in (0.1, 0.2)),
        r"in net\.1\.negative_slope",
    ),
    "width": (replace_layer(6, lambda: nn.Linear(5, 2)), nothing, r"in net\.6\.out_features"),
    "type": (lambda member: member.net[6].double(), nothing, r"in net\.6\.weight"),
    "shared weights": (tie, untie, r"in net\.4\.weight"),
    "layer in some": (lambda member: member.net.append(nn.ReLU()), nothing, r"in net\.7"),
    "mode": (lambda member: member.eval(), nothing, "in training"),
    "bias": (replace_layer(6, lambda: nn.Linear(5, 1, bias=False)), nothing, r"in net\.6\.bias"),
    "attribute": (with_attribute("log_price", False), nothing, "in log_price"),
    "function": (with_attribute("act", act(1.0)), with_attribute("act", act(2.0)), "in act"),
    "class": (with_attribute("kind", nn.ReLU), with_attribute("kind", nn.Tanh), "in kind"),
    "number type": (with_attribute("t", torch.float32), with_attribute("t", torch.float64), "in t"),
    "tensor": (with_attribute("t", torch.zeros(2)), with_attribute("t", torch.zeros(1)), "in t"),
    "hook": (lambda member: member.net.register_forward_hook(print), nothing, r"in net\._forward_hooks"),
    "modules in a list": (
        *(lambda member: setattr(member, "parts", [nn.Linear(2, 2)]),) * 2,
        "in parts",
    ),
}


@pytest.mark.parametrize(("first", "second", "message"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_members_that_differ_beyond_their_weights_are_an_error(
    first: Change, second: Change, message: str
) -> None:
    members = [made(), made()]
    first(members[0])
    second(members[1])
    with pytest.raises(InputError, match=f"{message}; members must be of one structure"):
        StackedModule(members)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-2, 2), min_size=1, max_size=3), st.floats(-2, 2), st.sampled_from([list, tuple]))
def test_members_with_equal_attributes_are_alike(values: list[float], scale: float, kind: Any) -> None:
    def member() -> PriceRegressor:
        new: Any = made()
        new.values, new.table, new.weights = kind(values), {"a": kind(values)}, torch.tensor(values)
        new.act, new.bound, new.part = act(scale), new.forward, partial(torch.clamp, min=scale)
        return new

    members = [member(), member()]
    assert len(StackedModule(members).unstack()) == 2
    members[1].part = partial(torch.clamp, min=scale + 1)  # type: ignore[assignment]
    with pytest.raises(InputError, match="differs from member_1 in part"):
        StackedModule(members)


@pytest.mark.parametrize("method", ["training_step", "backward", "configure_gradient_clipping"])
def test_methods_that_would_not_be_called_are_an_error(method: str) -> None:
    kind: Any = type("Own", (PriceRegressor,), {method: lambda self, *args: None})
    with pytest.raises(
        InputError, match=f"{method} of Own is not called for members .* train each member alone"
    ):
        StackedModule([kind(6), kind(6)])


def test_a_buffer_that_is_replaced_instead_of_changed_is_an_error(prices: tuple[Tensor, Tensor]) -> None:
    class Counting(PriceRegressor):
        def forward(self, X: Tensor) -> Tensor:
            self.count = self.count + 1 if self.replaced else self.count.add_(1)
            return super().forward(X)

    members: list[Any] = [Counting(6), Counting(6)]
    for replaced in (False, True):
        for member in members:
            member.register_buffer("count", torch.zeros(()))
            member.replaced = replaced
        stacked = StackedModule(members)
        if replaced:
            with pytest.raises(InputError, match=r"count is replaced in forward; change it in place"):
                stacked(prices[0])
        else:
            stacked(prices[0])
            assert [member.count.item() for member in stacked.unstack()] == [1, 1]  # type: ignore[operator, union-attr]


NORMS: list[dict[str, Any]] = [{"momentum": None}, {"affine": False}, {"track_running_stats": False}]


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(6, 12), min_size=1, max_size=3),
    batch_size=st.integers(2, 13),
    layer=st.sampled_from([nn.BatchNorm1d, *(partial(nn.BatchNorm1d, **s) for s in NORMS)]),
)
def test_padding_does_not_count_in_batch_normalization(sizes: list[int], batch_size: int, layer: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    X, y = torch.randn(12, 4, generator=generator), torch.arange(12) % 2
    rows = [torch.arange(size) for size in sizes]
    members = [MLP(4, 2, [3], sigma=1.0) for _ in sizes]
    for member in members:
        member.net.insert(1, layer(3))
    try:
        data = StackedData(X, y, {"train": rows}, batch_size, seed=0)
    except InputError:  # a member has fewer rows than there are steps
        return
    alone, stacked = copy.deepcopy(members), StackedModule(members)
    for X_batch, y_batch, weight in data.train_dataloader():
        if (weight.sum(dim=1) < 2).any():
            continue
        losses = stacked.loss(X_batch, y_batch, weight)
        losses.sum().backward()
        for k, (member, kept) in enumerate(zip(alone, weight > 0, strict=True)):
            loss = member.loss(X_batch[k][kept], y_batch[k][kept])
            loss.backward()
            torch.testing.assert_close(losses[k], loss)
            for name, parameter in member.named_parameters():
                gradient = stacked.stacked.get_parameter(name).grad
                assert gradient is not None
                torch.testing.assert_close(gradient[k], parameter.grad, rtol=1e-4, atol=1e-5)
    for member, back in zip(alone, stacked.unstack(), strict=True):
        for name, value in member.state_dict().items():
            torch.testing.assert_close(back.state_dict()[name], value)


def test_a_member_whose_batch_has_one_row_is_an_error(trainer: MakeTrainer) -> None:
    rows = {"train": [torch.arange(9), torch.arange(8)], "val": [torch.arange(9)] * 2}
    data = StackedData(torch.randn(9, 4), torch.arange(9) % 2, rows, batch_size=4, seed=0)
    stacked = StackedModule([MLP(4, 2, [3], batch_norm=True) for _ in range(2)])
    with pytest.raises(InputError, match="batch of one row; choose another batch_size"):
        trainer(max_epochs=1).fit(stacked, data)


def test_a_member_that_diverges_on_padded_batches_is_not_said_to_mix_rows(trainer: MakeTrainer) -> None:
    rows = {"train": [torch.arange(5)] * 2, "val": [torch.arange(5)] * 2}
    data = StackedData(torch.randn(5, 4), torch.arange(5) % 2, rows, batch_size=3, seed=0)
    stacked = StackedModule([SoftmaxRegression(4, 2, lr=1e37) for _ in range(2)])
    with suppress(DivergenceError):
        trainer(max_epochs=2).fit(stacked, data)
    assert stacked._padding._rows_are_separate


class Centred(MLP):
    """A perceptron that mixes the rows of a batch, and draws random numbers."""

    mixes = True

    def forward(self, X: Tensor) -> Tensor:
        X = nn.functional.dropout(X, 0.5, self.training)
        return super().forward(X - X.mean(dim=0) if self.mixes else X)


@pytest.mark.parametrize("mixes", [True, False])
def test_members_that_mix_rows_are_refused_where_batches_are_padded(
    trainer: MakeTrainer, mixes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(Centred, "mixes", mixes)
    rows = {"train": [torch.arange(9), torch.arange(8)], "val": [torch.arange(9)] * 2}
    X, y = torch.randn(9, 4), torch.arange(9) % 2
    padded = StackedData(X, y, rows, batch_size=3, seed=0)
    full = StackedData(X, y, {**rows, "train": [torch.arange(9)] * 2}, batch_size=3, seed=0)
    trainer(max_epochs=1).fit(StackedModule([Centred(4, 2, [3]) for _ in range(2)]), full)
    stacked = StackedModule([Centred(4, 2, [3]) for _ in range(2)])
    if mixes:
        with pytest.raises(InputError, match=r"mixes the rows of a batch.*choose a batch_size that divides"):
            trainer(max_epochs=1).fit(stacked, padded)
        return
    # The check takes no random numbers of the fit.
    unchecked = copy.deepcopy(stacked)
    monkeypatch.setattr(unchecked._padding, "require_separate_rows", lambda *_: None)
    for module in (stacked, unchecked):
        torch.manual_seed(3)
        trainer(max_epochs=1).fit(module, padded)
    for value, other in zip(stacked.parameters(), unchecked.parameters(), strict=True):
        assert torch.equal(value, other)
