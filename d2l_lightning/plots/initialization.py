"""The figure of variances in deep networks before training (Section 4.8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from d2l_lightning.plots.style import Curve, curve_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The variances of each layer by activation, kind of initial weights, number of hidden layers, and quantity.
Variances = dict[str, dict[str, dict[int, dict[str, list[float]]]]]
NAMES = {"activation_variance": "activations", "gradient_variance": "gradients with respect to activations"}
# Variances beyond these bounds are cut off, or those near 1 would look alike.
BOUNDS = (1e-15, 1e15)


def variance_figure(variances: Variances, key: str, width: int, over_depth: bool = False) -> Figure:
    """Draw the variances ``key``, a panel for each activation.

    They are drawn over the layers of the deepest networks; or, with ``over_depth``, those in the first layer
    over the number of layers. The layers have ``width`` units.
    """

    def curve(name: str, by_depth: dict[int, dict[str, list[float]]]) -> Curve:
        deepest = by_depth[max(by_depth)][key]
        x: Sequence[int] = list(by_depth) if over_depth else range(1, len(deepest) + 1)
        return name.replace("_", " "), x, [v[key][0] for v in by_depth.values()] if over_depth else deepest

    curves = {phi: [curve(*named) for named in schemes.items()] for phi, schemes in variances.items()}
    where = " in the first hidden layer" * over_depth
    figure = curve_figure(
        f"Variance of {NAMES[key]}{where}, {width} units a layer", curves,
        "hidden layers" if over_depth else "hidden layer",
        "variance over rows and units,\nbefore training, of standardised images",
        yscale="log", markers=over_depth, legend="none",
    )  # fmt: skip
    low, high = figure.axes[0].get_ylim()  # the panels share it
    figure.axes[0].set_ylim(max(low, BOUNDS[0]), min(high, BOUNDS[1]))
    figure.axes[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def singular_values(bounds: Mapping[str, Mapping[str, Sequence[float]]], size: int) -> Figure:
    """Draw the largest and the smallest singular values of products with bounds, a panel for each kind."""
    names = {
        "largest singular value": "largest",
        "its upper bound": "largest_bound",
        "smallest singular value": "smallest",
        "its lower bound": "smallest_bound",
    }
    curves: dict[str, list[Curve]] = {
        f"elements: {kind}": [
            (name, range(1, len(values[key]) + 1), values[key]) for name, key in names.items()
        ]
        for kind, values in bounds.items()
    }
    title = f"Singular values of products of {size} × {size} matrices"  # noqa: RUF001 (a product)
    return curve_figure(title, curves, "matrices", "singular value", yscale="log", legend="first")
