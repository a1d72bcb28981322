"""Regression data: its distribution, its batches, and errors for bad input."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.data.regression import (
    HighDimensionalData,
    PolynomialData,
    RegressionData,
    SyntheticRegressionData,
)
from d2l_lightning.errors import InputError
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.models.notebooks import add_to_class


def batches(loader: Any, epoch: int = 0) -> list[tuple[Tensor, Tensor]]:
    if hasattr(getattr(loader, "sampler", None), "set_epoch"):
        loader.sampler.set_epoch(epoch)
    return [tuple(batch) for batch in loader]


@given(st.integers(1, 40), st.integers(0, 20), st.integers(1, 50), st.integers(0, 9), st.integers(0, 3))
def test_both_loaders_give_equal_batches_with_every_row_once(
    num_train: int, num_val: int, batch_size: int, seed: int, epoch: int
) -> None:
    n = num_train + num_val
    X, y = torch.randn(n, 2), torch.arange(float(n))
    ours, theirs = (
        RegressionData(X, y, num_train, batch_size, seed, loader) for loader in ("scratch", "framework")
    )
    for stage, rows in (("train", y[:num_train]), ("val", y[num_train:])):
        loaders = [getattr(data, f"{stage}_dataloader")() for data in (ours, theirs)]
        if not len(rows):
            assert loaders == [[], []]
            continue
        assert len(loaders[0]) == len(loaders[1]) == math.ceil(len(rows) / batch_size)
        one, other = (batches(loader, epoch) for loader in loaders)
        for (X_one, y_one), (X_other, y_other) in zip(one, other, strict=True):
            assert torch.equal(y_one, y_other)
            assert torch.equal(X_one, X[y_one.long()])
            assert torch.equal(X_one, X_other)
        seen = torch.cat([batch[1] for batch in one])
        assert torch.equal(seen.sort().values, rows)
        if stage == "val":
            assert torch.equal(seen, rows)


@pytest.mark.parametrize("loader", ["scratch", "framework"])
def test_the_last_rows_may_be_left_out_and_the_order_may_be_that_of_the_rows(loader: Any) -> None:
    X, y = torch.randn(12, 2), torch.arange(12.0)
    data = RegressionData(X, y, 10, 4, loader=loader, drop_last=True)
    loaders = [data.train_dataloader(), DataLoader(TensorDataset(X[:10], y[:10]), 4, drop_last=True)]
    assert [[len(batch[1]) for batch in each] for each in loaders] == [[4, 4], [4, 4]]
    assert len({tuple(torch.cat([y for _, y in batches(loaders[0], e)]).tolist()) for e in range(3)}) == 3
    in_order = RegressionData(X, y, 10, 4, loader=loader, shuffle=False).train_dataloader()
    for epoch in range(2):
        assert torch.equal(torch.cat([y for _, y in batches(in_order, epoch)]), y[:10])


def test_the_order_depends_on_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[float]:
        data = RegressionData(torch.zeros(50, 1), torch.arange(50.0), 50, batch_size=7, seed=seed)
        return torch.cat([y for _, y in batches(data.train_dataloader(), epoch)]).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_the_loader_of_the_framework_is_a_dataloader() -> None:
    data = SyntheticRegressionData()
    assert isinstance(data.train_dataloader(), DataLoader)
    X, y = next(iter(data.train_dataloader()))
    assert X.shape == (32, 2)
    assert y.shape == (32,)
    assert len(data.train_dataloader()) == 32  # as Section 3.3.3 prints


@pytest.mark.parametrize("loader", ["scratch", "framework"])
def test_the_trainer_shuffles_in_every_epoch(
    trainer: Callable[..., Trainer], loader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = SyntheticRegressionData(num_train=20, num_val=4, batch_size=8, loader=loader, seed=3)
    met: list[Tensor] = []
    step = LinearRegression.training_step
    monkeypatch.setattr(
        LinearRegression,
        "training_step",
        lambda self, batch, i: (met.append(batch[1]), step(self, batch, i))[1],
    )
    trainer(max_epochs=2).fit(LinearRegression(2), data)
    expected = [y for epoch in range(2) for _, y in batches(data.train_dataloader(), epoch)]
    assert len(met) == 6
    assert all(torch.equal(a, b) for a, b in zip(met, expected, strict=True))


@pytest.mark.parametrize("loader", ["scratch", "framework"])
def test_a_batch_may_be_larger_than_the_data(trainer: Callable[..., Trainer], loader: Any) -> None:
    data = SyntheticRegressionData(num_train=5, num_val=3, batch_size=32, loader=loader)
    ((X, _),) = data.train_dataloader()
    assert len(X) == 5
    model = LinearRegression(2)
    trainer(max_epochs=1).fit(model, data)
    assert model.evaluated["val/loss"].isfinite()


def test_targets_are_linear_in_the_features_plus_noise() -> None:
    data = SyntheticRegressionData([2.0, -3.4, 0.5], 4.2, noise=0.3, num_train=20_000, num_val=5000, seed=1)
    errors = data.y - (data.X @ torch.tensor([2.0, -3.4, 0.5]) + 4.2)
    assert errors.mean().item() == pytest.approx(0, abs=0.01)
    assert errors.std().item() == pytest.approx(0.3, rel=0.02)
    assert (errors[:, None] * data.X).mean(dim=0).abs().max() < 0.01  # independent of the features
    torch.testing.assert_close(data.X.T @ data.X / len(data.X), torch.eye(3), rtol=0, atol=0.04)


def test_without_noise_targets_are_exact() -> None:
    data = SyntheticRegressionData(noise=0.0)
    assert torch.equal(data.y, data.X @ data.w + data.b)


def test_data_depends_on_the_seed_and_is_independent_of_initial_weights() -> None:
    one, same, other = (SyntheticRegressionData(seed=seed) for seed in (4, 4, 5))
    assert torch.equal(one.X, same.X)
    assert torch.equal(one.y, same.y)
    assert not torch.equal(one.X, other.X)
    # Initial weights are drawn after torch.manual_seed(seed); the data must be other numbers.
    drawn = torch.randn(one.X.shape, generator=torch.Generator().manual_seed(4))
    assert not torch.isclose(drawn, one.X).any(dim=1).all()


def test_high_dimensional_data_is_as_in_the_book() -> None:
    data = HighDimensionalData(seed=2)
    assert data.X.shape == (120, 200)
    assert data.rows["train"].tolist() == list(range(20))
    assert torch.equal(data.w, torch.full((200,), 0.01))
    assert data.b == 0.05
    assert (data.y - data.X @ data.w - 0.05).std().item() == pytest.approx(0.01, rel=0.2)
    assert len(data.train_dataloader()) == 4


def test_polynomial_data_is_as_in_the_book() -> None:
    data = PolynomialData(19, noise=0.0, seed=2)
    x = data.x.double()
    expected = 5 + 1.2 * x - 3.4 * x**2 / 2 + 5.6 * x**3 / 6  # eq. 4.4.2
    torch.testing.assert_close(data.y.double(), expected, rtol=1e-5, atol=1e-5)
    assert data.X.shape == (200, 20)
    noisy = PolynomialData(19, seed=2, num_train=5000)
    assert (noisy.y - noisy.X[:, :4] @ noisy.w).std().item() == pytest.approx(0.1, rel=0.05)


def test_the_degree_of_polynomial_data_changes_its_features_only() -> None:
    small, large = PolynomialData(1, seed=6), PolynomialData(7, seed=6)
    assert torch.equal(small.y, large.y)
    assert torch.equal(small.X, large.X[:, :2])


def test_watch_train_evaluates_the_training_rows(trainer: Callable[..., Trainer]) -> None:
    data = SyntheticRegressionData(num_train=30, num_val=10, batch_size=8, watch_train=True)
    model = LinearRegression(2)
    trainer(max_epochs=2).fit(model, data)
    for stage, rows in data.rows.items():
        expected = model.loss(data.X[rows], data.y[rows]) / 2  # the model minimises the squared error
        torch.testing.assert_close(model.evaluated[f"{stage}/squared_loss"], expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_train": 0}, "num_train must be positive, not 0"),
        ({"num_val": -1}, "num_val must not be negative; it is -1"),
        ({"batch_size": 0}, "batch_size must be positive, not 0"),
        ({"noise": -0.1}, "noise must not be negative; it is -0.1"),
        ({"noise": float("nan")}, "noise must not be negative; it is nan"),
        ({"w": [1.0, float("nan")]}, r"w\[1\] must be a finite number, not nan"),
        ({"w": []}, "w must hold one weight"),
        ({"w": [[1.0]]}, "w must hold one weight"),
        ({"loader": "own"}, "loader must be one of framework, scratch, not 'own'"),
    ],
)
def test_bad_settings_are_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SyntheticRegressionData(**settings)
    if not {"loader", "w"} & set(settings):
        for other in (PolynomialData, HighDimensionalData):
            if "noise" not in settings or other is PolynomialData:
                with pytest.raises(InputError, match=message):
                    other(**settings)


def test_other_bad_settings_are_an_error() -> None:
    with pytest.raises(InputError, match="b must be a finite number, not inf"):
        SyntheticRegressionData(b=float("inf"))
    with pytest.raises(InputError, match="num_inputs must be positive"):
        HighDimensionalData(num_inputs=0)
    with pytest.raises(InputError, match="degree must not be negative; it is -1"):
        PolynomialData(-1)


def test_bad_tensors_are_an_error() -> None:
    X, y = torch.zeros(4, 2), torch.zeros(4)
    with pytest.raises(InputError, match=r"X of shape \(4, 2\) does not go with y of shape \(3,\)"):
        RegressionData(X, y[:3], 2)
    with pytest.raises(InputError, match=r"does not go with y of shape \(4, 1\)"):
        RegressionData(X, y[:, None], 2)
    with pytest.raises(InputError, match="num_train is 5, and there are 4 rows"):
        RegressionData(X, y, 5)
    with pytest.raises(InputError, match=r"y\[1\] must be a finite number, not nan"):
        RegressionData(X, torch.tensor([0.0, math.nan, 0.0, 0.0]), 2)
    with pytest.raises(InputError, match=r"X\[2, 1\] must be a finite number, not inf"):
        RegressionData(torch.tensor([[0.0, 1], [2, 3], [4, math.inf], [5, 6]]), y, 2)


def test_features_without_weights_are_an_error(trainer: Callable[..., Trainer]) -> None:
    model = LinearRegression(3)
    before = model.get_w_b()[0]
    with pytest.raises(InputError, match="X has 2 features and num_inputs is 3"):
        trainer(max_epochs=1).fit(model, SyntheticRegressionData())
    assert torch.equal(model.get_w_b()[0], before)


@pytest.mark.parametrize("loader", ["framework", "scratch"])
@pytest.mark.parametrize("once", [False, True], ids=["a loader each epoch", "one loader"])
def test_a_loop_of_ones_own_has_the_orders_of_the_trainer(loader: Any, once: bool, trainer: Any) -> None:
    orders: list[list[float]] = []

    class Recording(LinearRegression):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            orders[-1].extend(batch[1].tolist())
            return super().training_step(batch, batch_idx)

        def on_train_epoch_start(self) -> None:
            orders.append([])
            super().on_train_epoch_start()

    settings = {"num_train": 20, "num_val": 4, "batch_size": 6, "loader": loader}
    trainer(max_epochs=3).fit(Recording(2), SyntheticRegressionData(**settings))
    data = SyntheticRegressionData(**settings)
    loaders = [data.train_dataloader()] * 3 if once else (data.train_dataloader() for _ in range(3))
    assert [torch.cat([y for _, y in loader]).tolist() for loader in loaders] == orders
    assert len({tuple(order) for order in orders}) == 3
    # A Trainer begins with epoch 0 whatever was iterated before.
    before = list(orders)
    orders.clear()
    trainer(max_epochs=3).fit(Recording(2), data)
    assert orders == before


@pytest.mark.parametrize("kind", ["generator", "loader"])
def test_get_dataloader_can_be_replaced_as_in_the_book(
    kind: str, trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sections 3.3.2 and 3.3.3, with the method added after the object is made."""
    data = SyntheticRegressionData(num_train=70, num_val=40)
    monkeypatch.setattr(
        SyntheticRegressionData, "get_dataloader", RegressionData.get_dataloader, raising=False
    )
    calls = []

    if kind == "generator":

        @add_to_class(SyntheticRegressionData)
        def get_dataloader(self: Any, train: bool) -> Any:
            first, num = (0, self.num_train) if train else (self.num_train, self.num_val)
            calls.append(train)
            for rows in torch.arange(first, first + num).split(self.batch_size):
                yield self.X[rows], self.y[rows]
    else:

        @add_to_class(SyntheticRegressionData)
        def get_dataloader(self: Any, train: bool) -> Any:
            rows = slice(self.num_train) if train else slice(self.num_train, None)
            calls.append(train)
            return DataLoader(TensorDataset(self.X[rows], self.y[rows]), self.batch_size, shuffle=train)

    X, y = next(iter(data.train_dataloader()))
    assert (X.shape, y.shape) == ((32, 2), (32,))
    model = LinearRegression(2)
    calls.clear()
    fit = trainer(max_epochs=4)
    fit.fit(model, data)
    assert (fit.current_epoch, fit.global_step) == (4, 12)
    assert "val/loss" in model.evaluated
    assert set(calls) == {True, False}
    (X, y), *_ = data.val_dataloader()
    assert torch.equal(X, data.X[70:102])


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integers_are_an_error(dtype: torch.dtype) -> None:
    X, y = torch.ones(4, 2), torch.ones(4)
    with pytest.raises(
        InputError, match=rf"X must hold floating-point numbers, not {dtype}; take X\.float\(\)"
    ):
        RegressionData(X.to(dtype), y, 4)
    with pytest.raises(InputError, match=r"y must hold floating-point numbers"):
        RegressionData(X, y.to(dtype), 4)
