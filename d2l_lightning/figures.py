"""How figures look: titled, labelled, told apart in grey and by the colour-blind."""

from collections.abc import Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

# Okabe and Ito (2008): distinct for all kinds of colour vision, and each with a dash of its own for grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))


def panels(titles: Sequence[str], title: str, xlabel: str, ylabel: str) -> tuple[Figure, list[Axes]]:
    """Return a figure with a row of titled panels that share both axes.

    Args:
        titles: The panels' titles.
        title: The figure's.
        xlabel: The label of each x axis, with its unit.
        ylabel: The label of the common y axis, with its unit.
    """
    figure = Figure(figsize=(2.4 + 3.6 * len(titles), 4.2), dpi=150, layout="constrained")
    axes = list(figure.subplots(1, len(titles), sharex=True, sharey=True, squeeze=False)[0])
    figure.suptitle(title)
    for panel, panel_title in zip(axes, titles, strict=True):
        panel.set_title(panel_title, fontsize="medium")
        panel.set_xlabel(xlabel)
        panel.grid(visible=True, which="both", alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(ylabel)
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


def log_scale(panel: Axes) -> None:
    """Give a panel a logarithmic y axis whose ticks read as plain numbers."""
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
