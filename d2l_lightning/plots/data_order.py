"""Figures of the order in which rows are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from d2l_lightning.plots.style import COLOURS, number_ticks, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 2000  # rows that are drawn for each order


def orders_figure(orders: Mapping[str, Tensor]) -> Figure:
    """Draw which row of the file, from 0 on, is read at which place of an epoch: tensors ``(n,)`` by name."""
    labels = ("place in the epoch", "row of the file")
    figure, axes = panels(list(orders), "The order in which an epoch reads the rows of a file", *labels)
    for panel, order in zip(axes, orders.values(), strict=True):
        step = max(1, len(order) // POINTS)
        panel.plot(range(0, len(order), step), order[::step].tolist(), ".", markersize=2, color=COLOURS[0])
        number_ticks(panel, "x")
    return figure
