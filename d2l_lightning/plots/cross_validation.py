"""Figures of the cross-validation of a table, such as the house prices of Section 4.10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from d2l_lightning.plots.style import COLOURS, Curve, draw_curves, histograms, log_scale, number_ticks, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More curves than this have no colours of their own, and their names would cover the curves.
MAX_NAMED_FOLDS = len(COLOURS)


def fold_curves(
    means: Mapping[str, Curve], folds: Mapping[str, Sequence[Curve]], title: str, metric: str
) -> Figure:
    """Draw the learning curves of all folds over their mean.

    Args:
        means: The mean of the folds, for each set of rows, by its name. Each has a panel.
        folds: The curves of the folds, by the same names.
        title: The title.
        metric: The name of the metric.
    """
    k = len(next(iter(folds.values())))
    figure, axes = panels(list(folds), title, "epoch", metric)
    for panel, rows in zip(axes, folds, strict=True):
        name, epochs, values = means[rows]
        panel.plot(epochs, values, color="0.8", linewidth=6, label=name)
        if k <= MAX_NAMED_FOLDS:
            draw_curves(panel, folds[rows])
        else:
            for _, epochs, values in folds[rows]:
                panel.plot(epochs, values, color=COLOURS[0], linewidth=0.6, alpha=0.5)
        log_scale(panel)
    axes[-1].legend(frameon=False)
    return figure


def label_distributions(known: Tensor, predicted: Tensor, title: str, label: str) -> Figure:
    """Draw the known labels of the training rows and the predictions for the test rows.

    Args:
        known: The labels, shape ``(n,)``.
        predicted: The predictions, shape ``(m,)``.
        title: What the table is about.
        label: What is predicted, with its unit.
    """
    axis = f"{label}; the outermost bins hold all beyond"
    figure, (panel,) = panels([""], f"{title}: known and predicted", axis, "share of rows per bin")
    values = {"known, training rows": known, "predicted, test rows": predicted.float()}
    low = min(each.quantile(0.001).item() for each in values.values())
    high = max(each.quantile(0.995).item() for each in values.values())
    low = 0.0 if 0 <= low < high / 2 else low
    histograms(panel, {name: each.clamp(low, high) for name, each in values.items()}, (low, high))
    number_ticks(panel, "x")
    panel.legend(frameon=False)
    return figure
