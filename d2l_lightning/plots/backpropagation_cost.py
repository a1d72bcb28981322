"""Figures of what second derivatives and smaller minibatches cost (Section 4.7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from d2l_lightning.plots.backpropagation import MEGABYTE
from d2l_lightning.plots.style import Curve, curve_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def times(sizes: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the times of a product with the Hessian and of the Hessian over the number of parameters."""
    parameters = [each["parameters"] for each in sizes]
    names = {"Hessian times a vector": "product_ratio", "whole Hessian": "hessian_ratio"}
    curves: list[Curve] = [
        (name, parameters, [each[ratio] for each in sizes]) for name, ratio in names.items()
    ]
    curves.append(("number of parameters", parameters, parameters))
    title = "Second derivatives: time, divided by the time of a gradient"
    labels = ("parameters", "median time / median time of a gradient")
    return curve_figure(title, {"": curves}, *labels, xscale="log", yscale="log", markers=True)


def memory(parts: Sequence[Mapping[str, float]], batch_size: int) -> Figure:
    """Draw the peak memory of a gradient over the number of parts of the batch."""
    curve: Curve = ("", [each["parts"] for each in parts], [each["bytes"] / MEGABYTE for each in parts])
    title = f"The gradient of {batch_size:,} rows, accumulated over parts"
    labels = ("parts", "MB alive at the same time")
    figure = curve_figure(title, {"": [curve]}, *labels, xscale="log", markers=True, legend="none")
    figure.axes[0].set_ylim(bottom=0)
    return figure
