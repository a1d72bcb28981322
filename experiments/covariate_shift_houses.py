"""Covariate shift that nobody made: house prices, learned on older houses, wanted for newer ones (4.9.3)."""

from typing import Literal

from d2l_lightning.data.covariate_shift import ShiftedHouses
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.run import Run, run_experiment
from d2l_lightning.shift.comparison import DomainSettings, correct_and_compare


def main(
    run: Run,
    split_by: Literal["YearBuilt", "Neighborhood"],
    year: int,
    neighborhoods: list[str],
    domain_hidden_sizes: list[int],
    domain_lr: float,
    domain_steps: int,
    k: int,
    cap: float,
    num_permutations: int,
    hidden_sizes: list[int],
    lr: float,
    weight_decay: float,
    batch_size: int,
    data_dir: str | None = None,
) -> None:
    """Learn prices on some houses, for other ones: by year built or by neighbourhood (4.9.3).

    True weights are unknown here; the fit that knows the truth is one on the labels of half of the target.

    Args:
        run: The run.
        split_by: What tells source and target apart; it is no feature then.
        year: Houses built in this year or later are the target.
        neighborhoods: Houses in these are the target, as in `--neighborhoods OldTown Edwards`.
        domain_hidden_sizes: Hidden layers of the domain classifier; none for logistic regression.
        domain_lr: Adam's learning rate of the domain classifier.
        domain_steps: Steps of its training at least.
        k: Number of folds of the cross-fitting.
        cap: The greatest weight, c.
        num_permutations: How often held-out rows are dealt out for the detector's p-value.
        hidden_sizes: Width of each hidden layer of the model; none for a linear model.
        lr: Adam's learning rate.
        weight_decay: Adam's L2 penalty.
        batch_size: Rows in a batch.
        data_dir: A folder with your own train.csv and test.csv; the data that ships with the package if not
            given.
    """
    domain = DomainSettings(domain_hidden_sizes, domain_lr, domain_steps, k, cap, num_permutations)
    data = ShiftedHouses(data_dir, split_by, year, neighborhoods, batch_size, run.seed)
    data.setup()
    num_features = data.X.shape[1]
    model = PriceRegressor(num_features, hidden_sizes, log_price=True, lr=lr, weight_decay=weight_decay)
    results, _ = correct_and_compare(
        run,
        data,
        model,
        "half the squared error of log price",
        ("log_rmse", "log RMSE"),
        domain,
    )
    run.finish(results)


if __name__ == "__main__":
    run_experiment(main)
