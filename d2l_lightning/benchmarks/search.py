"""A search over settings of a house perceptron, cross-validated: this project, and plain Optuna."""

import os
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.benchmarks.base import GivenOrder, Metrics
from d2l_lightning.benchmarks.kaggle_house import HouseFolds, fold_metrics
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.runs.run import Run

TRAINER_PER_FOLD = "Optuna, a Trainer for each fold"
FIT_PER_SETTING = "a stacked fit for each setting"
# The least and the greatest value of each parameter, and whether its logarithm is drawn.
SPACE = {"lr": (3e-4, 3e-2, True), "weight_decay": (1e-6, 1e-1, True), "dropout": (0.0, 0.5, False)}
ONCE = "validated once"
LOG = "log_uniform_values"
OURS, PRUNED, TWO_WORKERS = "this project", "with pruning", "two workers"


class HouseSearch(HouseFolds):
    """Settings of a perceptron, each cross-validated on 5 folds, in CPU time.

    All implementations take the same settings, which Optuna draws at random. The baselines train the first
    four of them, since all settings cost the same; the ratios multiply their time accordingly. They validate
    after each epoch, as a Trainer does by default, or once, after the last. The search validates at rungs.
    """

    settings, sample = 64, 4
    on_gpu = False
    model: dict[str, Any] = {"hidden_sizes": (64,), "log_price": True}  # noqa: RUF012
    title = f"a search over {settings} settings of a house perceptron ({sample} for the baselines)"
    baselines: ClassVar = {
        "optuna_trainer_per_fold": TRAINER_PER_FOLD,
        "optuna_validated_once": f"{TRAINER_PER_FOLD}, {ONCE}",
        "stacked_fit_per_setting": FIT_PER_SETTING,
        "stacked_fit_validated_once": f"{FIT_PER_SETTING}, {ONCE}",
    }
    default_epochs = 60

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        from d2l_lightning.search.decisions import suggest
        from d2l_lightning.search.space import parse_space

        self.space = parse_space(
            {
                name: {"distribution": LOG if log else "uniform", "min": low, "max": high}
                for name, (low, high, log) in SPACE.items()
            }
        )
        self.drawn = suggest(self.space, [], range(self.settings), "random", self.seed)
        self.slowest: dict[str, list[float]] = {OURS: [], TWO_WORKERS: []}
        self.implementations = {
            OURS: self.search,
            PRUNED: self.search_with_pruning,
            TWO_WORKERS: self.search_with_two_workers,
            FIT_PER_SETTING: self.fit_per_setting,
            f"{FIT_PER_SETTING}, {ONCE}": partial(self.fit_per_setting, self.epochs),
            TRAINER_PER_FOLD: self.optuna_trials,
            f"{TRAINER_PER_FOLD}, {ONCE}": partial(self.optuna_trials, self.epochs),
        }

    def clock(self, name: str) -> Callable[[], float]:
        """Return the clock of CPU time."""
        return cpu_seconds

    def ratios(self, medians: Mapping[str, float]) -> dict[str, float]:
        """Return the ratios of CPU times, for all settings, and that of two workers, of the slower one."""
        seconds = {
            name: time * (self.settings / self.sample if name in self.baselines.values() else 1)
            for name, time in medians.items()
        }
        one, two = (statistics.median(self.slowest[name]) for name in (OURS, TWO_WORKERS))
        return {
            **super().ratios(seconds),
            "pruning": seconds[PRUNED] / seconds[OURS],
            "two_workers": two / one,
        }

    def search(self) -> Metrics:
        """Search by this project, with one worker and without pruning."""
        return self._search(OURS, pruner="none")

    def search_with_pruning(self) -> Metrics:
        """Search by this project, with successive halving."""
        return self._search(PRUNED, pruner="halving")

    def search_with_two_workers(self) -> Metrics:
        """Search by this project, with two workers and without pruning."""
        return self._search(TWO_WORKERS, pruner="none", workers=2)

    def _search(self, name: str, **settings: Any) -> Metrics:
        from d2l_lightning.search.search import run_search
        from d2l_lightning.search.settings import SearchSettings
        from d2l_lightning.search.task import CrossValidationTask

        model = partial(PriceRegressor, self.X.shape[1], **self.model)
        common: Any = {"batch_size": self.batch_size, "seed": self.seed, "folds": "contiguous"}
        task = CrossValidationTask(model, self.X, self.y, "log_rmse", self.k, **common)
        how = SearchSettings(trials=self.settings, sampler="random", confirm=0, pack=32, **settings)
        folder = self.run.folder / "metrics" / name.replace(" ", "_")
        flags: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "overwrite": True}
        before = os.times()
        with Run("search", seed=self.seed, run_dir=folder, max_epochs=self.epochs, **flags) as run:
            found = run_search(run, task, self.space, how)
            run.finish({"trials": len(found.trials)})
        after = os.times()
        of_process = sum(after[:2]) - sum(before[:2]), sum(after[2:4]) - sum(before[2:4])
        self.slowest.setdefault(name, []).append(max(of_process))
        values = [trial.value for trial in found.trials[: self.sample] if trial.value is not None]
        return {"val": statistics.fmean(values)}

    def fit_per_setting(self, every: int = 1) -> Metrics:
        """Train the folds of one setting after the other in stacked fits of one run.

        Args:
            every: The number of epochs between two validations.
        """
        values = []
        flags: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "overwrite": True}
        flags |= {"max_epochs": self.epochs, "check_val_every_n_epoch": every}
        with Run(
            "settings", seed=self.seed, run_dir=self.run.folder / "metrics" / "settings", **flags
        ) as run:
            for number, setting in enumerate(self.drawn[: self.sample]):
                folds = StackedModule(self._members(setting))
                data = StackedData(self.X, self.y, self.rows, self.batch_size, self.seed)
                run.fit(f"setting_{number}", folds, data)
                values.append(fold_metrics(folds)["val"])
        return {"val": statistics.fmean(values)}

    def optuna_trials(self, every: int = 1) -> Metrics:
        """Let Optuna try one setting after the other, each by a plain Trainer for each fold.

        Args:
            every: The number of epochs between two validations.
        """
        import optuna

        def objective(trial: optuna.Trial) -> float:
            setting = {
                name: trial.suggest_float(name, low, high, log=log)
                for name, (low, high, log) in SPACE.items()
            }
            values = []
            for fold, member in enumerate(self._members(setting)):
                model = PlainPerceptron(member.net, setting["lr"], setting["weight_decay"])
                order = GivenOrder(self.orders[fold])
                train = DataLoader(TensorDataset(self.X, self.y), self.batch_size, sampler=order)
                rows = self.rows["val"][fold]
                val = DataLoader(TensorDataset(self.X[rows], self.y[rows]), self.batch_size)
                name = f"trial_{trial.number}_fold_{fold + 1}"
                trainer = self.trainer(name, check_val_every_n_epoch=every)
                trainer.fit(model, train, val)
                values.append(trainer.callback_metrics["val/log_rmse"].item())
            return statistics.fmean(values)

        study = optuna.create_study()
        for setting in self.drawn[: self.sample]:
            study.enqueue_trial(setting)
        study.optimize(objective, n_trials=self.sample)
        return {"val": statistics.fmean(trial.values[0] for trial in study.trials)}

    def _members(self, setting: Mapping[str, Any]) -> list[PriceRegressor]:
        """Return the models of the folds of a setting; their initial weights are those of all settings."""
        members = [PriceRegressor(self.X.shape[1], **self.model, **setting) for _ in range(self.k)]
        for member, initial in zip(members, self.members, strict=True):
            member.load_state_dict(initial.state_dict())
        return members


class PlainPerceptron(LightningModule):
    """A perceptron on the logarithm of the price, in plain Lightning."""

    def __init__(self, net: nn.Module, lr: float, weight_decay: float) -> None:
        from torchmetrics import MeanSquaredError

        super().__init__()
        self.net, self.lr, self.weight_decay = net, lr, weight_decay
        self.error = MeanSquaredError(squared=False)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return and log the loss."""
        X, y = batch
        loss = nn.functional.mse_loss(self.net(X).squeeze(1), y.log()) / 2
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to the error."""
        X, y = batch
        self.error(self.net(X).squeeze(1).clamp(min=0), y.log())
        self.log("val/log_rmse", self.error)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the processes that it has started and that have ended."""
    return sum(os.times()[:4])
