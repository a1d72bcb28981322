"""The steps of Section 3.5's linear regression: with and without the Trainer, and with a progress board."""

import copy
import statistics
import timeit
from collections.abc import Mapping
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn

from d2l_lightning.benchmarks.base import Job, Metrics, without_lightning
from d2l_lightning.callbacks.progress_board import ProgressBoard
from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.models.linear_regression import LinearRegression


class LinearSteps(Job):
    """Linear regression, beside a module that does nothing: what the Trainer costs on top of each."""

    title = "linear regression"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.data = SyntheticRegressionData(num_val=0, seed=self.seed)
        self.model = LinearRegression(2)
        self.steps = self.epochs * len(self.data.train_dataloader())
        self.implementations = {
            "this project": self.run_fit,
            "in a bare loop": lambda: self.pytorch_loop(self.model),
            "empty module": self.empty_fit,
            "empty, bare loop": lambda: self.pytorch_loop(EmptyModule()),
            "with a board": lambda: self.run_fit(ProgressBoard(live=False)),
        }

    def ratios(self, medians: Mapping[str, float]) -> dict[str, float]:
        """Return the Trainer's overhead divided by that on an empty module, and two ratios of whole times."""
        ours = medians["this project"] - medians["in a bare loop"]
        empty = medians["empty module"] - medians["empty, bare loop"]
        return {
            "overhead": ours / empty,
            "bare_loop": medians["this project"] / medians["in a bare loop"],
            "board": medians["with a board"] / medians["this project"],
        }

    def other_seconds(self, repeats: int) -> dict[str, float]:
        """Return how long a board takes to write its file."""
        board = ProgressBoard(path=self.run.record("figures/board.png"), live=False)
        self.run_fit(board)
        seconds = timeit.repeat(board.write, repeat=repeats, number=1)
        return {"board_png_seconds": statistics.median(seconds)}

    def run_fit(self, *callbacks: Callback) -> Metrics:
        """Train it as `linear_regression.py` does."""
        model = copy.deepcopy(self.model)
        self.fit_in_run("line", model, self.data, *callbacks)
        return self._metrics(model)

    def empty_fit(self) -> Metrics:
        """Train the module that does nothing by the Trainer."""
        self.lean_trainer("empty").fit(EmptyModule(), self.data)
        return {}

    @without_lightning()
    def pytorch_loop(self, model: LightningModule) -> Metrics:
        """Train a copy of a module by a PyTorch loop that does nothing else."""
        model = copy.deepcopy(model)
        optimizer = cast(torch.optim.Optimizer, model.configure_optimizers())
        loader = self.data.train_dataloader()
        for epoch in range(self.epochs):
            loader.sampler.set_epoch(epoch)
            for batch in loader:
                loss = (
                    model.loss(*batch) if isinstance(model, LinearRegression) else model.training_step(batch)
                )
                optimizer.zero_grad()
                cast(Tensor, loss).backward()
                optimizer.step()
        return self._metrics(model)

    def _metrics(self, model: LightningModule) -> Metrics:
        if not isinstance(model, LinearRegression):
            return {}
        with torch.no_grad():
            return {"train": model.loss(self.data.X, self.data.y).item()}


class EmptyModule(LightningModule):
    """The least that a Trainer can train: a number that never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int = 0) -> Tensor:
        """Return the number."""
        return self.number * 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD with a learning rate of 0."""
        return torch.optim.SGD([self.number], lr=0.0)
