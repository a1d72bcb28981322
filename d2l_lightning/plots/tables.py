"""Figures of models of tables: importance of columns, residuals, calibration, and methods side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from d2l_lightning.plots.style import (
    COLOURS,
    empty_figure,
    histograms,
    number_ticks,
    panels,
    value_span,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_COLUMNS = 20  # whose importance is drawn
MOST_POINTS = 5_000  # of rows in a figure
MOST_LETTERS = 64  # of the name of a column


def importance_figure(
    names: Sequence[str], importances: Sequence[float], errors: Sequence[float], metric: str
) -> Figure:
    """Draw the importance of the 20 most important columns, with their standard errors.

    Args:
        names: The names of the columns, the most important first.
        importances: Their importance: the increase of the metric when a column is shuffled.
        errors: Its standard error; NaN if unknown.
        metric: The name of the metric, with its unit if it has one.
    """
    shown = min(len(names), MOST_COLUMNS)
    labels = [_short(name) for name in names[:shown]]
    figure = empty_figure(6.4 + 0.08 * max(0, max(map(len, labels)) - 20), 1.5 + 0.26 * shown)
    panel = figure.subplots()
    bars: dict[str, Any] = {"color": COLOURS[0], "ecolor": "0.25", "capsize": 2, "height": 0.7}
    places = range(shown)
    panel.barh(places, importances[:shown], xerr=[0.0 if e != e else e for e in errors[:shown]], **bars)
    panel.set_yticks(places, labels)
    panel.margins(y=0.02)
    panel.invert_yaxis()
    panel.set_xlabel(f"increase of the {metric} when the column is shuffled")
    panel.grid(visible=True, axis="x", alpha=0.25)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    left_out = f"the first {shown} of {len(names)} columns" if shown < len(names) else "all columns"
    figure.suptitle(f"Importance on validation rows: {left_out}")
    return figure


def residuals_figure(
    predictions: Tensor,
    y: Tensor,
    residuals: Tensor,
    running: tuple[Tensor, Tensor],
    label: str,
    log: bool = False,
) -> Figure:
    """Draw labels over predictions, and residuals over predictions with their running quantiles.

    Args:
        predictions: Predictions for rows that the model was not trained on, shape ``(n,)``.
        y: Their labels, shape ``(n,)``.
        residuals: Labels minus predictions, or the same of logarithms, shape ``(n,)``.
        running: Predictions, shape ``(p,)``, and three quantiles of the residuals near them, 10 %, 50 % and
            90 %, shape ``(3, p)``.
        label: What is predicted, with its unit.
        log: Whether residuals are those of logarithms, and the axes logarithmic.
    """
    error = "log(true / predicted)" if log else f"true - predicted {label}"
    step = -(-len(y) // MOST_POINTS)
    title = "Predictions for rows that the model was not trained on"
    note = f" (every {step}th row)" if step > 1 else ""
    titles, ylabels = [f"true values{note}", f"residuals{note}"], [f"true {label}", error]
    figure, (left, right) = panels(titles, title, f"predicted {label}", ylabels)
    points: dict[str, Any] = {"color": COLOURS[0], "marker": ".", "markersize": 3, "alpha": 0.4}
    left.plot(predictions[::step], y[::step], linestyle="none", **points)
    _diagonal(left, predictions, y)
    right.plot(predictions[::step], residuals[::step], linestyle="none", **points)
    right.axhline(0, color="0.3", linewidth=1)
    at, (low, middle, high) = running
    right.plot(at, middle, color=COLOURS[1], label="running median")
    right.plot(at, low, color=COLOURS[1], linestyle="--", linewidth=1, label="running 10 % and 90 %")
    right.plot(at, high, color=COLOURS[1], linestyle="--", linewidth=1)
    right.legend(frameon=False)
    number_ticks(left, "x", log)
    number_ticks(left, "y", log)
    number_ticks(right, "y", log=False)
    return figure


def calibration_figure(
    means: Mapping[str, Tensor],
    levels: Sequence[float],
    covered: Tensor,
    of_folds: Tensor,
    rows: int,
    label: str,
    log: bool = False,
) -> Figure:
    """Draw mean labels over mean predictions of groups of rows, and the coverage of prediction intervals.

    Args:
        means: The mean ``predictions`` and ``labels`` of each group, and the ends ``low`` and ``high`` of an
            interval around the mean label.
        levels: The nominal coverage of intervals, from 0 to 1.
        covered: The share of rows whose label lies within the interval of each level, shape ``(L,)``.
        of_folds: The same for each fold, shape ``(K, L)``.
        rows: The number of rows.
        label: What is predicted, with its unit.
        log: Whether the axes of labels and predictions are logarithmic if the labels' range is wide.
    """
    groups = f"{len(means['labels'])} groups of rows, by their prediction"
    mean = "geometric mean of" if log else "mean"
    xlabels = [f"{mean} predicted {label}", "nominal coverage"]
    ylabels = [f"{mean} true {label}", "share of rows within the interval"]
    title = "Calibration on rows that the model was not trained on"
    titles = [groups, "intervals of each fold, from the other folds"]
    figure, (left, right) = panels(titles, title, xlabels, ylabels)
    x, y = means["predictions"], means["labels"]
    around = [(y - means["low"]).tolist(), (means["high"] - y).tolist()]
    name = "mean, two standard errors"
    left.errorbar(x, y, around, color=COLOURS[0], fmt="o", markersize=4, capsize=3, label=name)
    _diagonal(left, x, y)
    wide = log and bool(y.max() > 10 * y.min())
    number_ticks(left, "x", wide)
    number_ticks(left, "y", wide)
    # What chance alone does to the share of so many rows, two standard errors to either side.
    grid = [step / 100 for step in range(101)]
    chance = [2 * (p * (1 - p) / rows) ** 0.5 for p in grid]
    low, high = ([p + sign * c for p, c in zip(grid, chance, strict=True)] for sign in (-1, 1))
    right.fill_between(grid, low, high, color="0.8", linewidth=0, label="chance, two standard errors")
    right.plot([0, 1], [0, 1], color="0.3", linewidth=1)
    for shares in of_folds:
        right.plot(levels, shares, color=COLOURS[0], linewidth=0.6, alpha=0.5)
    right.plot(levels, covered, color=COLOURS[0], marker="o", markersize=4, label="all rows")
    right.plot([], [], color=COLOURS[0], linewidth=0.6, label="each fold")
    for panel in (left, right):
        panel.legend(frameon=False, loc="upper left")
    return figure


def comparison_figure(
    scores: Mapping[str, Sequence[float]], metric: str, title: str, each: str = "fold"
) -> Figure:
    """Draw the metric of each fold or split, and their mean, for several methods.

    Args:
        scores: The metric of each fold, by the name of the method; the folds are those of all methods.
        metric: The name of the metric.
        title: The title.
        each: What a point stands for.
    """
    from matplotlib.ticker import MaxNLocator

    figure = empty_figure(6.4, 1.5 + 0.55 * len(scores))
    panel = figure.subplots()
    places = range(len(scores))
    means = [sum(folds) / len(folds) for folds in scores.values()]
    panel.scatter(means, places, marker="|", s=400, linewidth=2.5, color=COLOURS[1], label="mean")
    for place, folds in zip(places, scores.values(), strict=True):
        label = None if place else f"each {each}"
        panel.plot(folds, [place] * len(folds), "o", color=COLOURS[0], markersize=4, alpha=0.7, label=label)
    for place, mean in zip(places, means, strict=True):
        where: dict[str, Any] = {
            "xytext": (0, 12),
            "textcoords": "offset points",
            "ha": "center",
            "fontsize": "small",
        }
        panel.annotate(f"{mean:.4f}", (mean, place), **where)
    panel.set_yticks(places, list(scores))
    panel.set_ylim(len(scores) - 0.5, -0.7)
    panel.set_xlabel(metric)
    panel.xaxis.set_major_locator(MaxNLocator(5))
    panel.grid(visible=True, axis="x", alpha=0.25)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
    figure.suptitle(title)
    return figure


def missing_values_figure(values: Tensor, missing: Tensor, column: str, results: Mapping[str, Any]) -> Figure:
    """Draw which values of a column are missing, and the error with what takes their place.

    Args:
        values: All values of the column, shape ``(n,)``.
        missing: Whether each is missing, not at random, shape ``(n,)``.
        column: The name of the column.
        results: The log RMSE without missing values, ``complete``, and for each method and draw where values
            are missing ``at_random`` and ``not_at_random``.
    """
    titles = ["values missing not at random", "error by what takes their place"]
    xlabels, ylabels = [column, "log RMSE of the price, all rows"], ["share of rows per bin", ""]
    title = f"Missing values of {column}: is the mean a good guess?"
    figure, (left, right) = panels(titles, title, xlabels, ylabels)
    histograms(left, {"present": values[~missing], "missing": values[missing]}, value_span(values, 0.001))
    mean = values[~missing].mean().item()
    left.axvline(mean, color="0.2", linestyle="--", label="mean of those present")
    left.legend(frameon=False)
    patterns = {"at_random": ("o", 0.12), "not_at_random": ("D", -0.12)}
    methods = [name for name, own in results["at_random"].items() if isinstance(own, dict)]
    for (pattern, (marker, offset)), colour in zip(patterns.items(), COLOURS, strict=False):
        draws = [(e, i - offset) for i, m in enumerate(methods) for e in results[pattern][m]["draws"]]
        x, y = zip(*draws, strict=True)
        label = f"missing {pattern.replace('_', ' ')}"
        right.plot(x, y, marker, color=colour, markersize=5, alpha=0.7, label=label)
    right.axvline(results["complete"]["log_rmse"], color="0.2", linestyle=":", label="nothing missing")
    right.set_yticks(range(len(methods)), methods)
    right.set_ylim(len(methods) - 0.4, -0.6)
    right.legend(frameon=False, loc="lower right", fontsize="small")
    return figure


def _short(name: str) -> str:
    """Return a name without its middle if it is long."""
    half = MOST_LETTERS // 2
    return name if len(name) <= MOST_LETTERS else f"{name[:half]}…{name[-half:]}"


def _diagonal(panel: Axes, *values: Tensor) -> None:
    """Draw the line on which both axes have the same value, over the range of the values."""
    low, high = value_span(torch.cat([each.double() for each in values]))
    panel.plot([low, high], [low, high], color="0.3", linewidth=1)
