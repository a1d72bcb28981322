"""Hyperparameters for house prices, chosen by cross-validation of many settings side by side (4.10.7)."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.errors import InputError, require_positive
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.runs.cli import changed_settings, flag_parser, run_experiment, settings_of
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import HARMLESS, given_flags
from d2l_lightning.search.outputs import finish_search
from d2l_lightning.search.search import run_search
from d2l_lightning.search.settings import SearchSettings
from d2l_lightning.search.space import read_space
from d2l_lightning.tabular.search import TableTask

SPACE = Path(__file__).parent.parent / "configs" / "sweeps" / "kaggle_house.yaml"


def main(
    run: Run,
    space: str | Path = SPACE,
    k: int = 5,
    folds: str = "contiguous",
    final_models: int = 1,
    data: Callable[..., KaggleHouse] = KaggleHouse,
    model: Callable[..., PriceRegressor] = PriceRegressor,
    settings: Callable[..., SearchSettings] = SearchSettings,
) -> None:
    """Search for hyperparameters of `kaggle_house.py` by cross-validation (4.10.7).

    Settings are trained side by side, each on all folds, and those that lag behind are ended early. The file
    `best.yaml` in the run folder is a config file for `kaggle_house.py`.

    Args:
        run: The run.
        space: A W&B sweep file. Its `parameters` are the settings to choose from; they may be flags of the
            data and of the model, and `max_epochs`.
        k: Number of folds.
        folds: How rows are assigned to folds: in the file's order (contiguous), at random by the seed
            (shuffled), at random with labels of all sizes in each fold (stratified), or so that the rows with
            one value of a column are in one fold (group:COLUMN).
        final_models: Number of models of all rows that `kaggle_house.py` trains with `best.yaml`. The search
            trains none.
        data: The data, for settings that the space does not have.
        model: The model, for settings that the space does not have.
        settings: The search.
    """
    parse = flag_parser(KaggleHouse, PriceRegressor, trained_for)
    chosen = read_space(space, parse)
    if "seed" in chosen.names:
        raise InputError("the search space has the parameter seed, which is a flag of the run")
    require_positive(final_models=final_models)
    base = {"seed": run.seed, "k": k, "folds": folds, **changed_settings(data), **changed_settings(model)}
    base |= {name: value for name, value in given_flags(run.trainer_flags).items() if name not in HARMLESS}
    task = TableTask(
        table=partial(data, seed=run.seed),
        model=model,
        table_settings=frozenset(settings_of(KaggleHouse)),
        metric="log_rmse",
        k=k,
        folds=folds,
        seed=run.seed,
        data_seed=run.seed,
        base=base,
    )
    found = run_search(run, task, chosen, settings())
    finish_search(run, found, {**base, "final_models": final_models}, metric="log RMSE")


def trained_for(max_epochs: int = 1) -> None:
    """Have the setting that a space may have beside those of the data and of the model."""


if __name__ == "__main__":
    # Otherwise the last bits of a product depend on where in memory a setting is in its stack.
    os.environ.setdefault("MKL_CBWR", "AUTO")
    run_experiment(main)
