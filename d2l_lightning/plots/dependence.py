"""Figures of linear regression whose features depend on each other (Section 3.1.6, exercise 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from d2l_lightning.plots.style import COLOURS, Curve, curve_figure, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def valley(X: Tensor, y: Tensor, shortest: Tensor, along: Tensor, path: Tensor) -> Figure:
    """Draw the loss in a plane of weights, and the paths of SGD in it.

    Args:
        X: Features, shape ``(n, d)``.
        y: Targets, shape ``(n,)``.
        shortest: The solution of least norm, shape ``(d,)``, in the middle of the plane.
        along: A direction of the null space, shape ``(d,)``.
        path: The weights after each step, shape ``(steps + 1, K, d)``.
    """
    _, _, Vh = torch.linalg.svd(X, full_matrices=False)
    across = Vh[0]  # the direction in which the loss grows fastest
    x, z = (path - shortest) @ along, (path - shortest) @ across
    reach = [1.15 * max(1.0, values.abs().max().item()) for values in (x, z)]
    grid = [torch.linspace(-each, each, 101, dtype=X.dtype) for each in reach]
    weights = shortest + grid[0][None, :, None] * along + grid[1][:, None, None] * across
    loss = (weights @ X.T - y).square().mean(dim=-1) / 2
    titles = [f"{path.shape[1]} starts, the same minibatches"]
    labels = (
        "distance from the shortest solution\nalong the null space of X",
        "across it, where the loss grows fastest",
    )
    figure, (panel,) = panels(titles, "SGD where X has dependent columns", *labels)
    figure.set_size_inches(6.6, 5)
    area = panel.contourf(grid[0], grid[1], loss, levels=20, cmap="Greys", alpha=0.8)
    figure.colorbar(area, label="half the mean squared error")
    panel.axhline(0, color=COLOURS[2], linestyle="--", label="all solutions in this plane")
    for k in range(path.shape[1]):
        label = {0: "path of SGD"}.get(k)
        panel.plot(x[:, k], z[:, k], color=COLOURS[0], linewidth=1, label=label)
        panel.plot(x[0, k], z[0, k], "o", color=COLOURS[0], label="start" if k == 0 else None)
        panel.plot(x[-1, k], z[-1, k], "s", color=COLOURS[1], label="end" if k == 0 else None)
    panel.plot(0, 0, "*", color="black", markersize=11, label="shortest solution")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def noise_and_ridge(noise: Sequence[Mapping[str, float]], draws: int) -> Figure:
    """Draw what noise on X does over its standard deviation: to X^T X, and to the weights."""
    sigmas = [each["sigma"] for each in noise]

    def curve(name: str, key: str) -> Curve:
        return name, sigmas, [each[key] for each in noise]

    curves = {
        "condition number of X^T X": [
            curve(f"one draw, median of {draws:,}", "condition"),
            curve("expected X^T X", "expected_condition"),
        ],
        "distance from the shortest solution": [
            curve(f"one draw, median of {draws:,}", "one_draw"),
            curve(f"{draws:,} draws as one data set", "all_draws"),
            curve("ridge with lambda = sigma²", "ridge"),
        ],
    }
    title, labels = "Noise on features that depend on each other", ["condition number", "Euclidean distance"]
    xlabel = "standard deviation of the noise, sigma"
    return curve_figure(
        title, curves, xlabel, labels, xscale="log", yscale="log", markers=True, legend="each"
    )
