"""How figures look: titled, labelled, told apart in grey and by the colour-blind."""

from collections.abc import Sequence
from itertools import cycle
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from torch import Tensor

# Okabe and Ito (2008): distinct for all kinds of colour vision, and each with a dash of its own for grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))


def panels(
    titles: Sequence[str], title: str, xlabel: str | Sequence[str], ylabel: str | Sequence[str]
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a row of titled panels.

    Args:
        titles: The panels' titles.
        title: The figure's.
        xlabel: The label of the x axis that the panels share, with its unit; or one for each panel, which
            then has its own axis.
        ylabel: That of the y axis, likewise.
    """
    figure = Figure(figsize=(2.4 + 3.6 * len(titles), 4.2), dpi=150, layout="constrained")
    sharex, sharey = isinstance(xlabel, str), isinstance(ylabel, str)
    axes = list(figure.subplots(1, len(titles), sharex=sharex, sharey=sharey, squeeze=False)[0])
    figure.suptitle(title)
    xlabels = [xlabel] * len(titles) if isinstance(xlabel, str) else xlabel
    for panel, panel_title, label in zip(axes, titles, xlabels, strict=True):
        panel.set_title(panel_title, fontsize="medium")
        panel.set_xlabel(label)
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


def image_grid(images: Tensor, captions: Sequence[tuple[str, bool]], title: str, columns: int = 8) -> Figure:
    """Return a figure of images, each with a caption; those to be noticed are framed.

    Args:
        images: Shape ``(n, h, w)``, from 0 to 1.
        captions: A text for each, and whether all is well with it.
        title: The figure's.
        columns: Images in a row.
    """
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.3 * columns, 1.75 * rows + 0.5), dpi=150, layout="constrained")
    figure.suptitle(title)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in axes:
        panel.set_axis_off()
    for panel, image, (caption, well) in zip(axes, images, captions, strict=False):
        panel.set_axis_on()
        panel.imshow(image.numpy(), cmap="gray_r", vmin=0, vmax=1)
        panel.set(xticks=[], yticks=[])
        # A frame and bold type, not colour alone.
        panel.set_title(caption, fontsize="small", color="black" if well else COLOURS[1])
        panel.title.set_fontweight("normal" if well else "bold")
        for spine in panel.spines.values():
            spine.set(visible=not well, color=COLOURS[1], linewidth=2)
    return figure


def matrix(counts: Tensor, names: Sequence[str], title: str, xlabel: str, ylabel: str) -> Figure:
    """Return a figure of a square matrix of counts, written out, shaded by the share of their row."""
    figure = Figure(figsize=(7.5, 6.5), dpi=150, layout="constrained")
    panel = figure.subplots()
    figure.suptitle(title)
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    panel.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    panel.set(xlabel=xlabel, ylabel=ylabel)
    panel.set_xticks(range(len(names)), names, rotation=45, ha="right")
    panel.set_yticks(range(len(names)), names)
    for i, row in enumerate(counts.tolist()):
        for j, count in enumerate(row):
            colour = "white" if shares[i, j] > 0.5 else "black"
            panel.text(j, i, str(count), ha="center", va="center", fontsize="small", color=colour)
    return figure
