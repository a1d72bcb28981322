"""What each part of the recipe for house prices is worth: the recipe without it, on the same folds (4.10)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby, product
from pathlib import Path
from typing import Any

from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.data.tables.ames import INTERACTIONS
from d2l_lightning.ensemble.folds import make_folds
from d2l_lightning.errors import require_positive
from d2l_lightning.functional.regression import log_rmse
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.plots.tables import comparison_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import refuse_flags
from d2l_lightning.tabular.recipe import Recipe, read_recipe
from d2l_lightning.tabular.training import held_out_predictions, train_side_by_side

RECIPE = Path(__file__).parent.parent / "configs" / "kaggle_house_best.yaml"

# How the price of a large house depends on whether it was finished when it was sold.
SALE_AND_SIZE = ("Big", "LogBig", "PartialBig", "PartialLogBig", "PartialSize")


@dataclass(frozen=True)
class Variant:
    """The recipe with other settings of the model or the data, or without some features."""

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    without: Sequence[str] = ()


VARIANTS = (
    Variant("all parts"),
    Variant("without the l1 penalty", {"l1": 0.0}),
    Variant("squared loss", {"loss": "squared"}),
    Variant(
        "standard parametrization, lr 0.003", {"parametrization": "standard", "lr": 0.003, "bias_lr": None}
    ),
    Variant("without dropout", {"dropout": 0.0}),
    Variant("without sale and size", without=SALE_AND_SIZE),
    Variant("without interactions", without=tuple(INTERACTIONS)),
    Variant("plain features", data={"features": "columns"}),
    Variant("linear", {"hidden_sizes": []}),
)


def main(run: Run, recipe: str | Path = RECIPE, splits: int = 4, k: int = 5, models: int = 3) -> None:
    """Cross-validate the recipe for house prices without each of its parts (4.10).

    Variants that differ in settings that members may have of their own are trained side by side, with all
    their folds. The metric is the log RMSE over all training rows, each predicted by models that were not
    trained on it.

    Args:
        run: The run.
        recipe: The config file of `kaggle_house.py` with the recipe.
        splits: Number of times that the rows are assigned to folds at random.
        k: Number of folds.
        models: Number of models of each fold, with other initial weights and orders of the rows. The means of
            their logarithms of the price are the predictions.
    """
    import pandas as pd

    require_positive(splits=splits, models=models)
    refuse_flags(run.trainer_flags, "the recipe says how long to train", {"max_epochs", "min_epochs"})
    settings = read_recipe(Path(recipe))
    pooled: dict[str, list[float]] = {}
    for _, group in groupby(VARIANTS, key=lambda variant: _shape(variant, settings)):
        pooled |= _cross_validate(run, list(group), settings, splits, k, models)
    table = pd.DataFrame(pooled).rename_axis("split").rename(lambda split: split + 1).T
    means = table.mean(axis=1)
    rows = [
        (name, means[name], f"{means[name] - means.iloc[0]:+.4f}", min(each), max(each))
        for name, each in pooled.items()
    ]
    columns = ("variant", "mean", "mean minus that of all parts", "best split", "worst split")
    title = f"log RMSE over all rows, for {splits} random splits into {k} folds"
    note = (
        f"Each row is predicted by {models} models that were not trained on it. A part of the recipe helps "
        "if the log RMSE is higher without it."
    )
    run.finish(
        {"pooled_val_log_rmse": pooled},
        products={"ablation.csv": table.rename_axis("variant").reset_index()},
        tables=[Table(title, columns, rows, note)],
        figures={"ablation": lambda: comparison_figure(pooled, "log RMSE over all rows", title, "split")},
    )


def _shape(variant: Variant, recipe: Recipe) -> Any:
    """Return what the members of a fit have in common."""
    model = {**recipe.model, **variant.model}
    shared = {name: value for name, value in model.items() if name not in PriceRegressor.buffer_hparams}
    return shared, {**recipe.data, **variant.data}, variant.without


def _cross_validate(
    run: Run, variants: Sequence[Variant], recipe: Recipe, splits: int, k: int, models: int
) -> dict[str, list[float]]:
    """Train all folds of variants side by side; return the log RMSE of each split, by the variant's name."""
    houses = KaggleHouse(**{**recipe.data, **variants[0].data}, seed=run.seed)
    houses.setup()
    kept = [i for i, name in enumerate(houses.feature_names) if name not in variants[0].without]
    *folds, names = make_folds("shuffled", k, houses.prices, splits, run.seed)
    # The folds of a split stand together, for each model of each variant.
    train, val = (rows * models * len(variants) for rows in folds)
    X = houses.stacked_features(train)[0][..., kept]
    members = {
        f"{v.name}, model {m + 1}, {name}": PriceRegressor(len(kept), **{**recipe.model, **v.model})
        for v, m, name in product(variants, range(models), names)
    }
    name, title = variants[0].name.replace(" ", "_").replace(",", ""), " and ".join(v.name for v in variants)
    settings: Any = {"title": title, "max_epochs": recipe.max_epochs}
    _, trained = train_side_by_side(run, name, houses, X, members, {"train": train}, **settings)
    predictions = held_out_predictions(list(trained.values()), X, val, k)
    means = predictions.clamp(min=1).log().view(len(variants), models, splits, -1).mean(dim=1).exp()
    return {
        variant.name: [log_rmse(each, houses.prices).item() for each in of_variant]
        for variant, of_variant in zip(variants, means, strict=True)
    }


if __name__ == "__main__":
    run_experiment(main)
