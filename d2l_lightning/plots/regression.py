"""Figures of linear and polynomial regression, weight decay and the normal distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from d2l_lightning.plots.style import Curve, Scale, curve_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Numbers by name.
Columns = Mapping[str, Sequence[float]]
HALF_SQUARE = "half the squared error"


def errors_by_amount(errors: Columns, num_draws: int) -> Figure:
    """Draw ``w_error`` and ``b_error`` of the analytic solution over the number of rows, ``n``."""
    n, w_error = errors["n"], errors["w_error"]
    curves: list[Curve] = [("weights (Euclidean norm)", n, w_error), ("bias", n, errors["b_error"])]
    yscale: Scale = "linear"
    if n and w_error[0] > 0:
        curves.append(("falls as 1 / sqrt(n)", n, [w_error[-1] * math.sqrt(n[-1] / each) for each in n]))
        yscale = "log"
    title = f"Linear regression: error of the analytic solution, median of {num_draws} draws"
    labels = ("rows to learn from, n", "distance from the truth")
    return curve_figure(title, {"": curves}, *labels, xscale="log", yscale=yscale)


def losses_by_degree(selection: Columns, exact: Columns, k: int) -> Figure:
    """Draw the losses of polynomials in cross-validation, and of exact solutions, over their degree."""
    from matplotlib.ticker import MaxNLocator

    columns = {
        f"minibatch SGD, {k}-fold cross-validation": ("rows left out", selection, "val_loss"),
        "exact solution": ("test rows", exact, "test_loss"),
    }
    curves: dict[str, list[Curve]] = {}
    for panel, (held_out, losses, of_held_out) in columns.items():
        degrees, train = range(len(losses["train_loss"])), losses["train_loss"]
        curves[panel] = [("training rows", degrees, train), (held_out, degrees, losses[of_held_out])]
    labels = ("degree", [f"{HALF_SQUARE}, mean of the folds", HALF_SQUARE])
    title = "Polynomial regression: loss against degree"
    figure = curve_figure(title, curves, *labels, yscale="log", markers=True, legend="each")
    for axes in figure.axes:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def losses_by_amount(amounts: Mapping[str, Columns], num_draws: int) -> Figure:
    """Draw the losses of exact polynomials over the number of rows, ``n``, a panel for each degree."""
    names = {"training rows": "train_loss", "test rows": "test_loss"}
    curves: dict[str, list[Curve]] = {
        f"degree {degree}": [(rows, losses["n"], losses[name]) for rows, name in names.items()]
        for degree, losses in amounts.items()
    }
    values = [value for losses in amounts.values() for name in names.values() for value in losses[name]]
    yscale: Scale = "log" if all(0 < value < math.inf for value in values) else "linear"
    title = f"Polynomial regression, exact solution: loss against amount of data, median of {num_draws} draws"
    labels = ("rows to learn from", [HALF_SQUARE, *[""] * (len(amounts) - 1)])
    return curve_figure(title, curves, *labels, xscale="log", yscale=yscale, markers=True)


def regularization_path(path: Columns) -> Figure:
    """Draw ``train_loss``, ``val_loss`` and ``w_norm`` over ``lambda``."""
    grid = path["lambda"]
    title = f"Weight decay: {len(grid)} values of lambda, trained side by side"
    curves: dict[str, list[Curve]] = {
        "loss": [("training rows", grid, path["train_loss"]), ("validation rows", grid, path["val_loss"])],
        "size of the weights": [("", grid, path["w_norm"])],
    }
    labels = ("lambda", [HALF_SQUARE, "Euclidean norm of w"])
    figure = curve_figure(title, curves, *labels, xscale="log", yscale="log", legend="none")
    least, best = min(zip(path["val_loss"], grid, strict=True))
    figure.axes[0].plot(best, least, "o", color="black", label=f"least, at lambda {best:.3g}")
    figure.axes[0].legend(frameon=False)
    return figure


def normal_densities(
    normals: Sequence[tuple[float, float]], points: Sequence[Tensor], densities: Sequence[Tensor]
) -> Figure:
    """Draw normal densities, given by mean and standard deviation, at the points of each."""
    curves: list[Curve] = [
        (f"mean {mean:g}, std. {std:g}", x.tolist(), p.tolist())
        for (mean, std), x, p in zip(normals, points, densities, strict=True)
    ]
    figure = curve_figure("Normal densities", {"": curves}, "x", "density p(x)")
    ends = [mean + sign * 4.5 * std for mean, std in normals for sign in (-1, 1)]
    figure.axes[0].set_xlim(min(ends), max(ends))
    return figure
