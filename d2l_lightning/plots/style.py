"""The style of all figures: titled, labelled, readable in grey and by the colour-blind."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): distinct for all kinds of colour vision. Each has a dash of its own, for grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))
LARGE = 1e9  # numbers that are not written out
# A name with the x and y values of a curve.
Curve = tuple[str, Sequence[float], Sequence[float]]
Scale = Literal["linear", "log"]


@contextmanager
def default_style() -> Iterator[None]:
    """Draw with matplotlib's own defaults, whatever the user's matplotlibrc says."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        # A name in a script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


def empty_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def curve_figure(
    title: str,
    curves: Mapping[str, Sequence[Curve]],
    xlabel: str | Sequence[str],
    ylabel: str | Sequence[str],
    *,
    xscale: Scale = "linear",
    yscale: Scale = "linear",
    markers: bool = False,
    legend: Literal["each", "beside", "first", "last", "none"] = "last",
) -> Figure:
    """Return a figure of curves, with a panel for each entry of ``curves``, titled by its key.

    For the labels see ``panels``. ``markers`` marks the points; ``legend`` names the panels with a legend;
    with "beside", each has one on its right, where it hides no curve.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = panels(list(curves), title, xlabel, ylabel)
    for panel, of_panel in zip(axes, curves.values(), strict=True):
        draw_curves(panel, of_panel)
        if markers:
            for line in panel.lines:
                line.set(marker="o", markersize=4)
        if xscale == "log":
            log_scale(panel, "x")
        elif all(float(x).is_integer() for _, xs, _ in of_panel for x in xs):
            panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))  # no epoch 2.5
        if yscale == "log":
            log_scale(panel, "y")
    where: dict[str, Any] = {}
    if legend == "beside":
        figure.set_figwidth(figure.get_figwidth() + 1.7 * len(axes))
        where = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
    named = {"each": axes, "beside": axes, "first": axes[:1], "last": axes[-1:], "none": []}
    for panel in named[legend]:
        panel.legend(frameon=False, **where)
    return figure


def panels(
    titles: Sequence[str], title: str, xlabel: str | Sequence[str], ylabel: str | Sequence[str]
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a row of panels.

    Args:
        titles: The panels' titles.
        title: The figure's title.
        xlabel: The label, with its unit, of an x axis that the panels share; or a label for each panel, which
            then has an axis of its own.
        ylabel: The same for the y axis.
    """
    figure = empty_figure(2.4 + 3.6 * len(titles), 4.2)
    sharex, sharey = isinstance(xlabel, str), isinstance(ylabel, str)
    axes = list(figure.subplots(1, len(titles), sharex=sharex, sharey=sharey, squeeze=False)[0])
    figure.suptitle(title)
    xlabels = [xlabel] * len(titles) if isinstance(xlabel, str) else xlabel
    for panel, panel_title, label in zip(axes, titles, xlabels, strict=True):
        panel.set_title(panel_title, fontsize="medium")
        panel.set_xlabel(label)
        panel.grid(visible=True, which="both", alpha=0.25)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    for panel, label in zip(axes, [ylabel] if isinstance(ylabel, str) else ylabel, strict=False):
        panel.set_ylabel(label)
    return figure, axes


def draw_curves(panel: Axes, curves: Sequence[Curve]) -> None:
    """Draw curves, each with a colour and a dash of its own; the name of a single curve may be empty."""
    for (name, x, y), colour, dash in zip(curves, cycle(COLOURS), cycle(DASHES)):
        marker = "o" if len(x) == 1 else ""  # a lone point shows no line
        panel.plot(x, y, color=colour, linestyle=dash, linewidth=1.5, label=name, marker=marker)


def log_scale(panel: Axes, axis: Literal["x", "y"] = "y") -> None:
    """Give a panel a logarithmic axis whose ticks read as plain numbers, or powers of ten on wide ranges."""
    from matplotlib import ticker

    which = panel.xaxis if axis == "x" else panel.yaxis
    panel.set(**{f"{axis}scale": "log"})
    low, high = sorted(which.get_view_interval())
    few = low > 0 and high / low < 1e3  # decades alone would be too few ticks, or 1, 2 and 5 too many
    narrow = low > 0 and high / low < 4
    if low > 0 and high / low < 1.5:
        number_ticks(panel, axis)
        which.set_minor_locator(ticker.NullLocator())
        return
    subs = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0) if narrow else (1.0, 2.0, 5.0)
    which.set_major_locator(ticker.LogLocator(subs=subs if few else (1.0,)))
    wide = low > 0 and high / low > 1e6  # plain numbers would be of different formats
    which.set_major_formatter(
        ticker.LogFormatterSciNotation() if wide else ticker.StrMethodFormatter("{x:g}")
    )
    which.set_minor_formatter(ticker.NullFormatter())


def number_ticks(panel: Axes, axis: Literal["x", "y"], log: bool = False) -> None:
    """Give an axis with its data a scale, with few ticks that read as plain numbers if they are not large."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    which = panel.xaxis if axis == "x" else panel.yaxis
    if log:
        log_scale(panel, axis)
    else:
        which.set_major_locator(MaxNLocator(4 if axis == "x" else 7))
    plain = not log or isinstance(which.get_major_formatter(), StrMethodFormatter)
    if plain and max(map(abs, which.get_view_interval())) < LARGE:
        which.set_major_formatter(StrMethodFormatter("{x:,.10g}"))


def histograms(panel: Axes, values: Mapping[str, Tensor], span: tuple[float, float]) -> None:
    """Draw the shares of one or two sets of values, ``(n,)``, in 40 bins: an area, and a line for the second.

    ``span`` holds the least and the greatest value of the bins.
    """
    styles = list(zip(COLOURS, ("stepfilled", "step"), (0.45, 1), strict=False))[: len(values)]
    for (name, each), (colour, kind, alpha) in zip(values.items(), styles, strict=True):
        shares = torch.full_like(each, 1 / len(each)).numpy()
        style: Any = {"histtype": kind, "color": colour, "alpha": alpha, "linewidth": 1.6}
        panel.hist(each.numpy(), bins=40, range=span, weights=shares, label=name, **style)


def value_span(values: Tensor, outside: float = 0.0) -> tuple[float, float]:
    """Return the ends, always different, of the range of values, ``(n,)``, without a share on either side."""
    low, high = values.double().quantile(torch.tensor([outside, 1 - outside]).double()).tolist()
    margin = 0.0 if high - low > 1e-3 * max(abs(low), abs(high), 1e-3) else max(0.5, abs(low) / 2)
    return low - margin, high + margin
