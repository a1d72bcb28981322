"""The figure of a model's accuracy over one setting at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from d2l_lightning.plots.style import COLOURS, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def accuracy_by_setting(
    accuracies: Mapping[str, Mapping[str, Sequence[float]]], start: Mapping[str, str], title: str, ylabel: str
) -> Figure:
    """Draw accuracies over the values of each setting, with a point for each seed.

    Each setting has a panel with a scale of its own, which shows small differences too.

    Args:
        accuracies: By setting and value, an accuracy for each seed; none where all seeds diverged.
        start: The value of each setting that the other panels have.
        title: The title of the figure.
        ylabel: The label of the axis of accuracies.
    """
    no_labels = [""] * len(accuracies)
    figure, axes = panels(list(accuracies), title, no_labels, [ylabel, *no_labels[1:]])
    figure.set_size_inches(1 + 2.8 * len(axes), 4.2)
    for panel, (setting, by_value) in zip(axes, accuracies.items(), strict=True):
        names = list(by_value)
        points = [(place, value) for place, values in enumerate(by_value.values()) for value in values]
        means = [(place, fmean(values)) for place, values in enumerate(by_value.values()) if values]
        panel.plot([x for x, _ in means], [y for _, y in means], color=COLOURS[0], label="mean")
        seeds: Any = {"marker": "o", "linestyle": "", "markersize": 4, "label": "one seed"}
        panel.plot([x for x, _ in points], [y for _, y in points], color=COLOURS[1], **seeds)
        panel.axvline(names.index(start[setting]), color="0.6", linestyle=":", label="the book's value")
        panel.set_xticks(range(len(names)), names, rotation=30, ha="right")
        panel.set_xlim(-0.5, len(names) - 0.5)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure
