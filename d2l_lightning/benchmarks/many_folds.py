"""The cross-validation on house prices with 50 folds beside that with 5."""

from typing import Any, ClassVar

from d2l_lightning.benchmarks.base import Job
from d2l_lightning.benchmarks.kaggle_house import HouseFolds


class FiftyFolds(HouseFolds):
    """The cross-validation with 50 folds."""

    k = 50


class ManyFolds(Job):
    """What 50 folds in one fit cost, beside 5; their metrics are those of other folds."""

    title = "50-fold cross-validation on house prices"
    baselines: ClassVar = {"five_folds": "5 folds"}
    on_gpu = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.implementations = {
            "this project": FiftyFolds(*args).run_fit,
            "5 folds": HouseFolds(*args).run_fit,
        }
