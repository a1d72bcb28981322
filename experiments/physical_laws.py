"""The resistance in Ohm's law and the temperature in Planck's law, by automatic differentiation (3.4.6)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from d2l_lightning.callbacks.parameter_path import ParameterPath
from d2l_lightning.data.physical_laws import OhmData, PlanckData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import DivergenceError, InputError, require_positive
from d2l_lightning.functional.linear import least_squares
from d2l_lightning.models.physical_laws import OhmsLaw, PhysicalLaw, PlancksLaw
from d2l_lightning.plots.physical_laws import fitted_laws, paths_from_starts
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run

import torch
from torch import Tensor

# The settings of the models, by law and by what is learned.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "ohm": {"log_R": {}, "R": {"scale": "plain"}},
    "planck": {"log_T": {}, "T": {"scale": "plain"}, "log_T_by_squared_error": {"loss": "squared"}},
}
MAKERS: dict[str, Callable[..., PhysicalLaw]] = {"ohm": OhmsLaw, "planck": PlancksLaw}
QUANTITIES = {"ohm": ("resistance", "Ω"), "planck": ("temperature", "K")}
Data = OhmData | PlanckData


def main(
    run: Run,
    factors: Sequence[float] = (0.1, 0.3, 3.0, 10.0),
    lr: float = 0.05,
    ohm: Callable[..., OhmData] = OhmData,
    planck: Callable[..., PlanckData] = PlanckData,
) -> None:
    """Learn the resistance in Ohm's law and the temperature in Planck's law from measurements (3.4.6).

    Args:
        run: The run.
        factors: Fits start from the true value times each of these numbers, as in `--factors 0.1 10`.
        lr: Adam's learning rate.
        ohm: The currents and voltages.
        planck: The wavelengths and spectral densities.
    """
    if not factors:
        raise InputError("factors must name at least one factor")
    require_positive(factors=min(factors), lr=lr)
    data: dict[str, Data] = {"ohm": ohm(seed=run.seed), "planck": planck(seed=run.seed)}
    paths: dict[str, dict[str, Tensor]] = {}
    results: dict[str, Any] = {}
    for law, rows in data.items():
        starts = [factor * rows.constant for factor in factors]
        paths[law] = {
            name: fit(run, law, name, [MAKERS[law](start, lr, **settings) for start in starts], rows)
            for name, settings in VARIANTS[law].items()
        }
        estimates = {name: path[-1].tolist() for name, path in paths[law].items()}
        results[law] = {"truth": rows.constant, "starts": starts, "estimates": estimates}
    X, y = data["ohm"].X.double(), data["ohm"].y.double()
    results["ohm"]["least_squares"] = least_squares(X, y).item()
    truths, units = (
        {law: rows.constant for law, rows in data.items()},
        [unit for _, unit in QUANTITIES.values()],
    )
    measured = {law: (rows.X[:, 0], rows.y) for law, rows in data.items()}
    curves = {law: learned_curve(law, paths[law], rows.X[:, 0]) for law, rows in data.items()}
    run.finish(
        results,
        tables=[table(law, found) for law, found in results.items()],
        figures={
            "laws": partial(fitted_laws, measured, curves),
            "starts": partial(paths_from_starts, paths, truths, units),
        },
    )


def fit(run: Run, law: str, name: str, members: Sequence[PhysicalLaw], rows: Data) -> Tensor:
    """Train from all starts side by side; return the constant after each step, shape ``(steps + 1, K)``."""
    stacked = StackedModule(members, [f"start_{k}" for k in range(1, len(members) + 1)])
    of_members = {"train": [rows.rows["train"]] * len(members)}
    data = StackedData(rows.X, rows.y, of_members, rows.batch_size, run.seed, same_order=True)
    law_of_all = cast(PhysicalLaw, stacked.stacked)
    path = ParameterPath(law_of_all.learned)
    title = f"{law}: {name.replace('_', ' ')}"
    run.fit(f"{law}_{name}", stacked, data, title=title, callbacks=[path])
    values = path.values.double()
    if law_of_all.scale == "plain":
        return values
    if not 0 < values.exp().min() <= values.exp().max() < torch.inf:
        raise DivergenceError(f"{title} left the range of numbers; a lower lr may help")
    return values.exp()


def learned_curve(law: str, paths: Mapping[str, Tensor], x: Tensor) -> tuple[str, tuple[Tensor, Tensor]]:
    """Return the law with the median of the first variant's estimates: its name, and its points."""
    estimate = next(iter(paths.values()))[-1].median().item()
    grid = torch.linspace(x.min().item(), x.max().item(), 300)
    with torch.no_grad():
        values = MAKERS[law](estimate)(grid[:, None])
    quantity, unit = QUANTITIES[law]
    return f"{quantity} {estimate:,.5g} {unit}", (grid, values)


def table(law: str, found: Mapping[str, Any]) -> Table:
    """Return what each start led to, with the error in percent of the true value."""
    quantity, unit = QUANTITIES[law]
    rows = [[f"{start:g}"] for start in found["starts"]]
    for estimates in found["estimates"].values():
        for row, estimate in zip(rows, estimates, strict=True):
            row.append(f"{estimate:.1f} ({estimate / found['truth'] - 1:+.1%})")
    note = f"The true value is {found['truth']:g} {unit}; errors are in percent of it."
    if "least_squares" in found:
        note += f" The exact least-squares solution is {found['least_squares']:.1f} {unit}."
    if law == "planck":
        note += " Relative errors are minimised, but for the last column."
    columns = ["start", *(f"learned: {name.replace('_', ' ')}" for name in found["estimates"])]
    return Table(f"{quantity} in {unit}", columns, rows, note)


if __name__ == "__main__":
    run_experiment(main)
