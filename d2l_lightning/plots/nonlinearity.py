"""Figures of what nonlinearities do: linear pieces, and outputs that depend on the batch (Section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from d2l_lightning.plots.style import curve_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor


def fits(
    x: Tensor, y: Tensor, predictions: Mapping[str, Tensor], kinks: Mapping[str, Sequence[float]]
) -> Figure:
    """Draw a target y over x, both ``(n,)``, in a panel for each of ``predictions`` with their kinks."""
    panels = {
        name: [("target", x.tolist(), y.tolist()), ("perceptron", x.tolist(), y_hat.tolist())]
        for name, y_hat in predictions.items()
    }
    title = "Perceptrons with and without a nonlinearity, trained side by side"
    figure = curve_figure(title, panels, "x", "y", legend="none")
    for panel, (name, y_hat) in zip(figure.axes, predictions.items(), strict=True):
        places = torch.tensor(kinks[name], dtype=x.dtype)
        nearest = torch.searchsorted(x, places).clamp(max=len(x) - 1)
        panel.plot(places.tolist(), y_hat[nearest].tolist(), "o", color="black", markersize=4, label="kinks")
    figure.axes[0].legend(frameon=False)
    return figure


def batch_dependence(spreads: Mapping[str, Mapping[str, Sequence[float]]], x: float) -> Figure:
    """Draw the ``mean`` and the ``std`` of outputs over ``batch_size``, a curve for each nonlinearity."""
    panels = {
        what: [(name, of_name["batch_size"], of_name[column]) for name, of_name in spreads.items()]
        for what, column in (("mean of the outputs", "mean"), ("standard deviation of the outputs", "std"))
    }
    title = f"Outputs for x = {x:g} in batches of other numbers"
    labels = ("batch size", ["output", ""])
    return curve_figure(title, panels, *labels, xscale="log", markers=True, legend="first")
