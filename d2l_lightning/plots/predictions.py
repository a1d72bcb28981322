"""Figures of predictions for new rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from d2l_lightning.plots.style import COLOURS, histograms, number_ticks, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BARS = 80  # beyond, intervals are a band


def prediction_intervals(
    predictions: Tensor, ends: tuple[Tensor, Tensor], label: str, coverage: float, log: bool
) -> Figure:
    """Draw predictions by their rank, each with its interval, where it is known.

    Args:
        predictions: The predictions, shape ``(n,)``.
        ends: The lower and the upper ends of the intervals; NaN if not known.
        label: The name of the predicted column.
        coverage: The share of intervals that are to hold the true value.
        log: Whether the axis of the label is logarithmic.
    """
    order = predictions.argsort()
    predictions, lower, upper = (values[order] for values in (predictions, *ends))
    figure, (panel,) = panels([""], f"Predictions of {label}", "row, by its prediction", label)
    rank = list(range(1, len(order) + 1))
    if lower.isfinite().all():
        name = f"interval for {coverage:.0%} of rows"
        if len(rank) > MAX_BARS:
            panel.fill_between(rank, lower, upper, color=COLOURS[5], alpha=0.4, linewidth=0, label=name)
        else:
            panel.vlines(rank, lower, upper, color=COLOURS[5], linewidth=2.5, alpha=0.6, label=name)
    style = "-" if len(rank) > MAX_BARS else "o"
    panel.plot(rank, predictions, style, color=COLOURS[0], markersize=3, label="prediction")
    number_ticks(panel, "y", log)
    panel.legend(frameon=False)
    return figure


def class_probabilities(highest: Tensor, label: str) -> Figure:
    """Draw how probable the predicted classes are: shape ``(n,)``."""
    labels = ("probability of the predicted class", "share of rows per bin")
    figure, (panel,) = panels([""], f"Predictions of {label}", *labels)
    histograms(panel, {"": highest}, (0, 1))
    return figure
