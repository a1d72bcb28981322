"""Members that are trained side by side end as members that are trained alone."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import DataLoader

from d2l_lightning.callbacks.history import History
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.functional.regression import log_rmse
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.layers import Dropout
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.models.table_regressor import TableRegressor

Data = tuple[Tensor, Tensor]
MODELS: dict[str, dict[str, Any]] = {
    "linear": {"lr": 2.0},
    "linear, decayed": {"lr": 2.0, "weight_decay": 0.1},
    "linear, log price": {"lr": 0.05, "log_price": True},
    "mlp": {"lr": 0.01, "hidden_sizes": [16, 8], "log_price": True, "activation": "tanh"},
    "mlp, raw price": {"lr": 1.0, "hidden_sizes": [16]},
}


def make_members(k: int, **settings: Any) -> list[PriceRegressor]:
    seed_everything(3, verbose=False)
    return [PriceRegressor(6, **settings) for _ in range(k)]


class FoldAlone(LightningDataModule):
    """The batches of one fold of a StackedData, without padding."""

    def __init__(self, data: StackedData, fold: int) -> None:
        super().__init__()
        self.data, self.fold = data, fold

    def train_dataloader(self) -> Any:
        return FoldLoader(self.data.train_dataloader(), self.fold)

    def val_dataloader(self) -> Any:
        X, y, weight = next(iter(self.data.val_dataloader()))
        if y.ndim > 1:
            X, y = X[self.fold], y[self.fold]
        batch = X, y, {stage: w[self.fold] for stage, w in weight.items()}
        return DataLoader([batch], batch_size=None)  # type: ignore[arg-type, list-item]


class FoldLoader:
    """Yields the rows of one fold of each stacked batch."""

    def __init__(self, loader: Any, fold: int) -> None:
        self.loader, self.fold, self.sampler = loader, fold, loader.sampler

    def __len__(self) -> int:
        steps: int = self.loader.batches.steps[self.fold]
        return steps

    def __iter__(self) -> Any:
        for X, y, weight in self.loader:
            real = weight[self.fold] > 0
            if real.any():
                yield X[self.fold][real], y[self.fold][real]


@pytest.mark.parametrize("clip", [None, 0.5], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
def test_a_stacked_fold_equals_the_fold_trained_alone(
    prices: Data, trainer: Callable[..., Trainer], settings: dict[str, Any], clip: float | None
) -> None:
    X, y = prices
    k = 4  # folds of 12, 12, 12 and 11 rows, so 35 or 36 training rows: batches of 8 and a smaller one
    train, val = k_fold(len(y), k)
    members = make_members(k, **settings)
    alone = copy.deepcopy(members)
    data = StackedData(X, y, {"train": train, "val": val}, batch_size=8, seed=5)
    stacked = StackedModule(members)
    trainer(max_epochs=8, gradient_clip_val=clip).fit(stacked, data)
    for fold, model in enumerate(alone):
        start = copy.deepcopy(model.state_dict())
        trainer(max_epochs=8, gradient_clip_val=clip).fit(model, FoldAlone(data, fold))
        trained = stacked.unstack()[fold].state_dict()
        for name, weights in model.state_dict().items():
            torch.testing.assert_close(trained[name], weights, rtol=2e-4, atol=1e-5)
            assert not torch.allclose(weights, start[name], rtol=1e-2)  # it was trained
        for metric, value in model.evaluated.items():
            torch.testing.assert_close(stacked.evaluated[metric][fold], value, rtol=1e-4, atol=1e-6)


def test_folds_whose_numbers_of_batches_differ_by_one_train_as_alone(
    prices: Data, trainer: Callable[..., Trainer]
) -> None:
    X, y = prices[0][:43], prices[1][:43]
    train, val = k_fold(43, 4)  # 32 or 33 training rows: four batches of 8, or five
    members = make_members(4, lr=2.0)
    alone = copy.deepcopy(members)
    data = StackedData(X, y, {"train": train, "val": val}, batch_size=8, seed=5)
    stacked = StackedModule(members)
    trainer(max_epochs=3).fit(stacked, data)
    for fold, model in enumerate(alone):
        trainer(max_epochs=3).fit(model, FoldAlone(data, fold))
        for name, weights in model.state_dict().items():
            torch.testing.assert_close(
                stacked.unstack()[fold].state_dict()[name], weights, rtol=2e-4, atol=1e-5
            )


def test_members_with_features_of_their_own_train_as_alone(
    prices: Data, trainer: Callable[..., Trainer]
) -> None:
    X, y = prices
    train, val = k_fold(len(y), 3)
    own = torch.stack([X * (fold + 1) - fold for fold in range(3)])
    members = make_members(3, lr=2.0)
    alone = copy.deepcopy(members)
    rows = {"train": train, "val": val}
    stacked = StackedModule(members)
    trainer(max_epochs=4).fit(stacked, StackedData(own, y.expand(3, -1), rows, 16, seed=1))
    for fold, model in enumerate(alone):
        shared = StackedData(own[fold], y, rows, 16, seed=1)
        trainer(max_epochs=4).fit(model, FoldAlone(shared, fold))
        torch.testing.assert_close(
            stacked.evaluated["val/log_rmse"][fold], model.evaluated["val/log_rmse"], rtol=1e-4, atol=1e-6
        )


def test_a_stacked_fit_equals_a_pytorch_loop(prices: Data, trainer: Callable[..., Trainer]) -> None:
    X, y = prices
    rows = {"train": [torch.arange(len(y))] * 2, "val": [torch.arange(9), torch.arange(9, 20)]}
    members = make_members(2, lr=2.0)
    nets = [copy.deepcopy(member.net) for member in members]
    data = StackedData(X, y, rows, batch_size=10, seed=2)
    stacked = StackedModule(members)
    trainer(max_epochs=3).fit(stacked, data)
    loader = data.train_dataloader()
    for fold, net in enumerate(nets):
        optimizer = torch.optim.Adam(net.parameters(), lr=2.0)
        for epoch in range(3):
            data.batches.set_epoch(epoch)
            for X_batch, y_batch, weight in loader:
                real = weight[fold] > 0
                loss = nn.functional.mse_loss(net(X_batch[fold][real]).squeeze(1), y_batch[fold][real]) / 2
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        expected = log_rmse(net(X).squeeze(1), y)
        torch.testing.assert_close(stacked.evaluated["train/log_rmse"][fold], expected, rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_by_the_norm_of_each_member() -> None:
    members = make_members(3, hidden_sizes=[4])
    stacked = StackedModule(members)
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([0.001, 1.0, 50.0])  # norms below, about and above the limit
    for p, *alone in zip(stacked.parameters(), *(m.parameters() for m in members), strict=True):
        p.grad = torch.randn(p.shape, generator=generator) * scales.view(-1, *[1] * (p.ndim - 1))
        for gradient, parameter in zip(p.grad, alone, strict=True):
            parameter.grad = gradient.clone()
    stacked.configure_gradient_clipping(torch.optim.SGD(stacked.parameters()), 1.0, "norm")
    for k, member in enumerate(members):
        nn.utils.clip_grad_norm_(member.parameters(), 1.0)
        for p, parameter in zip(stacked.parameters(), member.parameters(), strict=True):
            assert p.grad is not None
            torch.testing.assert_close(p.grad[k], parameter.grad)


def test_gradients_can_be_clipped_by_value(prices: Data, trainer: Callable[..., Trainer]) -> None:
    X, y = prices
    rows = {"train": [torch.arange(len(y))], "val": [torch.arange(len(y))]}
    (member,) = make_members(1, lr=2.0)
    alone = copy.deepcopy(member)
    data = StackedData(X, y, rows, batch_size=16, seed=0)
    flags = {"max_epochs": 2, "gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}
    stacked = StackedModule([member])
    trainer(**flags).fit(stacked, data)
    trainer(**flags).fit(alone, FoldAlone(data, 0))
    torch.testing.assert_close(stacked.evaluated["val/log_rmse"][0], alone.evaluated["val/log_rmse"])


def test_unstacking_returns_the_members_that_were_stacked(prices: Data) -> None:
    members = make_members(3, hidden_sizes=[5], log_price=True)
    stacked = StackedModule(members)
    together = stacked(prices[0])
    assert together.shape == (3, 47)
    for member, back, row in zip(members, stacked.unstack(), together, strict=True):
        assert torch.equal(member(prices[0]), back(prices[0]))
        torch.testing.assert_close(row, member(prices[0]))


def test_members_have_their_own_dropout_when_they_are_alone_again() -> None:
    members = [TableRegressor(6, [5], dropout=p, label_noise=p / 2) for p in (0.2, 0.4, 0.6)]
    module = StackedModule(members)
    module.keep([0, 2])
    for member, p in zip(module.unstack(), (0.2, 0.6), strict=True):
        assert isinstance(member, TableRegressor)
        assert member.hparams["dropout"] == p
        assert [m.p for m in member.modules() if isinstance(m, Dropout)] == [torch.tensor(p)]
        assert member.label_noise == torch.tensor(p / 2)


def test_dropout_draws_a_mask_for_each_member(prices: Data) -> None:
    (member,) = make_members(1, hidden_sizes=[64], dropout=0.5, log_price=True)
    stacked = StackedModule([member, copy.deepcopy(member)])
    first, second = stacked(prices[0])
    assert not torch.allclose(first, second)
    stacked.eval()
    first, second = stacked(prices[0])
    torch.testing.assert_close(first, second)


def test_members_may_differ_in_a_buffer(prices: Data) -> None:
    X, y = prices
    members = [Penalised(strength) for strength in (0.0, 0.5, 2.0)]
    stacked = StackedModule(members)
    losses = stacked.loss(X.expand(3, -1, -1), y.expand(3, -1))
    for member, loss in zip(members, losses, strict=True):
        torch.testing.assert_close(loss, member.loss(X, y))
    assert losses[2] > losses[1] > losses[0]


class Penalised(SupervisedModule):
    """A linear model whose penalty is a buffer."""

    strength: Tensor

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.net = nn.Linear(6, 1)
        nn.init.ones_(self.net.weight)
        nn.init.zeros_(self.net.bias)
        self.register_buffer("strength", torch.tensor(strength))

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        return (self.net(X).squeeze(-1) - y).square()

    def loss(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        return super().loss(X, y, weight) + self.strength * self.net.weight.square().sum()

    def epoch_metrics(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(means)


def test_metrics_are_logged_for_each_member_and_as_their_mean(
    prices: Data, trainer: Callable[..., Trainer]
) -> None:
    X, y = prices
    train, val = k_fold(len(y), 3)
    history = History()
    stacked = StackedModule(make_members(3, lr=2.0), ["a", "b", "c"])
    fit = trainer(max_epochs=2, logger=[history])
    fit.fit(stacked, StackedData(X, y, {"train": train, "val": val}, 16, seed=0))
    for metric in ("train/loss", "train/log_rmse", "val/log_rmse"):
        epochs, mean = history.curve(metric)
        assert epochs == [1, 2]
        members = [history.curve(f"{metric}/{name}")[1] for name in "abc"]
        assert mean == pytest.approx([sum(values) / 3 for values in zip(*members, strict=True)], rel=1e-6)
        assert len({tuple(values) for values in members}) == 3
    assert fit.callback_metrics["val/log_rmse"].item() == pytest.approx(history.curve("val/log_rmse")[1][-1])


def test_a_loss_that_is_not_finite_stops_the_fit_and_the_error_names_the_member(
    prices: Data, trainer: Callable[..., Trainer]
) -> None:
    X, y = prices
    members = make_members(3, lr=2.0)
    nn.init.constant_(members[1].net[-1].weight, float("inf"))
    rows: Mapping[str, Sequence[Tensor]] = dict(zip(("train", "val"), k_fold(len(y), 3), strict=True))
    with pytest.raises(InputError, match=r"loss of second became (nan|inf) in epoch 1"):
        trainer(max_epochs=2).fit(
            StackedModule(members, ["first", "second", "third"]), StackedData(X, y, rows, 16, seed=0)
        )


def test_members_that_cannot_be_stacked_are_an_error() -> None:
    one, other = PriceRegressor(6), PriceRegressor(6, activation="tanh")
    with pytest.raises(InputError, match="no member"):
        StackedModule([])
    with pytest.raises(InputError, match="same hyperparameters"):
        StackedModule([one, other])
    with pytest.raises(InputError, match="one class"):
        StackedModule([one, Penalised(0.1)])
    with pytest.raises(InputError, match="names must differ"):
        StackedModule([PriceRegressor(6), PriceRegressor(6)], ["a", "a"])
    with pytest.raises(InputError, match="2 names do not go with 1 members"):
        StackedModule([one], ["a", "b"])


ALL_OPTIMIZERS = sorted(
    (kind for kind in vars(torch.optim).values() if isinstance(kind, type) and issubclass(kind, Optimizer)),
    key=lambda kind: kind.__name__,
)


def weights_after_steps(kind: Any, start: Tensor, gradients: Tensor) -> Tensor:
    """Return a parameter after one step of an optimizer for each of the gradients."""
    parameter = nn.Parameter(start.clone())
    optimizer = kind([parameter], lr=0.1)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step(lambda: torch.tensor(1.0))
    return parameter.detach()


# Optimizer has no step, and SparseAdam takes only sparse gradients.
@pytest.mark.parametrize(
    "kind",
    [kind for kind in ALL_OPTIMIZERS if kind.__name__ not in ("Optimizer", "SparseAdam")],
    ids=lambda kind: kind.__name__,
)
def test_an_optimizer_that_mixes_the_members_is_an_error(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(2, 3, generator=generator)
    gradients = torch.randn(3, 2, 3, generator=generator) * torch.tensor([[0.1], [1.0]])
    try:
        alone = [weights_after_steps(kind, start[k], gradients[:, k]) for k in range(2)]
        mixes = not torch.allclose(weights_after_steps(kind, start, gradients), torch.stack(alone))
    except ValueError:  # Muon does not take vectors
        mixes = True
    stacked = StackedModule(make_members(2))
    monkeypatch.setattr(  # the stacked bias is a matrix, as Muon requires
        PriceRegressor, "configure_optimizers", lambda self: kind([self.net[-1].bias], lr=0.1)
    )
    if mixes:
        with pytest.raises(InputError, match=f"{kind.__name__} mixes"):
            stacked.configure_optimizers()
    else:
        name = type(stacked.configure_optimizers()).__name__.removeprefix("Stacked")
        assert name == kind.__name__


def with_scheduler(optimizer: Optimizer) -> dict[str, Any]:
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": ExponentialLR(optimizer, 0.9)}}


FORMS: dict[str, Callable[[Optimizer], Any]] = {
    "an optimizer": lambda optimizer: optimizer,
    "a list": lambda optimizer: [optimizer],
    "a tuple": lambda optimizer: (optimizer,),
    "two lists": lambda optimizer: ([optimizer], [ExponentialLR(optimizer, 0.9)]),
    "two lists with a scheduler's settings": lambda optimizer: (
        [optimizer],
        [{"scheduler": ExponentialLR(optimizer, 0.9), "interval": "step"}],
    ),
    "a dictionary": lambda optimizer: {"optimizer": optimizer},
    "a dictionary with a scheduler": with_scheduler,
    "a list of a dictionary": lambda optimizer: [with_scheduler(optimizer)],
    "a tuple of a dictionary": lambda optimizer: (with_scheduler(optimizer),),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_an_optimizer_that_mixes_the_members_is_found_in_every_form(
    form: Callable[[Optimizer], Any],
    prices: Data,
    trainer: Callable[..., Trainer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, y = prices
    data = StackedData(X, y, {"train": [torch.arange(47)] * 2, "val": [torch.arange(9)] * 2}, 47, seed=0)
    stacked = StackedModule(make_members(2))
    for kind in (torch.optim.LBFGS, torch.optim.Adafactor):
        monkeypatch.setattr(
            PriceRegressor, "configure_optimizers", lambda self, kind=kind: form(kind(self.parameters()))
        )
        with pytest.raises(InputError, match=f"{kind.__name__} mixes"):
            trainer(max_epochs=1).fit(stacked, data)
    monkeypatch.setattr(
        PriceRegressor, "configure_optimizers", lambda self: form(torch.optim.SGD(self.parameters(), lr=0.1))
    )
    trainer(max_epochs=1).fit(stacked, data)


def test_a_second_optimizer_that_mixes_the_members_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stacked = StackedModule(make_members(2))
    monkeypatch.setattr(
        PriceRegressor,
        "configure_optimizers",
        lambda self: [kind(self.parameters(), lr=0.1) for kind in (torch.optim.SGD, torch.optim.LBFGS)],
    )
    with pytest.raises(InputError, match="LBFGS mixes"):
        stacked.configure_optimizers()


def test_members_may_configure_no_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PriceRegressor, "configure_optimizers", lambda self: None)
    assert StackedModule(make_members(2)).configure_optimizers() is None


def test_shapes_that_do_not_match_are_an_error() -> None:
    with pytest.raises(InputError, match=r"\(5, 2\) does not go with y of shape \(4,\)"):
        StackedData(torch.zeros(5, 2), torch.zeros(4), {"train": [torch.arange(4)]}, 2, seed=0)


@pytest.mark.parametrize("clip", [None, 0.1], ids=["unclipped", "clipped"])
def test_a_frozen_parameter_stays_frozen(
    clip: float | None, prices: Data, trainer: Callable[..., Trainer]
) -> None:
    members = make_members(2, hidden_sizes=[4, 3], log_price=True, lr=0.1, weight_decay=0.5)
    frozen = ("net.0.weight", "net.3.bias")
    for member in members:
        for name in frozen:
            member.get_parameter(name).requires_grad_(False)
    alone = copy.deepcopy(members)
    stacked = StackedModule(members)
    X, y = prices
    data = StackedData(X, y, {"train": [torch.arange(47)] * 2, "val": [torch.arange(9)] * 2}, 16, seed=0)
    trainer(max_epochs=2, gradient_clip_val=clip).fit(stacked, data)
    for k, (start, back) in enumerate(zip(alone, stacked.unstack(), strict=True)):
        before = copy.deepcopy(start.state_dict())
        trainer(max_epochs=2, gradient_clip_val=clip).fit(start, FoldAlone(data, k))
        for name, parameter in back.named_parameters():
            assert parameter.requires_grad is (name not in frozen), name
            assert torch.equal(parameter, before[name]) is (name in frozen), name
            torch.testing.assert_close(parameter, start.get_parameter(name), rtol=2e-4, atol=1e-5)


def test_parameters_that_are_frozen_in_only_some_members_are_an_error() -> None:
    one, other = make_members(2)
    other.net[-1].bias.requires_grad_(False)
    with pytest.raises(InputError, match=r"net\.0\.bias is frozen in some members"):
        StackedModule([one, other])


def test_members_with_the_same_rows_have_different_orders_by_default(prices: Data) -> None:
    X, y = prices
    rows = {"train": [torch.arange(47)] * 2, "val": [torch.arange(9)] * 2}
    for flags, same in (({}, False), ({"same_order": False}, False), ({"same_order": True}, True)):
        data = StackedData(X, y, rows, 8, seed=0, **flags)
        assert all(torch.equal(y[0], y[1]) is same for _, y, _ in data.train_dataloader())


def test_example_losses_and_metrics_equal_those_of_the_members_alone(prices: Data) -> None:
    X, y = prices
    members = make_members(3, log_price=True, hidden_sizes=[4])
    stacked = StackedModule(members)
    own_X, own_y = torch.stack([X, 2 * X, X - 1]), torch.stack([y, y + 1, 3 * y])
    for batch_X, batch_y in ((X, y), (own_X, own_y)):
        losses, metrics = stacked.example_losses(batch_X, batch_y), stacked.example_metrics(batch_X, batch_y)
        assert losses.shape == (3, 47)
        for k, member in enumerate(members):
            alone = (batch_X[k], batch_y[k]) if batch_y.ndim > 1 else (batch_X, batch_y)
            torch.testing.assert_close(losses[k], member.example_losses(*alone))
            for name, values in member.example_metrics(*alone).items():
                torch.testing.assert_close(metrics[name][k], values)
    weight = torch.rand(3, 47)
    for given in (None, weight):
        together = stacked.loss(own_X, own_y, given)
        for k, member in enumerate(members):
            expected = member.loss(own_X[k], own_y[k], None if given is None else given[k])
            torch.testing.assert_close(together[k], expected)


class WeightedLoader(FoldLoader):
    """Yields the rows of one fold of each stacked batch, with padding and weights."""

    def __iter__(self) -> Any:
        for X, y, weight in self.loader:
            yield X[self.fold], y[self.fold], weight[self.fold]


def test_each_member_may_have_weights_of_its_own(
    prices: Data, trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = prices
    train, val = k_fold(len(y), 3)
    generator = torch.Generator().manual_seed(1)
    weights = {
        "train": torch.rand(3, len(y), generator=generator),
        "val": torch.rand(3, len(y), generator=generator),
    }
    members = make_members(3, lr=2.0)
    alone = copy.deepcopy(members)
    rows = {"train": train, "val": val}
    data = StackedData(X, y, rows, 8, seed=5, weights=weights)
    stacked = StackedModule(members)
    trainer(max_epochs=4).fit(stacked, data)
    monkeypatch.setattr(FoldAlone, "train_dataloader", lambda self: WeightedLoader(*self.weighted))
    for fold, model in enumerate(alone):
        own = FoldAlone(data, fold)
        own.weighted = (data.train_dataloader(), fold)
        trainer(max_epochs=4).fit(model, own)
        for name, values in model.state_dict().items():
            torch.testing.assert_close(
                stacked.unstack()[fold].state_dict()[name], values, rtol=2e-4, atol=1e-5
            )
        w, of_fold = weights["val"][fold, val[fold]], val[fold]
        errors = (model(X[of_fold]).clamp(min=1).log() - y[of_fold].log()).square()
        expected = ((w * errors).sum() / w.sum()).sqrt()
        torch.testing.assert_close(stacked.evaluated["val/log_rmse"][fold], expected, rtol=1e-4, atol=1e-6)
    # A row has its own weight in whatever batch it is.
    seen = torch.zeros(3, len(y))
    index_of = {tuple(row.tolist()): index for index, row in enumerate(X)}
    for features, _, weight in data.train_dataloader():
        for fold in range(3):
            for row, w in zip(features[fold], weight[fold], strict=True):
                seen[fold, index_of[tuple(row.tolist())]] += w
    expected_seen = weights["train"].clone()
    for fold in range(3):
        expected_seen[fold, val[fold]] = 0
    torch.testing.assert_close(seen, expected_seen)


def test_weights_of_1_change_nothing(prices: Data, trainer: Callable[..., Trainer]) -> None:
    X, y = prices
    train, val = k_fold(len(y), 3)
    states = []
    for weights in (None, {"train": torch.ones(3, len(y)), "val": torch.ones(3, len(y))}):
        stacked = StackedModule(make_members(3, lr=2.0))
        data = StackedData(X, y, {"train": train, "val": val}, 8, seed=5, weights=weights)
        trainer(max_epochs=3).fit(stacked, data)
        states.append({**stacked.state_dict(), **stacked.evaluated})
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"train": torch.ones(2, 4)}, r"weights of shape \(2, 4\) do not go with 5 rows of the stage train"),
        ({"other": torch.ones(2, 5)}, "of the stage other"),
        ({"train": -torch.ones(2, 5)}, "weights of stage train must not be negative; one is -1"),
        ({"train": torch.ones(2, 5).log().log()}, r"weights of stage train\[0, 0\] must be a finite number"),
    ],
)
def test_bad_weights_are_an_error(weights: dict[str, Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StackedData(
            torch.zeros(5, 2), torch.zeros(5), {"train": [torch.arange(5)] * 2}, 2, seed=0, weights=weights
        )


ROWS = torch.arange(5)


@pytest.mark.parametrize(
    ("y", "rows", "message"),
    [
        (torch.zeros(5, 1), {"train": [ROWS] * 2}, r"y of shape \(5, 1\) does not go with 2 members"),
        (torch.zeros(5), {"val": [ROWS] * 2}, "rows must have the stage train"),
        (
            torch.zeros(5),
            {"train": [ROWS] * 2, "val": [ROWS] * 3},
            "rows of 3 members for val and of 2 for train",
        ),
        (torch.zeros(5), {"train": [ROWS > 2] * 2}, "rows of member 1 for train must be a vector of indices"),
        (torch.zeros(5), {"train": [ROWS, ROWS - 1]}, "rows of member 2 for train must be from 0 to 4"),
        (
            torch.zeros(5),
            {"train": [ROWS], "val": [ROWS + 1]},
            "rows of member 1 for val must be from 0 to 4",
        ),
    ],
)
def test_rows_that_do_not_go_with_the_targets_are_an_error(y: Tensor, rows: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        StackedData(torch.zeros(5, 1), y, rows, 2, seed=0)


def test_members_can_be_evaluated_on_data_of_a_single_model(
    prices: Data, trainer: Callable[..., Trainer]
) -> None:
    members = make_members(3, log_price=True)
    stacked = StackedModule(copy.deepcopy(members))
    loader: Any = DataLoader([prices], batch_size=None)  # type: ignore[arg-type, list-item]
    trainer().validate(stacked, loader, verbose=False)
    for k, member in enumerate(members):
        trainer().validate(member, loader, verbose=False)
        torch.testing.assert_close(
            stacked.evaluated["val/log_rmse"][k], member.evaluated["val/log_rmse"], rtol=1e-5, atol=1e-7
        )
