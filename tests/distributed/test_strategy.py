"""What several processes refuse, the checkpoints that they share, and the drift of their random numbers."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from d2l_lightning.distributed.group import process
from d2l_lightning.distributed.strategy import DataParallelStrategy
from d2l_lightning.errors import InputError
from d2l_lightning.models.linear_regression import LinearRegressionScratch
from d2l_lightning.models.mlp import MLP
from tests.conftest import lean_trainer
from tests.distributed.fits import CLASSES, TARGETS, D, Outcome, Rows, outcome, table
from tests.distributed.processes import in_processes
from tests.distributed.test_data_parallel import same_bits


class Sum(LinearRegressionScratch):
    """A model whose loss is a sum over rows."""

    def loss(self, X: Tensor, y: Tensor) -> Tensor:
        return self.example_losses(X, y).sum()


class Mixing(LinearRegressionScratch):
    """A model that standardises each batch."""

    def forward(self, X: Tensor) -> Tensor:
        return super().forward((X - X.mean(dim=0)) / X.std(dim=0))


class Logging(LinearRegressionScratch):
    """A model whose loss logs."""

    def loss(self, X: Tensor, y: Tensor) -> Tensor:
        loss = super().loss(X, y)
        self.log("own", loss)
        return loss


class Single(LinearRegressionScratch):
    """A model that cannot be copied."""

    def __init__(self) -> None:
        super().__init__(D)
        self.lines = (line for line in ())


class Lazy(LinearRegressionScratch):
    """A model with a layer that has no shape yet."""

    def __init__(self) -> None:
        super().__init__(D)
        self.net = nn.LazyLinear(1)


class DrawsInTheFirst(Callback):
    """Draws a random number in process 0 only."""

    def on_train_batch_end(self, *_: Any) -> None:
        if process() == 0:
            torch.rand(1)


def refusal(fit: Callable[[], object]) -> str:
    """Return the message of the InputError that a fit raises."""
    try:
        fit()
    except InputError as error:
        return str(error)
    return "not refused"


def fitted_by(strategy: Any, samples: bool) -> None:
    trainer = lean_trainer(devices=2, max_epochs=1, strategy=strategy, use_distributed_sampler=samples)
    trainer.fit(LinearRegressionScratch(D), Rows(TARGETS))


def evaluated_with_a_sampler() -> None:
    trainer = lean_trainer(devices=2, strategy=DataParallelStrategy())
    trainer.test(LinearRegressionScratch(D), Rows(TARGETS), verbose=False)


REFUSALS: dict[str, tuple[Callable[[], object], str]] = {
    "stock": (
        lambda: fitted_by(DDPStrategy(), False),
        "2 processes do not give the results of one with DDPStrategy; pass strategy=DataParallelStrategy()",
    ),
    "sampler": (lambda: fitted_by(DataParallelStrategy(), True), "pass use_distributed_sampler=False"),
    "sampler in evaluation": (evaluated_with_a_sampler, "pass use_distributed_sampler=False"),
    "batch_size": (
        lambda: outcome(LinearRegressionScratch(D), Rows(TARGETS, 1)),
        "a batch of 1 rows cannot be shared by 2 processes; raise batch_size",
    ),
    "normalization": (
        lambda: outcome(MLP(D, 3, [8], batch_norm=True), Rows(CLASSES)),
        "net.1 (BatchNorm1d) would compute statistics over the rows of a process; take nn.SyncBatchNorm",
    ),
    "sum": (lambda: outcome(Sum(D), Rows(TARGETS)), "the loss of Sum is"),
    "mixing": (lambda: outcome(Mixing(D), Rows(TARGETS)), "it must be a mean over rows that do not depend"),
    "logging": (lambda: outcome(Logging(D), Rows(TARGETS)), "the loss of Logging logs a value"),
    "no copy": (
        lambda: outcome(Single(), Rows(TARGETS)),
        "Single cannot be copied, so its loss cannot be checked for several processes: cannot pickle",
    ),
    "lazy": (lambda: outcome(Lazy(), Rows(TARGETS)), "net.weight has no shape yet"),
    "drift": (
        lambda: outcome(table(), Rows(TARGETS), callbacks=[DrawsInTheFirst()]),
        "the random numbers of 2 processes differ",
    ),
    "missing checkpoint": (
        lambda: missing("/nowhere/state.ckpt"),
        "Checkpoint file not found: /nowhere/state.ckpt",
    ),
}


def missing(path: str) -> None:
    try:
        outcome(LinearRegressionScratch(D), Rows(TARGETS), ckpt_path=path)
    except FileNotFoundError as error:
        raise InputError(error) from error


def refusals() -> dict[str, str]:
    return {name: refusal(fit) for name, (fit, _) in REFUSALS.items()}


@functools.cache
def refused() -> list[dict[str, str]]:
    return in_processes(2, refusals)


@pytest.mark.parametrize("name", REFUSALS)
def test_what_would_not_be_exact_is_refused_in_all_processes(name: str) -> None:
    one, other = (each[name] for each in refused())
    assert REFUSALS[name][1] in one
    assert "\n" not in one
    assert one == other


def part(folder: Path, epochs: int, begins: str | None, saves: str | None) -> Outcome:
    """Return the outcome of a fit from a checkpoint up to a number of epochs, and save one at its end.

    Process 0 alone sees the files.
    """
    own = folder if process() == 0 else folder / "nowhere"
    paths = {"ckpt_path": own / begins} if begins else {"saves": own / str(saves)} if saves else {}
    module = table(dropout=0.0, label_noise=0.0)
    return outcome(module, Rows(TARGETS), max_epochs=epochs, **paths)


def test_another_number_of_processes_continues_from_a_checkpoint(tmp_path: Path) -> None:
    whole = part(tmp_path, 4, None, None)
    part(tmp_path, 2, None, "one.ckpt")
    in_processes(2, part, tmp_path, 2, None, "two.ckpt")
    assert {path.name for path in tmp_path.iterdir()} == {"one.ckpt", "two.ckpt"}
    continued = [part(tmp_path, 4, "two.ckpt", None), *in_processes(2, part, tmp_path, 4, "one.ckpt", None)]
    assert same_bits(continued[1]["predictions"], continued[2]["predictions"])
    for each in continued:
        assert each["step"] == whole["step"] == 20
        torch.testing.assert_close(each["predictions"], whole["predictions"], rtol=1e-5, atol=1e-5)


def with_the_strategy() -> Outcome:
    return outcome(table(), Rows(TARGETS), strategy=DataParallelStrategy())


def test_a_strategy_of_one_process_changes_no_bit() -> None:
    fit = outcome(table(), Rows(TARGETS))
    (other,) = in_processes(1, with_the_strategy)
    assert all(same_bits(value, other[name]) for name, value in fit.items())
