"""The constants that minimise squared and absolute errors, and noise with exponential tails (3.1.6)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from d2l_lightning.callbacks.parameter_path import ParameterPath
from d2l_lightning.data.exercises import ExponentialNoiseData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError, require_positive
from d2l_lightning.functional.laplace import laplace_negative_log_likelihood
from d2l_lightning.functional.normal import gaussian_negative_log_likelihood
from d2l_lightning.models.absolute_loss import LeastAbsoluteDeviations
from d2l_lightning.plots.regression import costs_of_constants
from d2l_lightning.plots.style import Curve, curve_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run

import torch
from torch import Tensor

STEPS = {"equal": "equal steps", "falling": "falling steps"}


def main(
    run: Run,
    lrs: Sequence[float] = (1.0, 0.3, 0.1),
    data: Callable[..., ExponentialNoiseData] = ExponentialNoiseData,
) -> None:
    """Estimate a number from measurements by the mean, the median, and SGD on absolute errors (3.1.6).

    Args:
        run: The run.
        lrs: The learning rates of the first step, side by side, as in `--lrs 1 0.3`.
        data: The measurements.
    """
    if not lrs or len(set(lrs)) < len(lrs):
        raise InputError(f"lrs must name each learning rate once, and at least one: {list(lrs)}")
    require_positive(lrs=min(lrs))
    rows = data(seed=run.seed)
    y = rows.y.double()
    centres = {"mean": y.mean().item(), "median": y.quantile(0.5).item()}
    constants = torch.linspace(y.min().item(), y.max().item(), 2001, dtype=torch.float64)
    costs = {
        "normal": [gaussian_negative_log_likelihood(b.expand(len(y)), y).item() for b in constants],
        "exponential": [laplace_negative_log_likelihood(b.expand(len(y)), y).item() for b in constants],
    }
    best = {noise: constants[torch.tensor(cost).argmin()].item() for noise, cost in costs.items()}
    paths = {steps: fit(run, lrs, rows, steps) for steps in STEPS}
    distances = {steps: (path - centres["median"]).abs() for steps, path in paths.items()}
    results = {
        "truth": rows.location,
        **centres,
        "minimisers": best,
        "lrs": list(lrs),
        "distances": {steps: last_quarter(each) for steps, each in distances.items()},
    }
    curves: dict[str, list[Curve]] = {
        name: [
            (f"lr {lr:g}", *by_epoch(distances[steps][1:, k], len(y), rows.batch_size))
            for k, lr in enumerate(lrs)
        ]
        for steps, name in STEPS.items()
    }
    title, labels = (
        "SGD on absolute errors: mean distance in each epoch",
        ("epoch", "distance from the median"),
    )
    run.finish(
        results,
        tables=tables(results),
        figures={
            "costs": partial(costs_of_constants, constants.tolist(), costs, centres),
            "distances": partial(curve_figure, title, curves, *labels, yscale="log"),
        },
    )


def fit(run: Run, lrs: Sequence[float], rows: ExponentialNoiseData, steps: str) -> Tensor:
    """Train with all learning rates side by side; return the estimates, shape ``(steps + 1, K)``."""
    members = [LeastAbsoluteDeviations(1, lr, steps == "falling", sigma=0.0, bias=False) for lr in lrs]
    stacked = StackedModule(members, [f"lr_{lr:g}" for lr in lrs])
    of_members = {"train": [rows.rows["train"]] * len(lrs)}
    data = StackedData(rows.X, rows.y, of_members, rows.batch_size, run.seed, same_order=True)
    path = ParameterPath(cast(LeastAbsoluteDeviations, stacked.stacked).net.weight)
    run.fit(steps, stacked, data, title=STEPS[steps], callbacks=[path])
    return path.values.double()[:, :, 0, 0]


def by_epoch(distances: Tensor, num_rows: int, batch_size: int) -> tuple[list[int], list[float]]:
    """Return the epochs, from 1, and the mean over each of the distances after all steps, ``(steps,)``."""
    means = [part.mean().item() for part in distances.split(-(-num_rows // batch_size))]
    return list(range(1, len(means) + 1)), means


def last_quarter(distances: Tensor) -> list[float]:
    """Return the mean distance over the last quarter of the steps, for each learning rate."""
    return distances[-max(1, len(distances) // 4) :].mean(dim=0).tolist()


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Return tables of the best constants, and of how close SGD stays to the median."""
    constants = [
        ("normal: sum of squared errors", results["minimisers"]["normal"], "mean", results["mean"]),
        (
            "exponential: sum of absolute errors",
            results["minimisers"]["exponential"],
            "median",
            results["median"],
        ),
    ]
    rows = [
        (f"{lr:g}", *(each[k] for each in results["distances"].values()))
        for k, lr in enumerate(results["lrs"])
    ]
    note = (
        "Mean distance from the median in the last quarter of the steps. The gradient of an absolute error "
        "is 1 or -1 at any distance, so SGD with equal steps does not come to rest. Falling steps: step t "
        "has the rate lr / sqrt(t)."
    )
    return [
        Table(
            "the constant with the greatest likelihood",
            ("noise", "constant", "statistic", "its value"),
            constants,
            f"Constant: the best of a grid. The true value is {results['truth']:g}.",
        ),
        Table("SGD on absolute errors", ("lr", *STEPS.values()), rows, note),
    ]


if __name__ == "__main__":
    run_experiment(main)
