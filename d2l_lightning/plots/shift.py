"""Figures of Section 4.9: distribution shift, streams and bandits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from d2l_lightning.plots import style
from d2l_lightning.plots.style import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The most points of a scatter plot, rows of source or target in a figure with both, and points of a stream.
MAX_POINTS, MAX_ROWS, MAX_PARTS = 1500, 400, 50
# The most features of a figure, and the most characters of their names.
MAX_FEATURES, MAX_NAME = 12, 24


def overlap(
    source_scores: Tensor, target_scores: Tensor, weights: Tensor, ratio: Tensor | None = None
) -> Figure:
    """Draw the scores of source and target, and the weights, against true weights if these are known.

    The scores are a domain classifier's log-odds, ``(n,)`` and ``(m,)``. The estimated weights and their true
    ``ratio``, both ``(n,)``, belong to the rows of the source.
    """
    figure, (scores, right) = style.panels(
        ["scores of the domain classifier", "weights" if ratio is None else "estimated and true weights"],
        "Overlap of source and target",
        ["log-odds that a row is from the target, h", "weight" if ratio is None else "true weight"],
        ["share of rows per bin", "rows of the source" if ratio is None else "estimated weight"],
    )
    span = style.value_span(torch.cat([source_scores, target_scores]), 0.001)
    style.histograms(
        scores, {"source": source_scores.clamp(*span), "target": target_scores.clamp(*span)}, span
    )
    scores.legend(frameon=False)
    if ratio is None:
        right.hist(weights.numpy(), bins=40, range=style.value_span(weights), color=COLOURS[0], log=True)
    else:
        shown = torch.linspace(0, len(ratio) - 1, min(MAX_POINTS, len(ratio))).long()
        right.plot(ratio[shown], weights[shown], ".", markersize=3, alpha=0.5, color=COLOURS[0])
        ends = [ratio[ratio > 0].min().item(), ratio.max().item()]
        right.plot(ends, ends, color="0.4", linewidth=1, linestyle="--", label="equal")
        style.log_scale(right, "x")
        right.legend(frameon=False)
    style.log_scale(right)
    return figure


def fitted_lines(points: Mapping[str, tuple[Tensor, Tensor]], lines: Sequence[style.Curve]) -> Figure:
    """Draw rows along the direction of a shift, and lines that were fitted to them.

    The points are coordinates t and y, shape ``(n,)``, of source and target, by name.
    """
    title = "Lines fitted to a curve: each fits where its rows are"
    figure, (panel,) = style.panels([""], title, "t, the coordinate along the shift", "label y")
    for (name, (t, y)), colour, marker in zip(points.items(), ("0.75", "0.45"), "ox", strict=True):
        look: Any = {"markersize": 3, "color": colour, "linestyle": "none", "zorder": 1}
        panel.plot(t[:MAX_ROWS], y[:MAX_ROWS], marker, label=name, **look)
    style.draw_curves(panel, lines)
    panel.legend(frameon=False)
    return figure


def detections(
    aucs: Mapping[str, Sequence[float]], p_values: Mapping[str, Sequence[float]], level: float, shift: str
) -> Figure:
    """Draw the AUCs of tests without and with a shift, and the share of p-values up to each level."""
    figure, (left, right) = style.panels(
        ["AUC on held-out rows", "how often a test finds a shift"],
        f"Detecting a shift of Fashion-MNIST: {shift}",
        ["area under the curve", "level of the test"],
        ["share of tests per bin", "share of tests with a p-value up to it"],
    )
    values = {name: torch.tensor(each) for name, each in aucs.items()}
    style.histograms(left, values, style.value_span(torch.cat(list(values.values()))))
    steps = {name: torch.linspace(0, 1, len(each) + 1).tolist() for name, each in p_values.items()}
    style.draw_curves(right, [(name, [0, *sorted(p), 1], [*steps[name], 1]) for name, p in p_values.items()])
    right.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="expected by chance")
    right.axvline(level, color="0.6", linewidth=1, linestyle=":", label=f"level {level}")
    left.legend(frameon=False)
    right.legend(frameon=False)
    return figure


def balance(differences: Sequence[tuple[str, float, float]]) -> Figure:
    """Draw how far the means of source and target are apart, in standard deviations, for the first features.

    Each entry has the name of a feature and the differences without weights and with them.
    """
    title = "Distance of the target's means from the source's"
    figure, (panel,) = style.panels([""], title, "difference of means (standard deviations)", "")
    names, plain, weighted = zip(*differences[:MAX_FEATURES][::-1], strict=True)
    places = range(len(names))
    panel.hlines(places, plain, weighted, color="0.8", linewidth=1.5, zorder=1)
    panel.plot(plain, places, "o", color=COLOURS[0], label="source without weights")
    panel.plot(weighted, places, "D", color=COLOURS[1], label="weighted source")
    panel.axvline(0, color="0.4", linewidth=1)
    labels = [name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…" for name in names]
    panel.set_yticks(list(places), labels, parse_math=False)
    panel.legend(frameon=False)
    return figure


def class_shares(
    labels: Sequence[str], shares: Mapping[str, Sequence[float]], accuracies: Mapping[str, float]
) -> Figure:
    """Draw the class shares of source, target and estimate, and the accuracies of three models on the target.

    The models are those without weights, with estimated and with true ones.
    """
    titles, ylabels = ["class shares", "accuracy on the target"], ["share of rows", "accuracy"]
    title = "Label shift: the estimated class shares, and training with weights"
    figure, (panel, bars) = style.panels(titles, title, ["", ""], ylabels)
    figure.set_size_inches(12, 4.4)
    grid: Any = panel.get_gridspec()
    grid.set_width_ratios([3, 1])
    places = torch.arange(len(labels))
    styles = zip((-0.27, 0, 0.27), COLOURS, ("", "//", ".."), strict=False)
    for (name, values), (offset, colour, hatch) in zip(shares.items(), styles, strict=True):
        panel.bar(places + offset, values, 0.25, label=name, color=colour, hatch=hatch, edgecolor="white")
    panel.set_xticks(places.tolist(), labels, rotation=30, ha="right")
    panel.legend(frameon=False)
    names = [name.replace(" ", "\n", 1) for name in accuracies]
    drawn = bars.bar(names, list(accuracies.values()), 0.6, color=[COLOURS[0], COLOURS[2], "0.6"])
    bars.bar_label(drawn, fmt="{:.4f}", padding=2)
    bars.set_ylim(0, 1)
    return figure


def stream_errors(errors: Mapping[str, Tensor], freeze: int) -> Figure:
    """Draw the squared errors of every row of a stream, shape ``(n,)``, by the name of the model.

    One model was frozen at the row ``freeze``. Each point is the mean of a part of the stream.
    """
    curves: list[style.Curve] = []
    for name, values in errors.items():
        parts = values.tensor_split(min(MAX_PARTS, len(values)))
        ends = torch.tensor([len(part) for part in parts]).cumsum(dim=0)
        curves.append((name, ends.tolist(), [part.mean().item() for part in parts]))
    title, labels = "Prediction of a stream with concept shift", ("row of the stream", "mean squared error")
    figure = style.curve_figure(title, {"": curves}, *labels, yscale="log", legend="none")
    figure.axes[0].axvline(freeze, color="0.6", linewidth=1, label="the copy is made")
    figure.axes[0].legend(frameon=False)
    return figure


def regret_curves(regret: Mapping[str, Tensor]) -> Figure:
    """Draw the mean regret of strategies over the pulls, on linear and on logarithmic axes.

    The regret of R bandits after each of T pulls has shape ``(T, R)``, by the strategy's name.
    """
    num_bandits = next(iter(regret.values())).shape[1]
    title = f"Regret of strategies for a multi-armed bandit, mean of {num_bandits} bandits"
    means = [(name, range(1, len(each) + 1), each.mean(dim=1).tolist()) for name, each in regret.items()]
    curves = {"linear axes": means, "logarithmic axes": means}
    figure = style.curve_figure(
        title, curves, "number of pulls", ["regret (expected payments)", ""], legend="first"
    )
    if any(mean[-1] > 0 for *_, mean in means):  # with equal arms all regret is 0
        style.log_scale(figure.axes[1], "x")
        style.log_scale(figure.axes[1])
    return figure
