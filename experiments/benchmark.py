"""How fast this project's ways are against plain ones: interleaved runs in one process, medians, ratios."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset
from torchmetrics import MeanSquaredError

from d2l_lightning.batches import StackedBatches
from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.functional.regression import log_rmse
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.run import LEAN, Run, run_experiment

# The settings of Section 4.10.
K, LR, BATCH_SIZE = 5, 5.0, 64

# The log RMSE of each fold's training and validation rows after the last epoch.
Figures = list[tuple[float, float]]


def main(run: Run, job: Literal["kaggle_house"], /, repeats: int, epochs: int) -> None:
    """Time this project against plain ways to do the same work.

    Args:
        run: The run.
        job: What to time. `kaggle_house`: the 5-fold cross-validation of Section 4.10 as one stacked fit
            with CSV logging, as a bare PyTorch loop over the folds in turn, and with one plain Lightning
            Trainer for each fold, all on the CPU, from the same weights and on the same batches.
        repeats: How often each way is timed, in turn.
        epochs: Epochs of each fit.
    """
    if repeats < 1 or epochs < 1:
        raise InputError(f"repeats and epochs must be positive, not {repeats} and {epochs}")
    run.start()
    for way in HouseFolds(run, epochs=1).ways().values():
        way()  # what is imported or set up once is nobody's time
    ways = HouseFolds(run, epochs).ways()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    figures: dict[str, Figures] = {}
    for _ in track(range(repeats), description="timing", console=Console(stderr=True)):
        for name, way in ways.items():
            start = time.perf_counter()
            figures[name] = way()
            seconds[name].append(time.perf_counter() - start)

    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = {name: medians["this project"] / median for name, median in medians.items()}
    columns = ("", "median", "from", "to", "ratio", "train", "validation")
    rows: list[tuple[str | float, ...]] = [
        (
            name,
            *(f"{t:.2f} s" for t in (medians[name], min(times), max(times))),
            f"{ratios[name]:.3f}",
            *_average(figures[name]),
        )
        for name, times in seconds.items()
    ]
    run.table(
        f"{K}-fold cross-validation on house prices, {epochs} epochs, {repeats} runs each", columns, rows
    )
    run.finish(
        {
            "ratios": {
                "bare_loop": ratios["bare loop"],
                "trainer_per_fold": ratios["Trainer a fold"],
            },
            "seconds": seconds,
            "figures": {
                name: {"train_log_rmse": train, "val_log_rmse": val}
                for name, (train, val) in ((name, _average(figures[name])) for name in ways)
            },
        }
    )


class HouseFolds:
    """The same K-fold cross-validation in three ways."""

    def __init__(self, run: Run, epochs: int) -> None:
        self.folder, self.epochs, self.seed = run.folder, epochs, run.seed
        data = KaggleHouse()
        data.setup()
        self.X, self.y = data.features()[: data.num_train], data.prices
        train_rows, val_rows = k_fold(data.num_train, K)
        self.rows = {"train": train_rows, "val": val_rows}
        self.members = [PriceRegressor(self.X.shape[1], lr=LR) for _ in range(K)]
        self.weights = [{name: w.clone() for name, w in m.state_dict().items()} for m in self.members]
        # orders[fold][epoch]: the rows in the order in which StackedData brings them.
        batches = StackedBatches(train_rows, BATCH_SIZE, self.seed)
        self.orders: list[list[Tensor]] = [[] for _ in range(K)]
        for epoch in range(epochs):
            batches.set_epoch(epoch)
            steps = list(batches)
            for fold, orders in enumerate(self.orders):
                orders.append(torch.cat([rows[fold][weight[fold] > 0] for rows, weight in steps]))

    def ways(self) -> dict[str, Callable[[], Figures]]:
        """Return the ways by name, this project's first."""
        return {
            "this project": self.side_by_side,
            "bare loop": self.bare_loop,
            "Trainer a fold": self.trainer_per_fold,
        }

    def side_by_side(self) -> Figures:
        """All folds in one fit, as `kaggle_house.py` does it."""
        folds = StackedModule(self._fresh_members())
        trainer = self._trainer("side_by_side", **LEAN)
        trainer.fit(folds, StackedData(self.X, self.y, self.rows, BATCH_SIZE, self.seed))
        train, val = folds.evaluated["train/log_rmse"], folds.evaluated["val/log_rmse"]
        return list(zip(train.tolist(), val.tolist(), strict=True))

    def bare_loop(self) -> Figures:
        """PyTorch alone, a fold at a time."""
        figures = []
        for fold in range(K):
            net = nn.Linear(self.X.shape[1], 1)
            net.load_state_dict(_of_layer(self.weights[fold]))
            optimizer = torch.optim.Adam(net.parameters(), lr=LR)
            X, y, X_val, y_val = (t[self.rows[s][fold]] for s in ("train", "val") for t in (self.X, self.y))
            for order in self.orders[fold]:
                for batch in torch.split(order, BATCH_SIZE):
                    loss = nn.functional.mse_loss(net(self.X[batch]).squeeze(1), self.y[batch]) / 2
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                with torch.no_grad():
                    train = log_rmse(net(X).squeeze(1), y).item()
                    val = log_rmse(net(X_val).squeeze(1), y_val).item()
            figures.append((train, val))
        return figures

    def trainer_per_fold(self) -> Figures:
        """Lightning as its tutorials have it: a Trainer for each fold, loaders over TensorDatasets."""
        figures = []
        for fold in range(K):
            model = PlainRegressor(self.X.shape[1])
            model.net.load_state_dict(_of_layer(self.weights[fold]))
            train, val = (
                TensorDataset(self.X[rows[fold]], self.y[rows[fold]]) for rows in self.rows.values()
            )
            trainer = self._trainer(f"fold_{fold + 1}")
            trainer.fit(
                model,
                DataLoader(TensorDataset(self.X, self.y), BATCH_SIZE, sampler=_Order(self.orders[fold])),
                [DataLoader(train, BATCH_SIZE), DataLoader(val, BATCH_SIZE)],
            )
            metrics = trainer.callback_metrics
            figures.append((metrics["train/log_rmse"].item(), metrics["val/log_rmse"].item()))
        return figures

    def _fresh_members(self) -> list[PriceRegressor]:
        for member, weights in zip(self.members, self.weights, strict=True):
            member.load_state_dict(weights)
        return self.members

    def _trainer(self, name: str, **flags: Any) -> Trainer:
        return Trainer(
            accelerator="cpu",
            max_epochs=self.epochs,
            logger=CSVLogger(self.folder / "metrics", name=name, version=""),
            enable_progress_bar=False,
            **{"enable_checkpointing": False, "enable_model_summary": False, **flags},
        )


class PlainRegressor(LightningModule):
    """The linear model of Section 4.10 as one would write it with no thought of speed."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
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
        return torch.optim.Adam(self.parameters(), lr=LR)


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


def _average(figures: Figures) -> tuple[float, float]:
    train, val = zip(*figures, strict=True)
    return statistics.fmean(train), statistics.fmean(val)


if __name__ == "__main__":
    run_experiment(main)
