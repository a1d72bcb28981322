"""A path of 32 lambdas with the settings of Section 4.5: one stacked fit, or 32 fits in turn."""

from typing import Any, ClassVar

import numpy as np

from d2l_lightning.benchmarks.base import Job, Metrics, mean_metrics
from d2l_lightning.data.regression import HighDimensionalData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.models.weight_decay import WeightDecayScratch


class LambdaPath(Job):
    """The path over the regularization constant."""

    members, lr, sigma = 32, 0.003, 1.0
    title = f"a path of {members} lambdas"
    baselines: ClassVar = {"fits_in_turn": "fits in turn"}

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.data = HighDimensionalData(seed=self.seed, watch_train=True)
        self.lambdas = np.geomspace(0.03, 100.0, self.members).tolist()
        self.state = WeightDecayScratch(self.data.X.shape[1], 0.0, sigma=self.sigma).state_dict()
        self.implementations = {"this project": self.run_fit, "fits in turn": self.trainer_per_member}

    def run_fit(self) -> Metrics:
        """Train all members in one fit, as `weight_decay.py` does."""
        stacked = StackedModule([self._member(lambd) for lambd in self.lambdas])
        rows = {stage: [indices] * self.members for stage, indices in self.data.rows.items()}
        data = StackedData(self.data.X, self.data.y, rows, self.data.batch_size, self.seed, same_order=True)
        self.fit_in_run("path", stacked, data)
        return {stage: stacked.evaluated[f"{stage}/squared_loss"].mean().item() for stage in ("train", "val")}

    def trainer_per_member(self) -> Metrics:
        """Train each member by a Trainer of its own."""
        metrics = []
        for lambd in self.lambdas:
            member = self._member(lambd)
            self.lean_trainer(f"lambda_{lambd:.3g}").fit(member, self.data)
            metrics.append([member.evaluated[f"{stage}/squared_loss"].item() for stage in ("train", "val")])
        return mean_metrics(metrics)

    def _member(self, lambd: float) -> WeightDecayScratch:
        member = WeightDecayScratch(self.data.X.shape[1], lambd, self.lr, self.sigma)
        member.load_state_dict(self.state)
        return member
