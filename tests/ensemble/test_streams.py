"""Members that share streams of random numbers and orders: a setting does not depend on the others."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.ensemble.streams import Streams
from d2l_lightning.errors import InputError
from d2l_lightning.models.table_regressor import TableRegressor
from tests.conftest import lean_trainer
from tests.ensemble.test_leaving import Leaving, Recorded

Prices = tuple[Tensor, Tensor]
K, SETTINGS = 3, 4
RECIPE: dict[str, Any] = {"log_target": True, "metric": "log_rmse", "label_noise": 0.1, "optimizer": "adamw"}


class Plain(TableRegressor):
    """A model with PyTorch's dropout."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.net[2] = nn.Dropout(0.3)


def setting(kind: type[TableRegressor], s: int) -> list[TableRegressor]:
    """Return the members of a setting; their initial weights depend on the fold alone."""
    members = []
    for fold in range(K):
        torch.manual_seed(fold)
        own: dict[str, Any] = {
            "lr": 0.01 * (1 + s // 2),
            "betas": (0.9, 0.9 + 0.01 * s),
            "label_noise": 0.1 + s,
        }
        members.append(kind(6, [16], dropout=0.3 - 0.05 * (s // 2), **{**RECIPE, **own}))
    return members


def data_of(prices: Prices, count: int) -> StackedData:
    """Return the data of some settings: each fold has features of its own, which the settings share."""
    train, val = k_fold(47, K)
    X = torch.stack([prices[0] * (1 + fold) for fold in range(K)])
    rows = {"train": train * count, "val": val * count}
    return StackedData(X, prices[1].expand(K, -1), rows, 8, seed=5, streams=[*range(K)] * count)


def fitted(
    kind: type[TableRegressor], prices: Prices, settings: Sequence[int], leaving: dict[int, list[str]]
) -> Recorded:
    members = [member for s in settings for member in setting(kind, s)]
    names = [f"{s}_{fold}" + "'" * settings[:i].count(s) for i, s in enumerate(settings) for fold in range(K)]
    module = Recorded(members, names, streams=[*range(K)] * len(settings))
    torch.manual_seed(9)
    lean_trainer(max_epochs=4, limit_val_batches=0, callbacks=[Leaving(leaving)]).fit(
        module, data_of(prices, len(settings))
    )
    return module


@pytest.mark.parametrize("kind", [TableRegressor, Plain])
@pytest.mark.parametrize("equal", [False, True])
def test_a_setting_is_trained_to_the_same_bits_beside_others(
    kind: type[TableRegressor], equal: bool, prices: Prices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StackedModule, "replay_from", 6)  # an epoch has 4 steps
    settings = [2, 2, 2] if equal else [0, 3, 2, 1]
    alone = fitted(kind, prices, [2], {})
    leaving = {} if equal else {1: [f"0_{fold}" for fold in range(K)], 3: [f"3_{fold}" for fold in range(K)]}
    beside = fitted(kind, prices, settings, leaving)
    place = beside.names.index("2_0")
    for ours, theirs in zip(alone.parameters(), beside.parameters(), strict=True):
        assert torch.equal(ours, theirs[place : place + K])
    assert alone.rows.items() <= beside.rows.items()
    assert alone.rows
    # Nor does the evaluation.
    ours_, theirs_ = (
        m.evaluate(m.trainer.datamodule, "val", max_bytes=size)  # type: ignore[attr-defined]
        for m, size in ((alone, 2**24), (beside, 2000))
    )
    assert torch.equal(ours_["val/log_rmse"], theirs_["val/log_rmse"][place : place + K])


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "rand": lambda x: torch.rand(x.shape),
    "randn": lambda x: torch.randn(x.shape),
    "randint": lambda x: torch.randint(0, 9, x.shape),
    "rand_like": torch.rand_like,
    "randn_like": torch.randn_like,
    "bernoulli": lambda x: torch.bernoulli(x.abs() * 0 + 0.5),
    "bernoulli with a number": lambda x: torch.bernoulli(x, 0.5),
    "uniform in place": lambda x: torch.empty_like(x).uniform_(),
    "normal in place": lambda x: torch.empty_like(x).normal_(),
    "dropout": lambda x: nn.functional.dropout(x * 0 + 1, 0.5),
    "native dropout": lambda x: torch.native_dropout(x * 0 + 1, 0.5, True)[0],
    "dropout of channels": lambda x: nn.functional.dropout1d(x * 0 + 1, 0.5),
}


@pytest.mark.parametrize("name", DRAWS)
def test_members_of_a_stream_draw_the_same_numbers_however_many_they_are(name: str) -> None:
    drawn = []
    for streams in ([0, 1], [1, 0, 1, 1], [0]):
        torch.manual_seed(4)
        X = torch.randn(4, 3, 5)[: len(streams)]
        torch.manual_seed(4)
        with Streams(streams, 2):
            drawn.append(torch.vmap(DRAWS[name], randomness="different")(X))
    both, more, one = drawn
    assert torch.equal(more, both[[1, 0, 1, 1]])
    assert torch.equal(one, both[:1])
    assert not torch.equal(both[0], both[1])
    assert len(both.unique()) > 1


@pytest.mark.parametrize(
    "dropout", [lambda x, p: torch.native_dropout(x, p, True)[0], lambda x, p: 1 - torch.bernoulli(x * 0 + p)]
)
def test_masks_in_half_precision_keep_the_share_that_they_should(dropout: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    X = torch.ones(2, 1_000_000, dtype=torch.bfloat16)
    p = 2**-10  # bfloat16 has it, and random numbers in steps of 2**-8
    with Streams([0, 1], 2):
        H = torch.vmap(lambda x: dropout(x, p), randomness="different")(X)
    assert H.dtype == X.dtype
    shares = (H == 0).double().mean(dim=1)
    assert (shares - p).abs().max() < 5 * (p * (1 - p) / 1_000_000) ** 0.5


@pytest.mark.parametrize(
    "draw", [lambda x: torch.randperm(5) + x.sum(), lambda x: torch.poisson(x.abs()), torch.normal]
)
def test_draws_that_cannot_be_shared_are_an_error(draw: Callable[..., Tensor]) -> None:
    function = draw if draw is not torch.normal else lambda x: torch.normal(x, 1.0)
    with (
        Streams([0, 1, 1], 2),
        pytest.raises(InputError, match=r"^members that share streams of random numbers cannot draw them by"),
    ):
        torch.vmap(function, randomness="different")(torch.randn(3, 4))


@pytest.mark.parametrize(
    ("streams", "message"),
    [([0], "1 streams do not go with 2 members"), ([0, 2], r"from 0 on without a gap, not \[0, 2\]")],
)
def test_streams_must_go_with_the_members(streams: list[int], message: str, prices: Prices) -> None:
    with pytest.raises(InputError, match=message):
        StackedModule([TableRegressor(6) for _ in range(2)], streams=streams)
    with pytest.raises(InputError, match=message):
        StackedData(*prices, {"train": [torch.arange(9)] * 2}, 4, seed=0, streams=streams)
    with pytest.raises(InputError, match=r"does not go with 1 streams; it must be \(R, n\)"):
        StackedData(
            prices[0].expand(2, -1, -1),
            prices[1].expand(2, -1),
            {"train": [torch.arange(9)] * 2},
            4,
            seed=0,
            streams=[0, 0],
        )


@pytest.mark.parametrize("reuse", [True, False])
def test_members_take_the_rows_and_features_of_their_stream(reuse: bool) -> None:
    X, y = torch.randn(2, 20, 2, 4), torch.arange(40.0).view(2, 20)
    rows = [torch.arange(14), torch.arange(5, 20), torch.arange(14), torch.arange(14)]
    streams, weights = [0, 1, 1, 0], {"train": torch.rand(4, 20)}
    data = StackedData(X, y, {"train": rows}, 4, seed=2, weights=weights, streams=streams)
    loader = data.train_dataloader()
    loader.reuse = reuse
    for epoch in range(2):
        orders: list[list[Tensor]] = [[], [], [], []]
        data.batches.set_epoch(epoch)
        batches = list(data.batches)
        data.batches.set_epoch(epoch)
        for (indices, filled), (features, targets, weight) in zip(batches, loader, strict=True):
            for k, stream in enumerate(streams):
                assert torch.equal(features[k], X[stream][indices[k]])
                assert torch.equal(targets[k], y[stream][indices[k]])
                assert torch.equal(weight[k], filled[k] * weights["train"][k, indices[k]])
                orders[k] += [indices[k][filled[k] > 0]]
        taken = [torch.cat(order) for order in orders]
        assert torch.equal(taken[0], taken[3])
        assert not torch.equal(taken[0], taken[2])  # the rows are the same, and the streams differ
        for own, order in zip(rows, taken, strict=True):
            assert torch.equal(order.sort().values, own)
        # The order does not depend on the other members.
        alone = StackedData(X[0], y[0], {"train": rows[:1]}, 4, seed=2, streams=[0])
        alone.batches.set_epoch(epoch)
        order = torch.cat([indices[0][filled[0] > 0] for indices, filled in alone.batches])
        assert torch.equal(order, taken[0])


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("streams", [None, [0, 1, 0, 1]])
def test_evaluation_in_pieces_has_the_metrics_of_the_trainer(own: bool, streams: Any, prices: Prices) -> None:
    X, y = prices
    pools = 4 if streams is None else 2
    if own:
        X = torch.stack([X * (1 + k) for k in range(pools)])
        y = y.expand(pools, -1)
    rows = {
        "train": [torch.arange(30)] * 4,
        "val": [torch.arange(30, 47), torch.arange(31, 47), torch.arange(0), torch.arange(40, 47)],
    }
    weights = {"val": torch.rand(4, 47)}
    data = StackedData(X, y, rows, 8, seed=0, weights=weights if own else None, streams=streams)
    members = [TableRegressor(6, [16], dropout=0.5, log_target=True, metric="log_rmse") for _ in range(4)]
    module = StackedModule(members)
    trainer = lean_trainer(max_epochs=1)
    trainer.fit(module, data)
    module.train()
    for stage in ("train", "val"):
        for max_bytes in (1, 2**24):
            values = module.evaluate(data, stage, max_bytes)
            assert values.keys() == {f"{stage}/log_rmse"}
            expected = module.evaluated[f"{stage}/log_rmse"]
            torch.testing.assert_close(
                values[f"{stage}/log_rmse"], expected, equal_nan=True, rtol=1e-5, atol=0
            )
    assert module.training
    assert all(layer.training for layer in module.modules())
    for bad in (data, StackedData(*prices, {"train": rows["train"][:2], "test": rows["val"][:2]}, 8, 0)):
        with pytest.raises(
            InputError, match="4 members cannot be evaluated on test: the data have the stages"
        ):
            module.evaluate(bad, "test")
