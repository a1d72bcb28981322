"""The settings of a config file of the house-price job, for experiments that compare models of houses."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.data.reading import open_input
from d2l_lightning.errors import InputError
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.runs.cli import settings_of


@dataclass(frozen=True)
class Recipe:
    """The settings of ``KaggleHouse`` and of ``PriceRegressor``, and the number of epochs."""

    data: dict[str, Any]
    model: dict[str, Any]
    max_epochs: int


def read_recipe(file: Path) -> Recipe:
    """Read the settings of a config file of ``experiments/kaggle_house.py``.

    Raises:
        InputError: If the file cannot be read or has no ``max_epochs``.
    """
    with open_input(file) as stream:
        try:
            held = yaml.safe_load(stream)
        except yaml.YAMLError as error:
            raise InputError(f"{file} is not YAML: {error}") from error
    if not isinstance(held, dict) or not isinstance(held.get("max_epochs"), int):
        raise InputError(f"{file} has no max_epochs; give a config file of kaggle_house.py")

    def own(part: Callable[..., Any]) -> dict[str, Any]:
        return {name: held[name] for name in settings_of(part) if name in held}

    return Recipe(own(KaggleHouse), own(PriceRegressor), held["max_epochs"])
