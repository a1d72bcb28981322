"""Figures of generalization: the bias of cross-validation, zero errors, learning curves (Section 3.6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from d2l_lightning.plots.style import COLOURS, Curve, curve_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Columns = Mapping[str, Sequence[float]]
LOSS = "half the squared error"


def k_fold_bias(folds: Columns, expected: float, num_rows: int, num_draws: int) -> Figure:
    """Draw ``measured``, with twice its ``error``, and ``theory`` over ``k``, and the loss to estimate."""
    k, measured = folds["k"], folds["measured"]
    theory: Curve = ("theory, n (K - 1) / K rows to learn from", k, folds["theory"])
    title = f"{num_rows} rows: the estimate of K-fold cross-validation is too high"
    labels = ("number of folds, K", f"{LOSS}, mean of {num_draws:,} data sets")
    figure = curve_figure(title, {"": [theory]}, *labels, xscale="log", legend="none")
    (panel,) = figure.axes
    errors = [2 * error for error in folds["error"]]
    name = "measured, with twice the standard error"
    panel.errorbar(k, measured, errors, fmt="o", color=COLOURS[1], capsize=3, markersize=4, label=name)
    panel.axhline(expected, color="0.3", linestyle=":", label=f"loss of the model of all {num_rows} rows")
    panel.legend(frameon=False)
    return figure


def zero_errors(losses: Mapping[str, Columns], num_features: int, least: float) -> Figure:
    """Draw ``train_loss`` and ``test_loss`` over ``n``, but not below ``least``; a panel for each noise."""
    rows = {"training rows": "train_loss", "new rows": "test_loss"}
    curves: dict[str, list[Curve]] = {
        f"standard deviation of the noise: {noise}": [
            (name, of_noise["n"], [max(value, least) for value in of_noise[column]])
            for name, column in rows.items()
        ]
        for noise, of_noise in losses.items()
    }
    title = f"{num_features} features: when is the error 0?"
    labels = ("rows to learn from", f"{LOSS}, median, at least {least:g}")
    figure = curve_figure(title, curves, *labels, xscale="log", yscale="log", markers=True)
    for panel in figure.axes:
        panel.axvline(num_features, color="0.5", linewidth=1)
    return figure


def learning_curve(less: Columns, more: Columns, law: Callable[[float], float], num_rows: int) -> Figure:
    """Draw the ``loss`` over ``n`` of fewer rows and of more rows, and the curve fitted to fewer rows."""
    ends = [math.log(n) for n in (*less["n"], *more["n"])]
    n = torch.linspace(min(ends), max(ends), 100).exp().tolist()
    title = "Would more data help? Losses of less data, and of more"
    curves: list[Curve] = [("a + b / (n - d - 1), fitted to less data", n, [law(each) for each in n])]
    labels = ("rows to learn from, n", f"{LOSS} on rows left out")
    figure = curve_figure(title, {"": curves}, *labels, xscale="log", legend="none")
    (panel,) = figure.axes
    panel.plot(less["n"], less["loss"], "o", color=COLOURS[2], label=f"parts of the {num_rows} rows")
    panel.plot(more["n"], more["loss"], "s", color=COLOURS[3], label="more rows, drawn afterwards")
    panel.legend(frameon=False)
    return figure
