"""Covariate shift of real data: house prices, learned on older houses for newer ones (4.9.3)."""

from collections.abc import Callable
from typing import Any

from d2l_lightning.data.shifted_houses import ShiftedHouses
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import refuse_precision
from d2l_lightning.shift.comparison import compare, comparison_report
from d2l_lightning.shift.domain import DomainSettings


def log_price_regressor(num_features: int, **model: Any) -> PriceRegressor:
    """Return a model of the logarithm of the price."""
    return PriceRegressor(num_features, log_price=True, standardize=False, clip=False, **model)


def main(
    run: Run,
    data: Callable[..., ShiftedHouses] = ShiftedHouses,
    model: Callable[..., PriceRegressor] = log_price_regressor,
    domain: Callable[..., DomainSettings] = DomainSettings,
) -> None:
    """Predict prices of newer houses, or of other neighbourhoods, than those with known prices (4.9.3).

    The true weights are unknown. The comparison is with a fit on the labels of half of the target.
    """
    refuse_precision(run.trainer_flags, "16-true", "prices are above 65504, its greatest number")
    settings, houses = domain(), data(seed=run.seed)
    houses.setup()
    comparison = compare(run.fit, houses, model(houses.X.shape[1]), settings, "log_rmse")
    report = comparison_report(comparison, "half the squared error of log price", "log RMSE")
    run.finish(**vars(report))


if __name__ == "__main__":
    run_experiment(main)
