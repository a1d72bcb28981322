"""Figures of Section 4.9.5: errors of groups, costs of errors, and feedback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from d2l_lightning.plots.style import COLOURS, DASHES, draw_curves, empty_figure, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def group_bars(accuracies: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw the accuracy of each model for all people and for each group."""
    title = "One model for two groups: accuracy on new people"
    figure, (panel,) = panels([""], title, "", "accuracy")
    figure.set_size_inches(8, 4.2)
    names = list(next(iter(accuracies.values())))
    styles = zip(names, (-0.27, 0, 0.27), ("0.6", *COLOURS), ("", "//", ".."), strict=False)
    for name, offset, colour, hatch in styles:
        places = [i + offset for i in range(len(accuracies))]
        heights = [each[name] for each in accuracies.values()]
        bars = panel.bar(places, heights, 0.25, label=name, color=colour, hatch=hatch, edgecolor="white")
        panel.bar_label(bars, fmt="{:.2f}", padding=2, fontsize="small")
    panel.set_xticks(range(len(accuracies)), list(accuracies))
    panel.set_ylim(0, 1.12)
    panel.legend(frameon=False, ncols=len(names), loc="upper left")
    return figure


def threshold_figure(
    thresholds: Sequence[float], accuracy: Sequence[float], cost: Sequence[float], best: float
) -> Figure:
    """Draw accuracy and cost over the threshold of a decision, with the threshold of the formula."""
    titles = ["accuracy", "cost"]
    labels = ["share of right decisions", "mean cost of a decision"]
    xlabel = ["threshold of the probability of being ill"] * 2
    figure, axes = panels(titles, "Decisions with costs: how much does the threshold matter?", xlabel, labels)
    for panel, values in zip(axes, (accuracy, cost), strict=True):
        draw_curves(panel, [("", thresholds, values)])
        panel.axvline(0.5, color="0.5", linestyle=":", label="threshold 0.5")
        panel.axvline(best, color=COLOURS[1], linestyle="--", label=f"threshold from the costs, {best:.2f}")
    axes[0].legend(edgecolor="white", framealpha=1, loc="lower right", fontsize="small")
    return figure


def feedback_figure(shares: Mapping[str, Tensor]) -> Figure:
    """Draw the share of patrols in one of two districts over the rounds: mean, and 5 % to 95 % of them.

    The shares have shape ``(T, R)``, by the name of the strategy.
    """
    repeats = next(iter(shares.values())).shape[1]
    title = f"Two districts with equal crime: mean, and 5 % to 95 % of {repeats} repetitions"
    figure, (panel,) = panels([""], title, "round", "share of patrols in the first district")
    figure.set_size_inches(7.5, 4.2)
    for (name, values), colour, dash in zip(shares.items(), COLOURS, DASHES, strict=False):
        rounds: Any = range(len(values))
        panel.plot(rounds, values.mean(dim=1), linestyle=dash, label=name, color=colour)
        ends: Any = [values.quantile(q, dim=1) for q in (0.05, 0.95)]
        panel.fill_between(rounds, *ends, alpha=0.15, linewidth=0, color=colour)
    panel.axhline(0.5, color="0.3", linewidth=1, linestyle=":", label="share of crime")
    panel.set_ylim(0, 1)
    panel.legend(frameon=False, loc="lower left")
    return figure


def group_errors_figure(
    names: Sequence[str], rows: Sequence[int], errors: Sequence[float], whole: float, group_by: str
) -> Figure:
    """Draw the log RMSE of each group of houses, and that of all houses together."""
    figure = empty_figure(6.8, 1.6 + 0.2 * len(names))
    panel = figure.subplots()
    places = range(len(names))
    panel.barh(places, errors, color=COLOURS[0], height=0.7)
    panel.axvline(whole, color=COLOURS[1], linestyle="--", label=f"all houses, {whole:.3f}")
    labels = [f"{name} ({count})" for name, count in zip(names, rows, strict=True)]
    panel.set_yticks(places, labels, fontsize="small", parse_math=False)
    panel.margins(y=0.01)
    panel.invert_yaxis()
    panel.set_xlabel("log RMSE on houses that the model was not trained on")
    panel.grid(visible=True, axis="x", alpha=0.25)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
    figure.suptitle(f"House prices: error by {group_by} (number of houses)")
    return figure
