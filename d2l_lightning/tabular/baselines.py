"""Regressions by other packages, to compare with: lasso, CatBoost and RealMLP. They predict house prices."""

import logging
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.data.tables.reading import to_numbers
from d2l_lightning.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# The package of each method: its module, and its name for pip.
PACKAGES = {
    "lasso": ("sklearn", "scikit-learn"),
    "catboost": ("catboost", "catboost"),
    "realmlp": ("pytabkit", "pytabkit"),
}


def require_package(method: str) -> None:
    """Import the package of a method; raise an InputError if it is not installed."""
    module, name = PACKAGES[method]
    try:
        with warnings.catch_warnings(action="ignore"):
            import_module(module)
    except ImportError as error:
        remedy = "pip install 'd2l_lightning[comparison]' installs it"
        raise InputError(f"the method {method} needs the package {name}; {remedy}") from error


def lasso(houses: KaggleHouse, train_rows: Tensor, val_rows: Tensor, seed: int) -> Tensor:
    """Return prices of the validation rows by scikit-learn's lasso, on the features and the log price.

    Its alpha is found by a 5-fold cross-validation within the training rows.
    """
    folds = import_module("sklearn.model_selection").KFold(5, shuffle=True, random_state=seed)
    model = import_module("sklearn.linear_model").LassoCV(cv=folds, max_iter=10_000)
    X = houses.features(train_rows).double().numpy()
    model.fit(X[train_rows.numpy()], _log_prices(houses, train_rows))
    return torch.from_numpy(model.predict(X[val_rows.numpy()])).exp()


def catboost(houses: KaggleHouse, train_rows: Tensor, val_rows: Tensor, seed: int) -> Tensor:
    """Return prices of the validation rows by CatBoost with its defaults, on columns and the log price."""
    table, categories = raw_columns(houses)
    model = import_module("catboost").CatBoostRegressor(
        random_seed=seed, thread_count=1, verbose=False, allow_writing_files=False
    )
    model.fit(table.iloc[train_rows.numpy()], _log_prices(houses, train_rows), cat_features=categories)
    return torch.from_numpy(model.predict(table.iloc[val_rows.numpy()])).exp()


def realmlp(houses: KaggleHouse, train_rows: Tensor, val_rows: Tensor, seed: int) -> Tensor:
    """Return prices of the validation rows by RealMLP with its defaults, on columns and the log price.

    It takes no missing numbers; the median of the training rows replaces them.

    Source: Holzmüller et al., "Better by Default" (2024), in the package pytabkit.
    """
    table, categories = raw_columns(houses)
    medians = table.iloc[train_rows.numpy()].median(numeric_only=True)
    table = table.fillna(medians).astype(dict.fromkeys(categories, "category"))
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    with warnings.catch_warnings(action="ignore"):
        model = import_module("pytabkit").RealMLP_TD_Regressor(device="cpu", random_state=seed, n_threads=1)
        model.fit(table.iloc[train_rows.numpy()], _log_prices(houses, train_rows))
        return torch.from_numpy(model.predict(table.iloc[val_rows.numpy()])).double().exp()


BASELINES: Mapping[str, Callable[[KaggleHouse, Tensor, Tensor, int], Tensor]] = {
    "lasso": lasso,
    "catboost": catboost,
    "realmlp": realmlp,
}


def _log_prices(houses: KaggleHouse, rows: Tensor) -> Any:
    return houses.prices[rows].double().log().numpy()


def raw_columns(houses: KaggleHouse) -> "tuple[pd.DataFrame, list[str]]":
    """Return the columns of the training file, numbers as float64, and the names of the categories."""
    import pandas as pd

    table = houses.raw.iloc[: houses.num_train]
    categories = [column for column, kind in houses.kinds.items() if kind == "category"]
    values = {c: table[c].fillna("missing") if c in categories else to_numbers(table[c]) for c in table}
    return pd.DataFrame(values), categories
