"""Figures of images, and of matrices as images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from d2l_lightning.plots.style import COLOURS, empty_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def image_grid(images: Tensor, captions: Sequence[tuple[str, bool]], title: str, columns: int = 8) -> Figure:
    """Return a figure of images of shape ``(n, h, w)``, from 0 to 1, each with a caption.

    Each caption is a text and whether all is well with the image; otherwise the image is framed.
    """
    rows = -(-len(images) // columns)
    figure = empty_figure(1.3 * columns, 1.75 * rows + 0.5)
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
    figure = empty_figure(7.5, 6.5)
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
