"""How figures look: titled, labelled, told apart in grey and by the colour-blind."""

from collections.abc import Sequence
from itertools import cycle
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

# Okabe and Ito (2008): distinct for all kinds of colour vision, and each with a dash of its own for grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))


def panels(
    titles: Sequence[str], title: str, xlabel: str, ylabel: str | Sequence[str]
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a row of titled panels that share their x axis.

    Args:
        titles: The panels' titles.
        title: The figure's.
        xlabel: The label of each x axis, with its unit.
        ylabel: The label of the y axis that the panels share, with its unit; or one for each panel, which
            then has its own axis.
    """
    figure = Figure(figsize=(2.4 + 3.6 * len(titles), 4.2), dpi=150, layout="constrained")
    shared = isinstance(ylabel, str)
    axes = list(figure.subplots(1, len(titles), sharex=True, sharey=shared, squeeze=False)[0])
    figure.suptitle(title)
    for panel, panel_title in zip(axes, titles, strict=True):
        panel.set_title(panel_title, fontsize="medium")
        panel.set_xlabel(xlabel)
        panel.grid(visible=True, which="both", alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    for panel, label in zip(axes, [ylabel] if isinstance(ylabel, str) else ylabel, strict=False):
        panel.set_ylabel(label)
    return figure, axes


def draw_curves(panel: Axes, curves: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> None:
    """Draw named curves, each with a colour and a dash of its own; a single one needs no name.

    Args:
        panel: Where.
        curves: Name, x and y of each.
    """
    for (name, x, y), colour, dash in zip(curves, cycle(COLOURS), cycle(DASHES)):
        # A lone point shows no line.
        panel.plot(
            x, y, color=colour, linestyle=dash, linewidth=1.5, label=name, marker="o" if len(x) == 1 else ""
        )


def log_scale(panel: Axes, axis: Literal["x", "y"] = "y") -> None:
    """Give a panel a logarithmic axis whose ticks read as plain numbers."""
    which = panel.xaxis if axis == "x" else panel.yaxis
    panel.set(**{f"{axis}scale": "log"})
    low, high = sorted(which.get_view_interval())
    few = low > 0 and high / low < 1e3  # decades alone would be too few ticks, or 1, 2 and 5 too many
    which.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    which.set_major_formatter(StrMethodFormatter("{x:g}"))
    which.set_minor_formatter(NullFormatter())
