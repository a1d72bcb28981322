"""Figures of the house-price job (Section 4.10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from d2l_lightning.plots.style import COLOURS, Curve, draw_curves, histograms, log_scale, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More curves than this look alike.
MAX_NAMED_FOLDS = 10


def fold_curves(means: Mapping[str, Curve], folds: Mapping[str, Sequence[Curve]]) -> Figure:
    """Draw the learning curves of all folds over their mean, a panel for each set of rows, by its name."""
    k = len(next(iter(folds.values())))
    figure, axes = panels(list(folds), f"House prices: {k}-fold cross-validation", "epoch", "log RMSE")
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


def price_distributions(known: Tensor, predicted: Tensor) -> Figure:
    """Draw the known prices of the training rows and the predicted prices of the test rows, in dollars."""
    labels = ("price (thousand US dollars; the last bin holds all above)", "share of houses per bin")
    figure, (panel,) = panels([""], "House prices: known and predicted", *labels)
    prices = {"known, training rows": known, "predicted, test rows": predicted.float()}
    highest = max(p.quantile(0.995).item() for p in prices.values())
    thousands = {name: values.clamp(max=highest) / 1e3 for name, values in prices.items()}
    histograms(panel, thousands, (0, highest / 1e3))
    panel.legend(frameon=False)
    return figure
