"""Folders of runs of the house-price job, as small as predictions need them."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

from d2l_lightning.data.kaggle_house import BUNDLED, KaggleHouse
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.runs.run import Run
from d2l_lightning.tabular.cross_validation import cross_validate

TRAIN, TEST = (BUNDLED / f"kaggle_house_pred_{name}.csv.gz" for name in ("train", "test"))


def write_house_run(
    folder: Path, k: int = 3, statistics: Literal["all", "train"] = "all", **model: Any
) -> Path:
    """Write what predictions need of a run of the house-price job, trained for an epoch."""
    flags = {"accelerator": "cpu", "enable_progress_bar": False, "logger": "none", "max_epochs": 1}
    settings = {"log_price": True, "lr": 0.01, **model}
    with Run("kaggle_house", run_dir=folder, **flags) as run:
        houses = KaggleHouse(statistics=statistics)
        cv = cross_validate(run, houses, partial(PriceRegressor, **settings), k=k)
        run.finish(cv.results(), products={"oof_predictions.csv": cv.out_of_fold()}, checkpoints=cv.members)
    return folder
