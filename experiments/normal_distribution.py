"""The normal distribution, and the squared loss as its negative log-likelihood (3.1.3)."""

from collections.abc import Callable, Sequence
from functools import partial

from d2l_lightning.data.kaggle_house import BUNDLED, PRICE
from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.data.tables.reading import read_table, to_numbers
from d2l_lightning.errors import InputError, require_finite
from d2l_lightning.functional.linear import linear
from d2l_lightning.functional.normal import (
    gaussian_negative_log_likelihood,
    normal_density,
    require_deviation,
    skewness,
)
from d2l_lightning.functional.regression import squared_loss
from d2l_lightning.plots.regression import normal_densities, prices_figure
from d2l_lightning.plots.style import Curve, curve_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import refuse_flags

import torch
from torch import Tensor


def main(
    run: Run,
    means: Sequence[float] = (0.0, 0.0, 3.0),
    stds: Sequence[float] = (1.0, 2.0, 1.0),
    noise: float = 0.01,
) -> None:
    """Draw normal densities, and find weights by the squared loss and by the likelihood (3.1.3).

    Args:
        run: The run.
        means: Mean of each density, as in `--means 0 0 3`.
        stds: Standard deviation of each density.
        noise: Standard deviation of the noise in the data (eq. 3.1.13) that the weights are found from.
    """
    refuse_flags(run.trainer_flags, "nothing is trained")
    if len(means) != len(stds) or not means:
        raise InputError(f"means and stds must have the same length, at least one: {means} and {stds}")
    require_finite(means=torch.tensor(means))
    normals = list(zip(means, stds, strict=True))
    # Each density has its own points, because a narrow one needs closer points than a wide one.
    points = [torch.linspace(m - 8 * s, m + 8 * s, 2001, dtype=torch.float64) for m, s in normals]
    values = [normal_density(x, m, s) for x, (m, s) in zip(points, normals, strict=True)]
    data = SyntheticRegressionData(noise=noise, num_val=0, seed=run.seed)
    if noise == 0:
        raise InputError("noise must be positive: without noise there is no likelihood")
    require_deviation(noise=noise)
    X, y = data.X.double(), data.y.double()
    objectives: dict[str, Callable[[Tensor], Tensor]] = {
        "squared_loss": lambda y_hat: squared_loss(y_hat, y).mean(),
        "negative_log_likelihood": lambda y_hat: gaussian_negative_log_likelihood(y_hat, y, noise) / len(y),
    }
    weights = {name: minimize(X, objective) for name, objective in objectives.items()}
    densities: list[dict[str, float]] = []
    for (mean, std), x, p in zip(normals, points, values, strict=True):
        peak = normal_density(torch.tensor(mean).double(), mean, std).item()
        densities.append({"mean": mean, "std": std, "peak": peak, "integral": torch.trapezoid(p, x).item()})

    names = [f"mean {mean:g}, standard deviation {std:g}" for mean, std in normals]
    peaks = [(name, d["peak"], d["integral"]) for name, d in zip(names, densities, strict=True)]
    found: list[tuple[str | float, ...]] = [(name.replace("_", " "), *w) for name, w in weights.items()]
    found.append(("none: the true weights", *data.w.tolist(), data.b))
    table = read_table(BUNDLED / "kaggle_house_pred_train.csv.gz")
    prices = torch.tensor(to_numbers(table[PRICE]).to_numpy())
    values_of = {"price": prices.double(), "log_price": prices.double().log()}
    shapes = {name: shape(x) for name, x in values_of.items()}
    labels = ("error: target minus prediction", "cost of one example")
    title = "The cost of an error: the same parabola, scaled and shifted"
    run.finish(
        {"densities": densities, "weights": weights, "prices": shapes},
        tables=[
            Table("normal densities", ("density", "highest value", "integral"), peaks),
            Table("weights that minimise an objective", ("objective", "w1", "w2", "b"), found),
            Table(
                "house prices in Ames",
                ("distribution of", "skewness", "normal probability below 0"),
                [(name.replace("_", " "), *of_price.values()) for name, of_price in shapes.items()],
                "The normal distribution is that of the same mean and standard deviation.",
            ),
        ],
        figures={
            "densities": partial(normal_densities, normals, points, values),
            "likelihoods": partial(curve_figure, title, costs_of_errors(stds), *labels),
            "prices": partial(prices_figure, values_of),
        },
    )


def shape(x: Tensor) -> dict[str, float]:
    """Return how far values are from a normal distribution (Section 3.1.6, exercise 7)."""
    below = torch.special.ndtr(-x.mean() / x.std(correction=0))
    return {"skewness": skewness(x).item(), "normal_probability_below_0": below.item()}


def minimize(X: Tensor, objective: Callable[[Tensor], Tensor]) -> list[float]:
    """Return the weights, and last the bias, whose predictions for X minimise an objective."""
    w = torch.zeros(X.shape[1], dtype=X.dtype, requires_grad=True)
    b = torch.zeros((), dtype=X.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [w, b], max_iter=100, tolerance_grad=1e-10, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective(linear(X, w, b))
        value.backward()
        return value

    optimizer.step(closure)
    return [*w.tolist(), b.item()]


def costs_of_errors(stds: Sequence[float]) -> dict[str, list[Curve]]:
    """Return the squared loss and the negative log-likelihoods of one error."""
    errors = torch.linspace(-2 * max(stds), 2 * max(stds), 201, dtype=torch.float64)
    x, zero = errors.tolist(), torch.zeros_like(errors)
    likelihoods: list[Curve] = []
    for std in sorted(set(stds)):
        costs = [gaussian_negative_log_likelihood(zero[0], error, std).item() for error in errors]
        likelihoods.append((f"standard deviation {std:g}", x, costs))
    squares = squared_loss(zero, errors).tolist()
    return {"squared loss": [("", x, squares)], "negative log-likelihood": likelihoods}


if __name__ == "__main__":
    run_experiment(main)
