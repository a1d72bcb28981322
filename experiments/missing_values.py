"""Missing values of house prices: the mean, the median or an indicator in their place (4.10, exercise 3)."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from d2l_lightning.data.batches import data_generator
from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.data.tables.reading import to_numbers
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.grid import cross_validation
from d2l_lightning.errors import InputError, require_members
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.plots.tables import missing_values_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.tabular.missing import METHODS, PATTERNS, collect_scores, make_candidates
from d2l_lightning.tabular.training import held_out_predictions

import torch
from torch import Tensor

LR = 0.02  # of Adam, on the logarithm of the price


def main(
    run: Run,
    columns: Sequence[str] = ("GrLivArea", "YearBuilt"),
    share: float = 0.3,
    strength: float = 2.0,
    draws: int = 5,
    k: int = 5,
    data_dir: str | Path | None = None,
) -> None:
    """Remove values of a column, at random and not at random, and compare what takes their place (4.10).

    A linear model learns the logarithm of the price of houses from a few columns. All models are trained side
    by side: for each draw of the missing values, each method, and each fold.

    Args:
        run: The run.
        columns: The columns of numbers that the model learns from. The first one loses values.
        share: The share of its values that are removed.
        strength: How much more often large values are removed where values are not missing at random: the
            probability grows with this power of the rank of the value.
        draws: How often values are removed, each time by other random numbers.
        k: Number of folds.
        data_dir: A folder with other files train.csv and test.csv, as of kaggle_house.py.
    """
    require_members(draws=draws)
    houses = KaggleHouse(data_dir)
    houses.setup()
    values, y = numbers(houses, columns), houses.prices
    candidates = make_candidates(values[:, 0], share, strength, draws, data_generator(run.seed))
    X = torch.stack([candidate.features(values) for candidate in candidates])
    names = [f"candidate_{i}" for i in range(len(candidates))]
    model = partial(PriceRegressor, X.shape[-1], log_price=True, lr=LR)
    members, data = cross_validation(names, model, X, y, k, houses.batch_size, run.seed)
    run.fit("candidates", members, data, title=f"{len(names)} times {k} models", logged=False)
    val_rows = k_fold(len(y), k)[1] * len(names)
    predictions = held_out_predictions(members.unstack(), X.repeat_interleave(k, dim=0), val_rows, k)
    scores = [candidate.score(own, y) for candidate, own in zip(candidates, predictions, strict=True)]
    results = collect_scores(candidates, scores, values[:, 0])
    missing = candidates[-1].missing
    run.finish(
        results,
        tables=[comparison(results, columns, share)],
        figures={
            "missing_values": partial(missing_values_figure, values[:, 0], missing, columns[0], results)
        },
    )


def numbers(houses: KaggleHouse, columns: Sequence[str]) -> Tensor:
    """Return columns of numbers of the training rows: shape ``(n, p)``, float64."""
    if not columns or len(set(columns)) < len(columns):
        raise InputError(f"columns must name at least one column, and each one once, not {list(columns)}")
    known = [name for name, kind in houses.kinds.items() if kind == "number"]
    for column in columns:
        if column not in known:
            raise InputError(f"columns: {column!r} is no column of numbers; these are {', '.join(known)}")
    table = houses.raw.iloc[: houses.num_train]
    values = [torch.from_numpy(to_numbers(table[column]).to_numpy(copy=True)) for column in columns]
    if lacking := int(values[0].isnan().sum()):
        raise InputError(f"{lacking} houses have no {columns[0]}; the first of columns must be complete")
    return torch.stack(values, dim=1)


def comparison(results: Mapping[str, Any], columns: Sequence[str], share: float) -> Table:
    """Return the errors of each method where values are missing at random, and where they are not."""
    rows: list[tuple[str | float, ...]] = [("nothing missing", results["complete"]["log_rmse"], "", "")]
    for pattern in PATTERNS:
        for method in METHODS:
            own = results[pattern][method]
            label = f"{pattern.replace('_', ' ')}: {method}"
            rows.append(
                (label, own["log_rmse"], own["log_rmse_missing"], f"{own['price_ratio_missing']:.3f}")
            )
    means = results["not_at_random"]
    note = (
        "The last two columns are the error and the ratio of the prices for the houses whose value is "
        f"missing. Where values are not missing at random, the mean of {columns[0]} is "
        f"{means['mean_of_missing']:.0f} where it is missing and {means['mean_of_others']:.0f} where it is "
        "not. Indicator: the mean takes the place of missing values, and a further feature says where."
    )
    heads = ("", "log RMSE", "log RMSE, missing", "predicted / true")
    return Table(f"{share:.0%} of {columns[0]} missing", heads, rows, note)


if __name__ == "__main__":
    run_experiment(main)
