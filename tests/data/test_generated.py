"""Rows that are drawn while they are used: a function of seed and epoch, new or the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from d2l_lightning.data.generated import GeneratedData
from d2l_lightning.errors import InputError
from d2l_lightning.models.linear_regression import LinearRegression


def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    X = torch.randn(n, 30, generator=generator)
    return X, X.sum(dim=1) + torch.randn(n, generator=generator)


def batches(loader: Any, epoch: int | None = None) -> list[Tensor]:
    if epoch is not None:
        loader.set_epoch(epoch)
    return [torch.cat([X, y[:, None]], dim=1) for X, y in loader]


def test_rows_are_new_in_each_epoch_and_a_function_of_seed_and_epoch() -> None:
    def rows(seed: int, epoch: int) -> Tensor:
        loader = GeneratedData(draw, 10, batch_size=4, seed=seed).train_dataloader()
        drawn = batches(loader, epoch)
        assert [len(batch) for batch in drawn] == [4, 4, 2]
        assert len(loader) == 3
        return torch.cat(drawn)

    assert torch.equal(rows(1, 1), rows(1, 1))
    every = torch.cat([rows(seed, epoch) for seed in range(2) for epoch in range(3)])
    assert len(every.unique()) == every.numel()
    loader = GeneratedData(draw, 10, batch_size=4, seed=1).train_dataloader()
    assert torch.equal(torch.cat(batches(loader)), rows(1, 0))
    assert torch.equal(torch.cat(batches(loader)), rows(1, 1))  # a loop of one's own


def test_the_same_rows_come_each_time_on_request_and_for_validation() -> None:
    data = GeneratedData(draw, 10, num_val=7, batch_size=4, seed=1, new_each_epoch=False)
    fresh = GeneratedData(draw, 10, num_val=7, batch_size=4, seed=1)
    train, val = (
        [batches(loader, e) for e in (0, 1)] for loader in (data.train_dataloader(), data.val_dataloader())
    )
    for first, second in (train, val):
        assert all(map(torch.equal, first, second))
    assert all(map(torch.equal, train[0], batches(fresh.train_dataloader(), 0)))
    assert not torch.isin(torch.cat(val[0]), torch.cat(train[0])).any()
    assert GeneratedData(draw, 10).val_dataloader() == []


def test_a_model_cannot_overfit_rows_that_it_sees_once(trainer: Callable[..., Trainer]) -> None:
    gaps = {}
    for new in (True, False):
        torch.manual_seed(0)
        model = LinearRegression(30, lr=0.02)
        data = GeneratedData(draw, 40, 400, batch_size=10, seed=2, new_each_epoch=new)
        fit = trainer(max_epochs=30)
        fit.fit(model, data)
        gaps[new] = model.evaluated["val/loss"].item() - fit.callback_metrics["train/loss"].item()
    assert gaps[False] > 0.7
    assert abs(gaps[True]) < 0.5


def test_a_fit_that_is_resumed_draws_the_rows_of_its_epochs(
    trainer: Callable[..., Trainer], tmp_path: Any
) -> None:
    def fit(epochs: int, path: str | None = None) -> tuple[Trainer, Tensor]:
        torch.manual_seed(0)
        model = LinearRegression(30)
        fitted = trainer(max_epochs=epochs)
        fitted.fit(model, GeneratedData(draw, 40, batch_size=16), ckpt_path=path, weights_only=path and True)
        return fitted, model.get_w_b()[0]

    stopped, _ = fit(1)
    stopped.save_checkpoint(tmp_path / "stopped.ckpt")
    assert torch.equal(fit(3, str(tmp_path / "stopped.ckpt"))[1], fit(3)[1])


def test_bad_arguments_are_errors() -> None:
    for arguments, message in (
        ({"num_train": 0}, "num_train must be positive"),
        ({"num_train": 5, "num_val": -1}, "num_val must not be negative"),
        ({"num_train": 5, "batch_size": 0}, "batch_size must be positive"),
    ):
        with pytest.raises(InputError, match=message):
            GeneratedData(draw, **arguments)  # type: ignore[arg-type]
    short = GeneratedData(lambda n, _: (torch.zeros(n, 1), torch.zeros(n - 1)), 5)
    with pytest.raises(InputError, match="draw must return 5 rows, not 5 of X and 4 of y"):
        list(short.train_dataloader())
    with pytest.raises(InputError, match="draw must return two tensors, X and y, not Tensor"):
        list(GeneratedData(lambda n, _: torch.zeros(n, 1), 5).train_dataloader())  # type: ignore[arg-type, return-value]
