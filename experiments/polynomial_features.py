"""Features of a polynomial with and without 1/i!, and what SGD makes of them (4.4, exercise 3)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, get_args

from d2l_lightning.data.regression import PolynomialData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError, require_not_negative
from d2l_lightning.functional.polynomial import Basis, exact_losses
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.plots.regression import BASIS_NAMES, losses_by_rate
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run

import torch

BASES: tuple[Basis, ...] = get_args(Basis)
LRS = tuple(10.0**power for power in range(-20, 1))


def main(
    run: Run,
    degree: int = 19,
    lrs: Sequence[float] = LRS,
    batch_size: int = 10,
) -> None:
    """Train polynomials on several kinds of features, with many learning rates side by side (4.4).

    Args:
        run: The run.
        degree: The degree.
        lrs: The learning rates of minibatch SGD, as in `--lrs 0.001 0.01 0.1`.
        batch_size: Rows in a batch.
    """
    require_not_negative(degree=degree)
    if not lrs or list(lrs) != sorted(set(lrs)):
        raise InputError(f"lrs must be learning rates that grow, not {list(lrs)}")
    sets = [PolynomialData(degree, basis=basis, seed=run.seed, batch_size=batch_size) for basis in BASES]
    n, y = sets[0].num_train, sets[0].y
    settings = [(basis, lr) for basis in BASES for lr in lrs]
    names = [f"{basis}_{lr:g}" for basis, lr in settings]
    if len(set(names)) < len(names):
        raise InputError(f"lrs must differ in their first six digits, not {list(lrs)}")
    members = StackedModule(
        [LinearRegression(degree + 1, lr, "squared", 0.0, bias=False) for _, lr in settings],
        names,
        raise_on_divergence=False,
    )
    X = torch.stack([data.X for data in sets for _ in lrs])
    rows = {stage: [of_stage] * len(names) for stage, of_stage in sets[0].rows.items()}
    data = StackedData(X, y.expand(len(names), -1), rows, batch_size, run.seed, same_order=True)
    title = f"{len(names)} polynomials of degree {degree}"
    run.fit("polynomials", members, data, title=title)
    # ``Fit.validate`` refuses losses that are not finite; here they are results.
    train, test = (
        members.evaluate(data, stage)[f"{stage}/squared_loss"].view(len(BASES), -1).tolist()
        for stage in ("train", "val")
    )
    initial = y[:n].square().mean().item() / 2  # all weights begin at 0
    exact = exact_losses(sets[0].x, y, n, degree)[-1].tolist()
    results: dict[str, Any] = {"initial_loss": initial, "exact_loss": exact[0], "bases": {}}
    for basis, features, losses, of_test in zip(BASES, sets, train, test, strict=True):
        # A loss that is above that of the initial weights, or NaN, has diverged.
        good = [loss <= initial for loss in losses]
        best = min((i for i, fine in enumerate(good) if fine), key=losses.__getitem__, default=None)
        results["bases"][basis] = {
            "greatest_feature": features.X[:n].abs().max().item(),
            "condition_number": torch.linalg.cond(features.X[:n].double()).item(),
            "lr": [lr for lr, fine in zip(lrs, good, strict=True) if fine],
            "train_loss": [loss for loss, fine in zip(losses, good, strict=True) if fine],
            "best_lr": None if best is None else lrs[best],
            "best_train_loss": None if best is None else losses[best],
            "best_test_loss": None if best is None else of_test[best],
        }
    run.finish(
        results,
        tables=[bases_table(results, degree, run.trainer_flags.get("max_epochs"))],
        figures={"loss_by_rate": partial(losses_by_rate, results["bases"], initial, exact[0])},
    )


def bases_table(results: Mapping[str, Any], degree: int, epochs: int | None) -> Table:
    """Return the features' scale, the largest learning rate, and the losses at the best one."""
    rows = []
    for basis, of_basis in results["bases"].items():
        scale = [f"{of_basis[key]:.3g}" for key in ("greatest_feature", "condition_number")]
        largest = f"{max(of_basis['lr']):g}" if of_basis["lr"] else "none"
        best = [of_basis[f"best_{key}"] for key in ("lr", "train_loss", "test_loss")]
        rows.append(
            (BASIS_NAMES[basis], *scale, largest, *("" if each is None else f"{each:.3g}" for each in best))
        )
    columns = (
        *("features", "greatest feature", "condition number", "largest lr"),
        *("best lr", "train loss", "test loss"),
    )
    note = (
        "The last features are polynomials that are orthogonal on the training rows. Condition number: of "
        "X. Largest lr: of those tried that do not diverge. Losses are half the squared error after "
        f"{epochs} epochs of SGD at the best lr. The training loss is {results['initial_loss']:.3g} with "
        f"weights of 0, and {results['exact_loss']:.3g} at the exact solution. Large features need a small "
        "learning rate, and then the weights of small features hardly change."
    )
    return Table(f"SGD on the features of a polynomial of degree {degree}", columns, rows, note)


if __name__ == "__main__":
    run_experiment(main)
