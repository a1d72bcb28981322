"""How fast this project's ways are against plain ones: interleaved runs in one process, medians, ratios."""

import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset
from torchmetrics import MeanSquaredError
from torchmetrics.classification import MulticlassAccuracy
from torchvision import datasets, transforms

from d2l_lightning.batches import ShuffledBatches, StackedBatches
from d2l_lightning.callbacks.progress_board import ProgressBoard
from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.data.regression import HighDimensionalData, SyntheticRegressionData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError, require_positive
from d2l_lightning.functional.regression import log_rmse
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.models.mlp import MLP
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.models.weight_decay import WeightDecayScratch
from d2l_lightning.run import LEAN, Run, run_experiment

# What a way found out, to show that all ways did the same.
Figures = dict[str, float]
Way = Callable[[], Figures]


# Runs a script up to its first step, and says how long that took once these three libraries were there.
STARTUP = """
import os, runpy, sys, time
import torch, lightning.pytorch, torchvision
start = time.perf_counter()
from d2l_lightning.module import SupervisedModule

def first_step(*_):
    print(time.perf_counter() - start, flush=True)
    os._exit(0)

SupervisedModule.training_step = first_step
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Job(ABC):
    """The same work in several ways.

    Args:
        run: The run.
        epochs: Epochs of each fit.

    Attributes:
        title: What is timed.
        steps: Steps of each way, where the time of one is to be told; None for the time of the whole.
    """

    title: str
    steps: int | None = None
    default_epochs = 100

    def __init__(self, run: Run, epochs: int) -> None:
        self.folder, self.epochs, self.seed = run.folder, epochs, run.seed

    @abstractmethod
    def ways(self) -> dict[str, Way]:
        """Return the ways by name, this project's first."""

    @abstractmethod
    def ratios(self, medians: dict[str, float]) -> dict[str, float]:
        """Return what the median seconds of the ways come to."""

    def more(self, repeats: int) -> dict[str, float]:
        """Return what is told beside the ratios, by name: medians of so many repeats."""
        return {}

    def trainer(self, name: str, **flags: Any) -> Trainer:
        """Return a Trainer that logs to a CSV file of the run."""
        return Trainer(
            accelerator="cpu",
            max_epochs=self.epochs,
            logger=CSVLogger(self.folder / "metrics", name=name, version=""),
            enable_progress_bar=False,
            **{"enable_checkpointing": False, "enable_model_summary": False, **flags},
        )


def main(
    run: Run,
    job: Literal["kaggle_house", "linear_regression", "weight_decay", "fashion_mnist"],
    /,
    repeats: int,
    epochs: int | None = None,
) -> None:
    """Time this project against plain ways to do the same work.

    Args:
        run: The run.
        job: What to time, on the CPU, from the same weights and on the same batches. `kaggle_house`: the
            5-fold cross-validation of Section 4.10 as one stacked fit with CSV logging, as a bare PyTorch
            loop over the folds in turn, and with one plain Trainer for each fold. `linear_regression`: a
            step of Section 3.5's model under the Trainer and in a bare loop, beside those of a module that
            does nothing, and with a progress board. `weight_decay`: a path of 32 lambdas with the settings of
            Section 4.5 as one stacked fit, and as 32 fits in turn. `fashion_mnist`: Section 4.3's perceptron
            with validation and CSV logging, as a bare PyTorch loop over tensors in memory, and as a plain
            Lightning module over torchvision's images, one Python call each.
        repeats: How often each way is timed, in turn.
        epochs: Epochs of each fit; if not given, 100, or 1 of Fashion-MNIST.
    """
    require_positive(repeats=repeats, epochs=1 if epochs is None else epochs)
    jobs: dict[str, type[Job]] = {
        "kaggle_house": HouseFolds,
        "linear_regression": LinearSteps,
        "weight_decay": LambdaPath,
        "fashion_mnist": Perceptron,
    }
    epochs = jobs[job].default_epochs if epochs is None else epochs
    run.start()
    for way in jobs[job](run, epochs=1).ways().values():
        way()  # what is imported or set up once is nobody's time
    timed = jobs[job](run, epochs)
    ways = timed.ways()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    figures: dict[str, Figures] = {}
    for turn in track(range(repeats), description="timing", console=Console(stderr=True)):
        # There and back, so that no way always follows the same other.
        for name, way in list(ways.items())[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            figures[name] = way()
            seconds[name].append(time.perf_counter() - start)

    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = timed.ratios(medians)
    shown = list(dict.fromkeys(figure for found in figures.values() for figure in found))
    unit, scale = ("s", 1.0) if timed.steps is None else ("µs a step", 1e6 / timed.steps)
    rows = [
        (
            name,
            *(
                f"{t * scale:.{2 if timed.steps is None else 0}f}"
                for t in (medians[name], min(times), max(times))
            ),
            f"{next(iter(medians.values())) / medians[name]:.3f}",
            *(figures[name].get(figure, "") for figure in shown),
        )
        for name, times in seconds.items()
    ]
    columns = (unit, "median", "from", "to", "ratio", *shown)
    more = timed.more(repeats)
    notes = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in {**ratios, **more}.items()]
    run.table(f"{timed.title}, {epochs} epochs, {repeats} runs each", columns, rows, "; ".join(notes))
    run.finish({"ratios": ratios, **more, "seconds": seconds, "figures": figures})


class HouseFolds(Job):
    """The K-fold cross-validation of Section 4.10."""

    k, lr, batch_size = 5, 5.0, 64

    def __init__(self, run: Run, epochs: int) -> None:
        super().__init__(run, epochs)
        self.title = f"{self.k}-fold cross-validation on house prices"
        data = KaggleHouse()
        data.setup()
        self.X, self.y = data.features()[: data.num_train], data.prices
        train_rows, val_rows = k_fold(data.num_train, self.k)
        self.rows = {"train": train_rows, "val": val_rows}
        self.members = [PriceRegressor(self.X.shape[1], lr=self.lr) for _ in range(self.k)]
        self.weights = [{name: w.clone() for name, w in m.state_dict().items()} for m in self.members]
        # orders[fold][epoch]: the rows in the order in which StackedData brings them.
        batches = StackedBatches(train_rows, self.batch_size, self.seed)
        self.orders: list[list[Tensor]] = [[] for _ in range(self.k)]
        for epoch in range(epochs):
            batches.set_epoch(epoch)
            steps = list(batches)
            for fold, orders in enumerate(self.orders):
                orders.append(torch.cat([rows[fold][weight[fold] > 0] for rows, weight in steps]))

    def ways(self) -> dict[str, Way]:
        """Return the ways by name, this project's first."""
        return {
            "this project": self.side_by_side,
            "bare loop": self.bare_loop,
            "Trainer a fold": self.trainer_per_fold,
        }

    def ratios(self, medians: dict[str, float]) -> dict[str, float]:
        """Return this project's time over those of the others."""
        ours = medians["this project"]
        return {
            "bare_loop": ours / medians["bare loop"],
            "trainer_per_fold": ours / medians["Trainer a fold"],
        }

    def side_by_side(self) -> Figures:
        """All folds in one fit, as `kaggle_house.py` does it."""
        folds = StackedModule(self._fresh_members())
        trainer = self.trainer("side_by_side", **LEAN)
        trainer.fit(folds, StackedData(self.X, self.y, self.rows, self.batch_size, self.seed))
        return {stage: folds.evaluated[f"{stage}/log_rmse"].mean().item() for stage in ("train", "val")}

    def bare_loop(self) -> Figures:
        """PyTorch alone, a fold at a time."""
        figures = []
        for fold in range(self.k):
            net = nn.Linear(self.X.shape[1], 1)
            net.load_state_dict(_of_layer(self.weights[fold]))
            optimizer = torch.optim.Adam(net.parameters(), lr=self.lr)
            X, y, X_val, y_val = (t[self.rows[s][fold]] for s in ("train", "val") for t in (self.X, self.y))
            for order in self.orders[fold]:
                for batch in torch.split(order, self.batch_size):
                    loss = nn.functional.mse_loss(net(self.X[batch]).squeeze(1), self.y[batch]) / 2
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                with torch.no_grad():
                    train = log_rmse(net(X).squeeze(1), y).item()
                    val = log_rmse(net(X_val).squeeze(1), y_val).item()
            figures.append((train, val))
        return _average(figures)

    def trainer_per_fold(self) -> Figures:
        """Lightning as its tutorials have it: a Trainer for each fold, loaders over TensorDatasets."""
        figures = []
        for fold in range(self.k):
            model = PlainRegressor(self.X.shape[1], self.lr)
            model.net.load_state_dict(_of_layer(self.weights[fold]))
            train, val = (
                TensorDataset(self.X[rows[fold]], self.y[rows[fold]]) for rows in self.rows.values()
            )
            trainer = self.trainer(f"fold_{fold + 1}")
            trainer.fit(
                model,
                DataLoader(TensorDataset(self.X, self.y), self.batch_size, sampler=_Order(self.orders[fold])),
                [DataLoader(train, self.batch_size), DataLoader(val, self.batch_size)],
            )
            metrics = trainer.callback_metrics
            figures.append((metrics["train/log_rmse"].item(), metrics["val/log_rmse"].item()))
        return _average(figures)

    def _fresh_members(self) -> list[PriceRegressor]:
        for member, weights in zip(self.members, self.weights, strict=True):
            member.load_state_dict(weights)
        return self.members


class PlainRegressor(LightningModule):
    """The linear model of Section 4.10 as one would write it with no thought of speed."""

    def __init__(self, num_features: int, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Linear(num_features, 1)
        self.stages = ("train", "val")
        self.errors = nn.ModuleList(MeanSquaredError(squared=False) for _ in self.stages)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss, and log it."""
        X, y = batch
        loss = nn.functional.mse_loss(self.net(X).squeeze(1), y) / 2
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int) -> None:
        """Add a batch to the error of its rows."""
        X, y = batch
        error = cast(MeanSquaredError, self.errors[dataloader_idx])
        error(self.net(X).squeeze(1).clamp(min=1).log(), y.log())
        self.log(f"{self.stages[dataloader_idx]}/log_rmse", error, add_dataloader_idx=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class _Order(Sampler[int]):
    """Yields rows one by one in the given order of each epoch."""

    def __init__(self, orders: list[Tensor]) -> None:
        self.orders, self.epoch = orders, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.orders[self.epoch])

    def __iter__(self) -> Iterator[int]:
        return iter(self.orders[self.epoch].tolist())


def _of_layer(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a linear PriceRegressor as those of its one layer."""
    return {name.removeprefix("net.0."): weight for name, weight in weights.items()}


class LinearSteps(Job):
    """The steps of linear regression with the settings of Section 3.5, without validation."""

    title = "linear regression"

    def __init__(self, run: Run, epochs: int) -> None:
        super().__init__(run, epochs)
        self.data = SyntheticRegressionData(num_val=0, seed=self.seed)
        self.steps = epochs * len(self.data.train_dataloader())

    def ways(self) -> dict[str, Way]:
        """Return the ways by name, this project's first."""
        return {
            "this project": lambda: self.under_trainer(LinearRegression(2)),
            "in a bare loop": lambda: self.bare_loop(LinearRegression(2)),
            "empty module": lambda: self.under_trainer(EmptyModule()),
            "empty, bare loop": lambda: self.bare_loop(EmptyModule()),
            "with a board": lambda: self.under_trainer(LinearRegression(2), ProgressBoard(live=False)),
        }

    def ratios(self, medians: dict[str, float]) -> dict[str, float]:
        """Return what the Trainer costs this project's module over what it costs an empty one, and more."""
        ours = medians["this project"] - medians["in a bare loop"]
        empty = medians["empty module"] - medians["empty, bare loop"]
        return {
            "overhead": ours / empty,
            "bare_loop": medians["this project"] / medians["in a bare loop"],
            "board": medians["with a board"] / medians["this project"],
        }

    def more(self, repeats: int) -> dict[str, float]:
        """Return what a board costs once, when it writes its file."""
        board = ProgressBoard(self.folder / "figures" / "board.png", live=False)
        self.under_trainer(LinearRegression(2), board)
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            board.write()
            seconds.append(time.perf_counter() - start)
        return {"board_png_seconds": statistics.median(seconds)}

    def under_trainer(self, model: LightningModule, *callbacks: Callback) -> Figures:
        """Fit a module by the Trainer."""
        torch.manual_seed(self.seed)
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        self.trainer("steps", callbacks=list(callbacks), **LEAN).fit(model, self.data)
        return self._figures(model)

    def bare_loop(self, model: LightningModule) -> Figures:
        """Fit a module by a loop that does nothing else."""
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
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
        return self._figures(model)

    def _figures(self, model: LightningModule) -> Figures:
        if not isinstance(model, LinearRegression):
            return {}
        with torch.no_grad():
            return {"train": model.loss(self.data.X, self.data.y).item()}


class EmptyModule(LightningModule):
    """As little as the Trainer can train: a number that never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int = 0) -> Tensor:
        """Return the number."""
        return self.number * 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer that does not move it."""
        return torch.optim.SGD([self.number], lr=0.0)


class LambdaPath(Job):
    """The path over lambda with the settings of Section 4.5."""

    members, lr, sigma = 32, 0.003, 1.0

    def __init__(self, run: Run, epochs: int) -> None:
        super().__init__(run, epochs)
        self.title = f"a path of {self.members} lambdas"
        self.data = HighDimensionalData(seed=self.seed, watch_train=True)
        self.lambdas = np.geomspace(0.03, 100.0, self.members).tolist()
        self.start = WeightDecayScratch(self.data.X.shape[1], 0.0, sigma=self.sigma).state_dict()

    def ways(self) -> dict[str, Way]:
        """Return the ways by name, this project's first."""
        return {"this project": self.side_by_side, "fits in turn": self.in_turn}

    def ratios(self, medians: dict[str, float]) -> dict[str, float]:
        """Return the time of the stacked fit over that of the fits in turn."""
        return {"fits_in_turn": medians["this project"] / medians["fits in turn"]}

    def side_by_side(self) -> Figures:
        """All members in one fit, as `weight_decay.py` does it."""
        stacked = StackedModule([self._member(lambd) for lambd in self.lambdas])
        rows = {stage: [of_stage] * self.members for stage, of_stage in self.data.rows.items()}
        data = StackedData(self.data.X, self.data.y, rows, self.data.batch_size, self.seed, same_order=True)
        self.trainer("side_by_side", **LEAN).fit(stacked, data)
        return {stage: stacked.evaluated[f"{stage}/squared_loss"].mean().item() for stage in ("train", "val")}

    def in_turn(self) -> Figures:
        """A Trainer for each member."""
        figures = []
        for lambd in self.lambdas:
            member = self._member(lambd)
            self.trainer(f"lambda_{lambd:.3g}", **LEAN).fit(member, self.data)
            figures.append([member.evaluated[f"{stage}/squared_loss"].item() for stage in ("train", "val")])
        return _average(figures)

    def _member(self, lambd: float) -> WeightDecayScratch:
        member = WeightDecayScratch(self.data.X.shape[1], lambd, self.lr, self.sigma)
        member.load_state_dict(self.start)
        return member


class Perceptron(Job):
    """The perceptron of Section 4.3 on Fashion-MNIST, validated on the test rows after each epoch."""

    title = "a perceptron on Fashion-MNIST"
    default_epochs = 1
    lr, batch_size = 0.1, 256

    def __init__(self, run: Run, epochs: int) -> None:
        super().__init__(run, epochs)
        self.data = FashionMNIST(batch_size=self.batch_size, validate_on_test=True, seed=self.seed)
        self.data.prepare_data()
        self.data.setup()
        self.X, self.y = self.data.examples(slice(None))
        self.X = self.X.flatten(1)
        self.start = MLP(lr=self.lr).state_dict()

    def ways(self) -> dict[str, Way]:
        """Return the ways by name, this project's first."""
        return {
            "this project": self.in_memory,
            "bare loop": self.bare_loop,
            "image by image": self.image_by_image,
        }

    def ratios(self, medians: dict[str, float]) -> dict[str, float]:
        """Return this project's time over those of the others."""
        ours = medians["this project"]
        return {
            "bare_loop": ours / medians["bare loop"],
            "torchvision_pipeline": ours / medians["image by image"],
        }

    def more(self, repeats: int) -> dict[str, float]:
        """Return the seconds from the start of `mlp.py` to its first step, beyond the libraries' import."""
        script = str(Path(__file__).with_name("mlp.py"))
        seconds = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                words = [sys.executable, "-c", STARTUP, script, "--run_dir", folder, "--accelerator", "cpu"]
                done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise InputError(f"mlp.py did not start: {done.stderr.strip().splitlines()[-1]}")
            seconds.append(float(done.stdout))
        return {"startup_seconds": statistics.median(seconds)}

    def in_memory(self) -> Figures:
        """Fit it as `mlp.py` does."""
        model = self._model()
        self.trainer("in_memory", **LEAN).fit(model, self.data)
        return {name: model.evaluated[f"val/{name}"].item() for name in ("loss", "accuracy")}

    def bare_loop(self) -> Figures:
        """PyTorch alone, on tensors in memory."""
        net = self._model().net
        optimizer = torch.optim.SGD(net.parameters(), lr=self.lr)
        train, test = self.data.rows["train"], self.data.rows["test"]
        batches = ShuffledBatches(len(train), self.batch_size, self.seed)
        figures = {}
        for epoch in range(self.epochs):
            batches.set_epoch(epoch)
            for rows in batches:
                loss = nn.functional.cross_entropy(net(self.X[rows]), self.y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                logits, y = net(self.X[test]), self.y[test]
                accuracy = (logits.argmax(dim=1) == y).float().mean()
                figures = {"loss": nn.functional.cross_entropy(logits, y).item(), "accuracy": accuracy.item()}
        return figures

    def image_by_image(self) -> Figures:
        """Lightning as its tutorials have it: torchvision's data set, `ToTensor` for each image."""
        model = PlainPerceptron(self.lr)
        model.net.load_state_dict({name.removeprefix("net."): w for name, w in self.start.items()})
        train, test = (self._torchvision(stage) for stage in ("train", "test"))
        orders = []
        batches = ShuffledBatches(len(self.data.rows["train"]), self.batch_size, self.seed)
        for epoch in range(self.epochs):
            batches.set_epoch(epoch)
            orders.append(torch.cat(list(batches)))
        loader = DataLoader(train, self.batch_size, sampler=_Order(orders))
        trainer = self.trainer("image_by_image")
        trainer.fit(model, loader, DataLoader(test, self.batch_size))
        return {name: trainer.callback_metrics[f"val/{name}"].item() for name in ("loss", "accuracy")}

    def _model(self) -> MLP:
        model = MLP(lr=self.lr)
        model.load_state_dict(self.start)
        return model

    def _torchvision(self, stage: str) -> datasets.FashionMNIST:
        # Of the files that were found already, without a copy in the layout that it wants.
        data = datasets.FashionMNIST.__new__(datasets.FashionMNIST)
        rows = self.data.rows[stage]
        data.data, data.targets = cast(Tensor, self.data.images)[rows], self.data.labels[rows]
        data.transform, data.target_transform = transforms.ToTensor(), None
        return data


class PlainPerceptron(LightningModule):
    """The perceptron of Section 4.3 as one would write it with no thought of speed."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss, and log it."""
        X, y = batch
        loss = nn.functional.cross_entropy(self.net(X.flatten(1)), y)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to loss and accuracy."""
        X, y = batch
        logits = self.net(X.flatten(1))
        self.accuracy(logits, y)
        self.log("val/loss", nn.functional.cross_entropy(logits, y))
        self.log("val/accuracy", self.accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return minibatch SGD."""
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def _average(figures: Sequence[Sequence[float]]) -> Figures:
    train, val = zip(*figures, strict=True)
    return {"train": statistics.fmean(train), "val": statistics.fmean(val)}


if __name__ == "__main__":
    run_experiment(main)
