"""The 5-fold cross-validation of Section 4.10: one stacked fit, a PyTorch loop, a Trainer for each fold."""

import copy
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.benchmarks.base import GivenOrder, Job, Metrics, epochs_of, mean_metrics, without_lightning
from d2l_lightning.data.batches import StackedBatches
from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.functional.regression import log_rmse
from d2l_lightning.models.price_regressor import PriceRegressor


class HouseFolds(Job):
    """K-fold cross-validation on the house prices, with CSV logging."""

    k, batch_size = 5, 64
    model: dict[str, Any] = {"lr": 5.0}  # noqa: RUF012
    title = "5-fold cross-validation on house prices"
    baselines: ClassVar = {"bare_loop": "bare loop", "trainer_per_fold": "Trainer for each fold"}
    on_gpu = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        data = KaggleHouse()
        data.setup()
        self.X, self.y = data.features()[: data.num_train], data.prices
        train_rows, val_rows = k_fold(data.num_train, self.k)
        self.rows = {"train": train_rows, "val": val_rows}
        self.members = [PriceRegressor(self.X.shape[1], **self.model) for _ in range(self.k)]
        # orders[fold][epoch]: the rows in the order of StackedData.
        epochs = list(epochs_of(StackedBatches(train_rows, self.batch_size, self.seed), self.epochs))
        self.orders = [
            [torch.cat([rows[fold][weight[fold] > 0] for rows, weight in steps]) for steps in epochs]
            for fold in range(self.k)
        ]
        self.implementations = {
            "this project": self.run_fit,
            "without a run": self.stacked_fit,
            "bare loop": self.pytorch_loop,
            "Trainer for each fold": self.trainer_per_fold,
        }

    def run_fit(self) -> Metrics:
        """Train all folds in one fit, as `kaggle_house.py` does."""
        folds, data = self._stacked()
        self.fit_in_run("folds", folds, data)
        return fold_metrics(folds)

    def stacked_fit(self) -> Metrics:
        """Train all folds in one fit of a Trainer, which saves no state."""
        folds, data = self._stacked()
        self.lean_trainer("side_by_side").fit(folds, data)
        return fold_metrics(folds)

    def _stacked(self) -> tuple[StackedModule, StackedData]:
        data = StackedData(self.X, self.y, self.rows, self.batch_size, self.seed)
        return StackedModule(copy.deepcopy(self.members)), data

    @without_lightning()
    def pytorch_loop(self) -> Metrics:
        """Train one fold after the other by PyTorch alone, on tensors on the device, without logging."""
        metrics = []
        log_price = self.members[0].log_target
        all_X, all_y = self.X.to(self.device), self.y.to(self.device)
        targets = all_y.log() if log_price else all_y
        for fold, member in enumerate(self.members):
            net = copy.deepcopy(member.net).to(self.device)
            optimizer = torch.optim.Adam(net.parameters(), lr=self.model["lr"])
            rows = [self.rows[stage][fold].to(self.device) for stage in ("train", "val")]
            X, y, X_val, y_val = (t[r] for r in rows for t in (all_X, all_y))
            errors = (0.0, 0.0)
            for order in self.orders[fold]:
                net.train()
                for batch in torch.split(order.to(self.device), self.batch_size):
                    loss = nn.functional.mse_loss(net(all_X[batch]).squeeze(1), targets[batch]) / 2
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                net.eval()
                with torch.no_grad():
                    train, val = net(X).squeeze(1), net(X_val).squeeze(1)
                    if log_price:
                        train, val = train.exp(), val.exp()
                    errors = (log_rmse(train, y).item(), log_rmse(val, y_val).item())
            metrics.append(errors)
        return mean_metrics(metrics)

    def trainer_per_fold(self) -> Metrics:
        """Train each fold by a Trainer with DataLoaders over TensorDatasets, as in Lightning's tutorials."""
        metrics = []
        for fold in range(self.k):
            model = PlainRegressor(copy.deepcopy(self.members[fold].net), self.model["lr"])
            of_fold = [rows[fold] for rows in self.rows.values()]
            evaluated = [DataLoader(TensorDataset(self.X[r], self.y[r]), self.batch_size) for r in of_fold]
            order = GivenOrder(self.orders[fold])
            train = DataLoader(TensorDataset(self.X, self.y), self.batch_size, sampler=order)
            trainer = self.trainer(f"fold_{fold + 1}")
            trainer.fit(model, train, evaluated)
            logged = trainer.callback_metrics
            metrics.append((logged["train/log_rmse"].item(), logged["val/log_rmse"].item()))
        return mean_metrics(metrics)


def fold_metrics(folds: StackedModule) -> Metrics:
    """Return the mean over the folds of each stage's error."""
    return {stage: folds.evaluated[f"{stage}/log_rmse"].mean().item() for stage in ("train", "val")}


class PlainRegressor(LightningModule):
    """The linear model of Section 4.10 in plain Lightning."""

    stages = ("train", "val")

    def __init__(self, net: nn.Module, lr: float) -> None:
        from torchmetrics import MeanSquaredError

        super().__init__()
        self.net, self.lr = net, lr
        self.errors = nn.ModuleList(MeanSquaredError(squared=False) for _ in self.stages)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return and log the loss."""
        X, y = batch
        loss = nn.functional.mse_loss(self.net(X).squeeze(1), y) / 2
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int) -> None:
        """Add a batch to the error of its rows."""
        X, y = batch
        error = cast(Any, self.errors[dataloader_idx])
        error(self.net(X).squeeze(1).clamp(min=1).log(), y.log())
        self.log(f"{self.stages[dataloader_idx]}/log_rmse", error, add_dataloader_idx=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.lr)
