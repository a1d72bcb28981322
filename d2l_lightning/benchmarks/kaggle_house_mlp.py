"""The 5-fold cross-validation with the perceptron of `configs/kaggle_house_mlp.yaml`."""

from pathlib import Path
from typing import ClassVar

import yaml

from d2l_lightning.benchmarks.kaggle_house import HouseFolds
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.runs.run import Run


class PerceptronFolds(HouseFolds):
    """The folds of a perceptron with dropout; its masks differ, so the metrics agree only roughly."""

    title = "5-fold cross-validation on house prices, a perceptron with dropout"
    baselines: ClassVar = {"bare_loop": "bare loop"}

    def __init__(self, run: Run, epochs: int, scripts: Path) -> None:
        config = scripts.parent / "configs" / "kaggle_house_mlp.yaml"
        known = PriceRegressor(1).hparams
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        self.model = {name: value for name, value in settings.items() if name in known}
        super().__init__(run, epochs, scripts)
        self.implementations = {"this project": self.run_fit, "bare loop": self.pytorch_loop}
