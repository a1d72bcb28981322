"""Figures of a hyperparameter search: its history, rungs, parameters, and their importance.

Those of ``optuna.visualization.matplotlib`` are not used: they leave out pruned trials, and they change the
style of all figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from statistics import quantiles
from typing import TYPE_CHECKING, Any, Literal

from d2l_lightning.plots.style import COLOURS, empty_figure, number_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Kind = Literal["linear", "log", "category"]
MOST_PANELS = 3  # side by side
MOST_LETTERS = 18  # of a label below an axis
WIDE = 6.0  # ratio of the greatest to the least value from which an axis is logarithmic
# Values that are so many times as far from the best as three quarters of all are not drawn to scale.
FAR = 2.5
PRUNED: dict[str, Any] = {"linestyle": "none", "marker": "x", "color": "0.6", "markersize": 4}
BEST: dict[str, Any] = {"marker": "*", "markersize": 13, "color": COLOURS[1], "markeredgecolor": "black"}


def history_figure(
    numbers: Sequence[int], values: Sequence[float], pruned: Sequence[bool], metric: str
) -> Figure:
    """Draw the value of each trial over its number, and the best value so far.

    Args:
        numbers: The numbers of the trials, in ascending order.
        values: Their finite values; that of the last rung for pruned trials.
        pruned: Whether each was pruned.
        metric: The name of the metric, which is minimized.
    """
    figure, panel = _figure(6.4, 4.2, f"Search: {len(values)} trials")
    panel.set(xlabel="trial")
    values = _value_axis(panel, values, metric)
    ended = [(n, value) for n, value, cut in zip(numbers, values, pruned, strict=True) if not cut]
    if any(pruned):
        left = [(n, value) for n, value, cut in zip(numbers, values, pruned, strict=True) if cut]
        panel.plot(*zip(*left, strict=True), **PRUNED, label="pruned, at the last rung")
    if ended:
        x, y = (list(each) for each in zip(*ended, strict=True))
        panel.plot(x, y, "o", color=COLOURS[0], markersize=4, label="completed")
        best = [*accumulate(y, min)]
        x, best = [*x, max(numbers)], [*best, best[-1]]
        panel.step(x, best, where="post", color=COLOURS[1], linewidth=1.5, label="best so far")
    _whole_numbers(panel)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)  # inside, it would hide trials
    return figure


def rungs_figure(
    curves: Sequence[Mapping[int, float]], pruned: Sequence[bool], best: int, metric: str
) -> Figure:
    """Draw the value of each trial at its rungs.

    Args:
        curves: For each trial, its finite values by epoch.
        pruned: Whether each was pruned.
        best: The place of the best trial.
        metric: The name of the metric.
    """
    figure, panel = _figure(6.4, 4.2, f"Search: {len(curves)} trials at their rungs")
    panel.set(xlabel="epoch")
    drawn = iter(_value_axis(panel, [value for curve in curves for value in curve.values()], metric))
    curves = [{epoch: next(drawn) for epoch in curve} for curve in curves]
    epochs = sorted({epoch for curve in curves for epoch in curve})
    ended = [i for i, cut in enumerate(pruned) if not cut and i != best]
    style: dict[str, Any] = {"linewidth": 0.8, "markersize": 3}
    for i in (i for i, cut in enumerate(pruned) if cut):
        panel.plot(*_points(curves[i]), "--", color="0.6", alpha=0.6, **style)
        panel.plot(*_points(curves[i], last=True), **PRUNED)
    for i in ended:
        panel.plot(*_points(curves[i]), "o-", color=COLOURS[0], alpha=0.6, **style)
    panel.plot(*_points(curves[best]), "o-", color=COLOURS[1], markersize=4, linewidth=2.2)
    names = {"pruned": any(pruned), "completed": bool(ended), "best": True}
    styles = ({**PRUNED, "linestyle": "--"}, {"color": COLOURS[0], "marker": "o", "markersize": 3})
    for (name, shown), look in zip(
        names.items(), (*styles, {"color": COLOURS[1], "linewidth": 2.2}), strict=True
    ):
        if shown:
            panel.plot([], [], label=name, **look)
    if len(epochs) > 1:
        panel.set_xscale("log")
    panel.set_xticks(_spread(epochs), [str(epoch) for epoch in _spread(epochs)])
    panel.set_xticks([], minor=True)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def parameters_figure(
    parameters: Mapping[str, Sequence[Any]],
    kinds: Mapping[str, Kind],
    values: Sequence[float],
    pruned: Sequence[bool],
    best: int,
    metric: str,
) -> Figure:
    """Draw the value of each trial over each of its parameters, in a panel for each parameter.

    Args:
        parameters: The values of each parameter in all trials, by its name: numbers, texts, lists or null.
        kinds: The kind of each parameter's axis.
        values: The finite values of the trials, in the order of the trials.
        pruned: Whether each was pruned.
        best: The place of the best trial.
        metric: The name of the metric.
    """
    columns = min(len(parameters), MOST_PANELS)
    rows = -(-len(parameters) // columns)
    figure = empty_figure(2.4 + 3.2 * columns, 1.4 + 2.8 * rows)
    figure.suptitle(f"Search: {metric} over each parameter")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    panels: list[Axes] = list(axes.flat)
    for panel in panels[len(parameters) :]:
        panel.remove()
    for row in axes:
        drawn = _value_axis(row[0], values, metric)
    ended, cut = ([i for i, each in enumerate(pruned) if each is state] for state in (False, True))
    points = None
    for panel, (name, settings) in zip(panels, parameters.items(), strict=False):
        x = _places(panel, settings) if kinds[name] == "category" else list(settings)
        if cut:
            panel.plot([x[i] for i in cut], [drawn[i] for i in cut], **PRUNED, alpha=0.6, zorder=1)
        points = panel.scatter(
            [x[i] for i in ended],
            [drawn[i] for i in ended],
            c=ended,
            vmin=0,
            vmax=max(1, len(values) - 1),
            cmap="viridis_r",
            s=22,
            edgecolor="0.2",
            linewidth=0.3,
            zorder=2,
        )
        panel.plot([x[best]], [drawn[best]], **BEST, linestyle="none", zorder=3)
        panel.set_xlabel(name)
        _tidy(panel)
        if kinds[name] != "category":
            number_ticks(panel, "x", log=kinds[name] == "log")
            _few_decades(panel)
    if points is not None and len(ended) > 1:
        bar = figure.colorbar(
            points, ax=panels[: len(parameters)], label="order of the trials", aspect=25 * rows, pad=0.01
        )
        bar.set_ticks([0, max(1, len(values) - 1)], labels=["first", "last"])
    handles = [panels[0].plot([], [], **BEST, linestyle="none", label="best")[0]]
    if ended:
        look: Any = {"linestyle": "none", "marker": "o", "color": COLOURS[2], "markersize": 5}
        handles += panels[0].plot([], [], **look, label="completed")
    if cut:
        handles += panels[0].plot([], [], **PRUNED, label="pruned, at the last rung")
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def parameter_importance_figure(importances: Mapping[str, float], trials: int) -> Figure:
    """Draw the importance of each parameter as a bar.

    Args:
        importances: The importance of the parameters, which add up to 1, the largest first.
        trials: The number of trials that it was computed from.
    """
    title = f"Search: importance of the parameters, {trials} trials"
    figure, panel = _figure(6.4, 1.5 + 0.3 * len(importances), title)
    places = range(len(importances))
    panel.barh(places, list(importances.values()), color=COLOURS[0], height=0.7)
    panel.set_yticks(places, list(importances))
    for place, share in zip(places, importances.values(), strict=True):
        offset: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        panel.annotate(f"{share:.2f}", (share, place), **offset)
    panel.invert_yaxis()
    panel.margins(x=0.1)
    panel.grid(visible=False, axis="y")
    panel.set_xlabel("share in being among the best tenth of the trials (PED-ANOVA)")
    return figure


def label_of(value: Any, digits: int = 6) -> str:
    """Return the label of a parameter's value: lists without brackets, and words as in YAML."""
    if isinstance(value, list | tuple) and value:
        return ", ".join(label_of(each, digits) for each in value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float):
        return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.6g}"
    return str(value)


def _figure(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = empty_figure(width, height)
    figure.suptitle(title)
    panel = figure.subplots()
    _tidy(panel)
    return figure, panel


def _tidy(panel: Axes) -> None:
    panel.grid(visible=True, alpha=0.25)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _value_axis(panel: Axes, values: Sequence[float], metric: str) -> list[float]:
    """Label and scale the y axis; return the values to draw, in which those that are far off are lowered.

    Trials that diverge would leave no room for those that are compared.
    """
    low, high = min(values), max(values)
    limit = low + FAR * ((quantiles(values, n=4)[2] if len(values) > 1 else high) - low)
    cut = low < limit < high
    high = limit if cut else high
    note = f"\n(at the upper edge: {label_of(limit, 3)} and more)" if cut else ""
    panel.set_ylabel(f"{metric}, mean of folds{note}")
    panel.set_ylim(*_with_margins(low, high, log := 0 < WIDE * low < high))
    number_ticks(panel, "y", log)
    return [min(value, high) for value in values]


def _with_margins(low: float, high: float, log: bool) -> tuple[float, float]:
    if log:
        margin = (high / low) ** 0.04
        return low / margin, high * margin
    margin = 0.04 * (high - low) or 0.04 * abs(low) or 1.0
    return low - margin, high + margin


def _few_decades(panel: Axes) -> None:
    """Label powers of ten alone where the labels of a small panel would overlap."""
    from matplotlib import ticker

    low, high = sorted(panel.get_xlim())
    if panel.get_xscale() == "log" and high > 30 * low:
        panel.xaxis.set_major_locator(ticker.LogLocator(numticks=6))
        panel.xaxis.set_major_formatter(ticker.LogFormatterSciNotation())
        panel.xaxis.set_minor_locator(ticker.NullLocator())


def _whole_numbers(panel: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.xaxis.set_major_locator(MaxNLocator(8, integer=True))


def _points(curve: Mapping[int, float], last: bool = False) -> tuple[list[int], list[float]]:
    epochs = sorted(curve)[-1 if last else 0 :]
    return epochs, [curve[epoch] for epoch in epochs]


def _spread(epochs: Sequence[int]) -> list[int]:
    """Return the epochs that have a label on a logarithmic axis: labels of others would overlap."""
    shown: list[int] = []
    least = (epochs[-1] / epochs[0]) ** (1 / 12)
    for epoch in reversed(epochs):
        if not shown or shown[-1] >= epoch * max(least, 1 + 1e-9):
            shown.append(epoch)
    return shown[::-1]


def _places(panel: Axes, settings: Sequence[Any]) -> list[float]:
    """Label an axis with the different settings; return a place for each trial near its label."""
    categories = sorted({label_of(value): value for value in settings}.items(), key=_order)
    labels = [label for label, _ in categories]
    short = [text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…" for text in labels]
    turned = max(map(len, short)) * len(labels) > 32  # letters below a panel
    panel.set_xticks(range(len(labels)), short, fontsize="small")
    panel.tick_params(axis="x", rotation=25 * turned)
    for text in panel.get_xticklabels():
        text.set_horizontalalignment("right" if turned else "center")
    panel.set_xlim(-0.6, len(labels) - 0.4)
    places = [labels.index(label_of(value)) for value in settings]
    golden = (math.sqrt(5) - 1) / 2  # neighbouring trials do not hide each other
    return [place + 0.5 * (i * golden % 1 - 0.5) for i, place in enumerate(places)]


def _order(category: tuple[str, Any]) -> tuple[Any, ...]:
    """Return what categories are sorted by: numbers by size, lists by length, others by name."""
    label, value = category
    if isinstance(value, list | tuple):
        return (2, len(value), *(_order((label_of(each), each)) for each in value))
    return (0, value) if isinstance(value, int | float) else (1, label)
