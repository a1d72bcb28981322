"""Second derivatives of a loss: their size, kinks, few rows, saddle points, and what helps (3.4.6)."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from d2l_lightning.data.batches import data_generator
from d2l_lightning.data.regression import synthetic_rows
from d2l_lightning.errors import InputError, require_finite, require_not_negative, require_positive
from d2l_lightning.functional import newton
from d2l_lightning.functional import second_derivatives as formulas
from d2l_lightning.functional.linear import least_squares
from d2l_lightning.functional.regression import squared_loss
from d2l_lightning.plots.regression import HALF_SQUARE
from d2l_lightning.plots.style import Curve, curve_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import refuse_flags

import torch
from torch import Tensor, nn

D, ROWS, UNITS = 20, 500, 8  # features, rows and hidden units where sizes are not compared
BATCHES = (10, 40, ROWS)


def main(
    run: Run,
    dims: Sequence[int] = (10, 100, 1000),
    num_rows: int = 2000,
    noise: float = 0.1,
    steps: int = 20,
    damping: float = 0.01,
) -> None:
    """Show what second derivatives of a loss cost, where they fail, and what helps (3.4.6, exercise 4).

    Args:
        run: The run.
        dims: Numbers of weights of the linear models whose Hessians are timed, as in `--dims 10 100`.
        num_rows: Rows of these models.
        noise: Standard deviation of the targets' noise.
        steps: Steps of the network that is trained by Newton's method and others.
        damping: What is added to the diagonal of a matrix that is singular or nearly so.
    """
    refuse_flags(run.trainer_flags, "no Trainer is used")
    require_positive(num_rows=num_rows, steps=steps, damping=damping)
    require_not_negative(noise=noise)
    if not dims or min(dims) < 1 or max(dims) > num_rows or len(set(dims)) < len(dims):
        raise InputError(
            f"dims must name numbers from 1 to num_rows, {num_rows}, each once, not {list(dims)}"
        )
    generator = data_generator(run.seed)

    def draw(n: int, d: int) -> tuple[Tensor, Tensor, Tensor]:
        w = torch.randn(d, generator=generator)
        X, y = (each.double() for each in synthetic_rows(n, generator, w, 0.0, noise))
        require_finite(y=y)
        return X, y, w.double()

    problems = [draw(num_rows, d) for d in sorted(dims)]  # before the run starts: the memory may not suffice
    run.start()
    sizes = [measure(*problem) for problem in run.track(problems, "Hessians")]
    results: dict[str, Any] = {
        "sizes": sizes,
        "kinks": newton.newton_on_kinks(*draw(ROWS, D), steps),
        "rows": newton.newton_on_few_rows(*draw(ROWS, D), BATCHES, damping),
        "network": newton.newton_on_a_network(*curved_network(run.seed, generator), steps, damping),
    }
    losses = results["network"]["losses"]
    curves: list[Curve] = [(name, range(len(of_name)), of_name) for name, of_name in losses.items()]
    columns = {
        "Hessian": "seconds",
        "its product with a vector": "product_seconds",
        "Newton step by products": "free_seconds",
    }
    times = [
        (name, [each["d"] for each in sizes], [each[key] for each in sizes]) for name, key in columns.items()
    ]
    title, axes = "Second derivatives of linear regression", ("number of weights", "time (seconds)")
    network_title = f"A network with {UNITS} hidden units: loss after each step"
    run.finish(
        results,
        tables=tables(results, damping),
        figures={
            "seconds": partial(
                curve_figure, title, {"": times}, *axes, xscale="log", yscale="log", markers=True
            ),
            "network": partial(curve_figure, network_title, {"": curves}, "step", HALF_SQUARE, yscale="log"),
        },
    )


def measure(X: Tensor, y: Tensor, w: Tensor) -> dict[str, float]:
    """Return the size and time of a Hessian, and what Newton's steps find."""
    d = len(w)
    loss = newton.mean_loss(squared_loss, X, y)
    start = torch.ones_like(w)
    H, seconds = timed(lambda: formulas.full_hessian(loss, start))
    _, product_seconds = timed(lambda: formulas.hessian_product(loss, start, w))
    solution = least_squares(X, y)
    without, free_seconds = timed(lambda: formulas.newton_step_without_hessian(loss, start))
    return {
        "d": d,
        "megabytes": H.nbytes / 1e6,
        "seconds": seconds,
        "product_seconds": product_seconds,
        "free_seconds": free_seconds,
        "formula_difference": (H - X.T @ X / len(X)).abs().max().item(),
        "newton_difference": (formulas.newton_step(loss, start) - solution).abs().max().item(),
        "free_difference": (without - solution).abs().max().item(),
    }


def timed(compute: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """Return a result, and the least time of three computations, in seconds."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        result = compute()
        seconds.append(time.perf_counter() - began)
    return result, min(seconds)


def curved_network(seed: int, generator: torch.Generator) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a small network, and the features and targets that it learns."""
    X = torch.randn(ROWS, 2, generator=generator).double()
    y = (2 * X[:, 0]).sin() + X[:, 1].square() - 1
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, UNITS), nn.Tanh(), nn.Linear(UNITS, 1)).double(), X, y


def tables(results: Mapping[str, Any], damping: float) -> Iterator[Table]:
    """Yield a table for each problem."""
    rows = []
    for r in results["sizes"]:
        times = [f"{1e3 * r[name]:.2f}" for name in ("seconds", "product_seconds", "free_seconds")]
        differences = [f"{r[f'{name}_difference']:.0e}" for name in ("formula", "newton", "free")]
        rows.append([f"{r['d']:,}", f"{r['megabytes']:.4g}", *times, *differences])
    columns = ["weights", "MB of H", "H, ms", "H v, ms", "CG, ms", "H - X^T X / n", "Newton", "CG"]
    note = (
        "H: the Hessian; H v: its product with a vector; CG: a Newton step by such products alone. The last "
        "three columns are greatest differences: of H from X^T X / n, and of two steps from the exact "
        "solution: one with H, and one by products."
    )
    yield Table("the Hessian of linear regression", columns, rows, note)

    rows = [
        [name, str(r["rank"]), error(r["newton"]), error(r["reweighted"])]
        for name, r in results["kinks"].items()
    ]
    note = (
        f"{D} weights. Errors of w: after a Newton step from 0, and after steps of reweighted least squares. "
        "A row with a large error adds nothing to the Hessian of the Huber loss, so Newton's step is too "
        "long."
    )
    yield Table("losses with kinks", ["", "rank of H", "Newton", "reweighted"], rows, note)

    rows = [[n, str(r["rank"]), error(r["newton"]), error(r["damped"])] for n, r in results["rows"].items()]
    note = (
        f"{D} weights. Errors of w after a Newton step from 0; damped: with {damping:g} on the diagonal of H."
    )
    yield Table("the Hessian of few rows", ["rows", "rank of H", "Newton", "damped"], rows, note)

    found = results["network"]
    rows = [
        [name, f"{losses[0]:.4f}", f"{losses[-1]:.4f}", str(len(losses) - 1)]
        for name, losses in found["losses"].items()
    ]
    note = (
        f"{found['negative']} of the {found['parameters']} eigenvalues of H are negative at first; where "
        "some are, Newton's steps may lead to saddle points. The least eigenvalue of H is "
        f"{found['least']:.3g}, that of the Gauss-Newton matrix {found['gauss_newton_least']:.1g}."
    )
    yield Table("a network", ["steps by", "loss at first", "loss in the end", "steps"], rows, note)


def error(value: float | None) -> str:
    """Return the text of an error, ``no step`` for None."""
    return "no step" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    run_experiment(main)
