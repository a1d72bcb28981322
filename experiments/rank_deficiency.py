"""Features that depend linearly on each other: many solutions, remedies, and where SGD ends (3.1.6)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from d2l_lightning.callbacks.parameter_path import ParameterPath
from d2l_lightning.data.exercises import DependentFeaturesData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError, require_members, require_positive
from d2l_lightning.functional.dependence import least_norm_solution, noise_on_features, null_space, ridge
from d2l_lightning.functional.linear import linear
from d2l_lightning.functional.regression import squared_loss
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.plots.dependence import noise_and_ridge, valley
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run

import torch
from torch import Tensor, nn

MOVE, LAMBD = 2.0, 0.01  # of the solutions and of ridge in the first table
COLUMNS = {
    "added": "added",
    "expected_added": "n sigma²",
    "condition": "condition",
    "one_draw": "one draw",
    "all_draws": "all draws",
    "ridge": "ridge",
}


def sgd_model(num_inputs: int, lr: float = 0.05) -> LinearRegression:
    """Return a linear model without a bias, with random initial weights.

    Args:
        num_inputs: Number of features.
        lr: The learning rate of minibatch SGD.
    """
    return LinearRegression(num_inputs, lr, sigma=2.0, bias=False)


def main(
    run: Run,
    starts: int = 8,
    sigmas: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0),
    draws: int = 1000,
    data: Callable[..., DependentFeaturesData] = DependentFeaturesData,
    model: Callable[..., LinearRegression] = sgd_model,
) -> None:
    """Solve linear regression where X^T X has no inverse: exactly, with noise on X, by ridge, by SGD (3.1.6).

    Args:
        run: The run.
        starts: Number of initial weights, from which minibatch SGD starts side by side. The first are 0.
        sigmas: Standard deviations of the noise that is added to the features, as in `--sigmas 0.1 1`.
        draws: How often noise is drawn, for each standard deviation, with both signs.
        data: The data.
        model: The model that is trained by minibatch SGD.
    """
    require_members(starts=starts)
    require_positive(draws=draws)
    if not sigmas:
        raise InputError("sigmas must name at least one standard deviation")
    require_positive(sigmas=min(sigmas))
    rows = data(seed=run.seed)
    X, y = rows.X.double(), rows.y.double()
    shortest, free = least_norm_solution(X, y), null_space(X)
    generator = torch.Generator().manual_seed(run.seed)
    exact = {
        "shortest": shortest,
        "moved_in_null_space": shortest + MOVE * free[:, 0],
        "moved_backwards": shortest - MOVE * free[:, 0],
        "truth": rows.w.double(),
        "ridge": ridge(X, y, LAMBD),
    }
    results: dict[str, Any] = {
        "columns": X.shape[1],
        "rank": X.shape[1] - free.shape[1],
        "eigenvalues": torch.linalg.eigvalsh(X.T @ X).tolist(),
        "weights": {name: describe(X, y, w) for name, w in exact.items()},
        "noise": [noise_on_features(X, y, sigma, draws, generator) for sigma in sorted(sigmas)],
    }
    members = [model(X.shape[1]) for _ in range(starts)]
    nn.init.zeros_(members[0].net.weight)
    path = fit(run, rows, members).double()
    results["sgd"] = [describe_path(X, y, shortest, free, weights) for weights in path.unbind(dim=1)]
    run.finish(
        results,
        tables=tables(results, 2 * draws),
        figures={
            "valley": partial(valley, X, y, shortest, free[:, 0], path),
            "noise": partial(noise_and_ridge, results["noise"], 2 * draws),
        },
    )


def describe(X: Tensor, y: Tensor, w: Tensor) -> dict[str, Any]:
    """Return weights, with their length, their loss, and the length of its gradient."""
    y_hat = linear(X, w)
    loss, gradient = squared_loss(y_hat, y).mean(), X.T @ (y_hat - y) / len(y)
    return {"w": w.tolist(), "norm": w.norm().item(), "loss": loss.item(), "gradient": gradient.norm().item()}


def describe_path(X: Tensor, y: Tensor, shortest: Tensor, free: Tensor, path: Tensor) -> dict[str, Any]:
    """Return where SGD ended, and how its weights, ``(steps + 1, d)``, moved in the null space."""
    before, after = path[0] @ free, path[-1] @ free
    nearest = shortest + free @ before  # the solution that has the same part in the null space as the start
    return {
        **describe(X, y, path[-1]),
        "in_null_space": before.tolist(),
        "moved_in_null_space": (after - before).norm().item(),
        "to_nearest_solution": (path[-1] - nearest).norm().item(),
        "to_shortest_solution": (path[-1] - shortest).norm().item(),
    }


def fit(run: Run, rows: DependentFeaturesData, members: Sequence[LinearRegression]) -> Tensor:
    """Train from all initial weights side by side; return all weights, shape ``(steps + 1, K, d)``."""
    stacked = StackedModule(members, [f"start_{k}" for k in range(1, len(members) + 1)])
    of_members = {"train": [rows.rows["train"]] * len(members)}
    data = StackedData(rows.X, rows.y, of_members, rows.batch_size, run.seed, same_order=True)
    path = ParameterPath(cast(LinearRegression, stacked.stacked).net.weight)
    run.fit("starts", stacked, data, title=f"SGD from {len(members)} starts", callbacks=[path])
    return path.values.squeeze(2)


def tables(results: Mapping[str, Any], draws: int) -> list[Table]:
    """Return tables of exact weights, of noise on the features, and of SGD."""
    num = min(3, results["columns"])
    exact = [
        [
            name.replace("_", " "),
            *(f"{x:.3f}" for x in (*each["w"][:num], each["norm"])),
            f"{each['loss']:.6f}",
        ]
        for name, each in results["weights"].items()
    ]
    names = ("", *(f"w{i + 1}" for i in range(num)), "length", "loss")
    note = (
        f"X has {results['columns']} columns and rank {results['rank']}. Eigenvalues of X^T X: from "
        f"{results['eigenvalues'][0]:.1e} to {results['eigenvalues'][-1]:.1e}. The first three rows are "
        f"solutions; two of them are {MOVE:g} away from the shortest. Ridge has lambda {LAMBD}. "
        "Loss: half the mean squared error."
    )
    noise = [[f"{each['sigma']:g}", *(f"{each[key]:.4g}" for key in COLUMNS)] for each in results["noise"]]
    noise_note = (
        f"Added: what noise adds to the diagonal of X^T X, mean of {draws:,} draws. Condition: the condition "
        "number of X^T X, median. The other columns are distances from the shortest solution: of the "
        "solution for one draw (median), of that for all draws as one data set, and of ridge with lambda = "
        "sigma²."
    )
    ends = [
        [
            str(k),
            f"{each['in_null_space'][0]:.3f}",
            *(f"{each[key]:.1e}" for key in ENDS),
            f"{each['loss']:.6f}",
        ]
        for k, each in enumerate(results["sgd"], start=1)
    ]
    ends_note = (
        "The first start has weights of 0. Null: the part of the initial weights in the null space, on which "
        "no prediction depends. Moved: how far SGD moved it. Nearest, shortest: distances from these "
        "solutions, near which the minibatches keep SGD moving. Gradient: its length over all rows."
    )
    return [
        Table("weights where features depend on each other", names, exact, note),
        Table("noise on the features", ("sigma", *COLUMNS.values()), noise, noise_note),
        Table("minibatch SGD", ("start", "null", *ENDS.values(), "loss"), ends, ends_note),
    ]


ENDS = {
    "moved_in_null_space": "moved",
    "to_nearest_solution": "nearest",
    "to_shortest_solution": "shortest",
    "gradient": "gradient",
}

if __name__ == "__main__":
    run_experiment(main)
