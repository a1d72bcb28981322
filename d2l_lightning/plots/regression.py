"""Figures of linear and polynomial regression, weight decay and the normal distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from d2l_lightning.plots.style import COLOURS, DASHES, Curve, Scale, curve_figure, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Numbers by name.
Columns = Mapping[str, Sequence[float]]
HALF_SQUARE = "half the squared error"
# Features of polynomials.
BASIS_NAMES = {
    "factorial": "x^i / i!",
    "powers": "x^i",
    "standardized": "x^i standardised",
    "orthogonal": "orthogonal",
}


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


def losses_by_degree(selection: Columns, k: int) -> Figure:
    """Draw the losses of polynomials in cross-validation over their degree, of SGD and solved exactly."""
    names = {"rows to learn from": "train_loss", "rows left out": "val_loss"}
    curves: dict[str, list[Curve]] = {
        solver: [(rows, range(len(selection[p + name])), selection[p + name]) for rows, name in names.items()]
        for solver, p in (("minibatch SGD", ""), ("exact solution", "exact_"))
    }
    labels = ("degree", [f"{HALF_SQUARE}, mean of the folds", ""])
    title = f"Polynomial regression, {k}-fold cross-validation: loss against degree"
    return _over_degree(curve_figure(title, curves, *labels, yscale="log", markers=True, legend="each"))


def exact_by_degree(exact: Columns, num_train: int) -> Figure:
    """Draw ``train_loss`` and ``test_loss`` of exact polynomials over their degree."""
    names = {"training rows": "train_loss", "test rows": "test_loss"}
    curves: list[Curve] = [(rows, range(len(exact[name])), exact[name]) for rows, name in names.items()]
    title = f"Exact polynomials on {num_train} rows: loss against degree"
    figure = _over_degree(curve_figure(title, {"": curves}, "degree", HALF_SQUARE, yscale="log"))
    low, high = figure.axes[0].get_ylim()
    if high > 1e35:  # beyond, the other losses would look alike
        figure.axes[0].set_ylabel(f"{HALF_SQUARE}, up to 1e35")
    figure.axes[0].set_ylim(max(low, 1e-35), min(high, 1e35))
    return figure


def _over_degree(figure: Figure) -> Figure:
    """Return a figure whose x axes have whole numbers."""
    from matplotlib.ticker import MaxNLocator

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


def losses_by_rate(losses: Mapping[str, Columns], initial: float, least: float) -> Figure:
    """Draw the ``train_loss`` of each basis over ``lr``; the initial and the least loss are lines."""
    curves: list[Curve] = [
        (BASIS_NAMES[basis], columns["lr"], columns["train_loss"]) for basis, columns in losses.items()
    ]
    labels = ("learning rate; with the larger ones, SGD diverges", f"{HALF_SQUARE}, training rows")
    title = "Features of a polynomial: the loss of SGD against its learning rate"
    figure = curve_figure(title, {"": curves}, *labels, xscale="log", yscale="log", markers=True)
    for value, name, place in ((initial, "weights of 0", "right"), (least, "exact solution", "left")):
        figure.axes[0].axhline(value, color="0.5", linewidth=1)
        at = (0.99 if place == "right" else 0.01, value)
        figure.axes[0].annotate(
            name, at, xycoords=("axes fraction", "data"), va="bottom", ha=place, fontsize=8
        )
    return figure


def regularization_path(path: Columns) -> Figure:
    """Draw ``train_loss``, ``val_loss``, ``new_loss`` and ``w_norm`` over ``lambda``."""
    grid = path["lambda"]
    title = f"Weight decay: {len(grid)} values of lambda, trained side by side"
    losses = {"training rows": "train_loss", "validation rows": "val_loss", "new rows": "new_loss"}
    curves: dict[str, list[Curve]] = {
        "loss": [(name, grid, path[loss]) for name, loss in losses.items()],
        "size of the weights": [("", grid, path["w_norm"])],
    }
    labels = ("regularization constant, lambda", [HALF_SQUARE, "Euclidean norm of w"])
    figure = curve_figure(title, curves, *labels, xscale="log", yscale="log", legend="none")
    least, best = min(zip(path["val_loss"], grid, strict=True))
    figure.axes[0].plot(best, least, "o", color="black", label=f"chosen: lambda {best:.3g}")
    figure.axes[0].legend(frameon=False)
    return figure


def normal_densities(
    normals: Sequence[tuple[float, float]], points: Sequence[Tensor], densities: Sequence[Tensor]
) -> Figure:
    """Draw normal densities, given by mean and standard deviation, at the points of each."""
    curves: list[Curve] = [
        (f"mean {mean:g}, standard deviation {std:g}", x.tolist(), p.tolist())
        for (mean, std), x, p in zip(normals, points, densities, strict=True)
    ]
    figure = curve_figure("Normal densities", {"": curves}, "x", "density p(x)")
    ends = [mean + sign * 4.5 * std for mean, std in normals for sign in (-1, 1)]
    figure.axes[0].set_xlim(min(ends), max(ends))
    figure.axes[0].set_ylim(top=1.4 * figure.axes[0].get_ylim()[1])  # room for the legend
    return figure


def costs_of_constants(
    constants: Sequence[float], costs: Mapping[str, Sequence[float]], centres: Mapping[str, float]
) -> Figure:
    """Draw the negative log-likelihood of constants, a panel for each kind of noise, with mean and median."""
    curves: dict[str, list[Curve]] = {
        f"{noise} noise": [("", constants, cost)] for noise, cost in costs.items()
    }
    labels = ("constant", ["negative log-likelihood", ""])
    figure = curve_figure("One number for all measurements", curves, *labels, legend="none")
    for panel in figure.axes:
        for (name, value), dash in zip(centres.items(), DASHES, strict=False):
            panel.axvline(value, color="black", linestyle=dash, linewidth=0.9, label=f"{name}, {value:.3f}")
        panel.legend(frameon=False)
    return figure


def prices_figure(values: Mapping[str, Tensor]) -> Figure:
    """Draw histograms of values, shape ``(n,)``, and the normal density of their mean and deviation."""
    titles = [f"{name.replace('_', ' ')}, {len(x):,} houses" for name, x in values.items()]
    labels = (["price (dollars)", "logarithm of the price in dollars"], ["density", ""])
    figure, axes = panels(titles, "House prices in Ames, and their logarithms", *labels)
    for panel, x in zip(axes, values.values(), strict=True):
        mean, std = x.mean().item(), x.std().item()
        points = torch.linspace(mean - 3.5 * std, x.max().item(), 400, dtype=x.dtype)
        density = torch.exp(-(((points - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
        panel.hist(x.numpy(), bins=50, density=True, color=COLOURS[5], label="houses")
        panel.plot(points, density, color=COLOURS[1], label="normal, same mean and deviation")
        panel.set_ylim(0, 1.2 * panel.get_ylim()[1])  # room for the legend
        panel.legend(frameon=False)
    axes[0].axvline(0, color="black", linewidth=0.8)
    return figure
