"""The figure of models of counts (Section 3.1.6, exercise 8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from d2l_lightning.plots.style import COLOURS, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def count_figure(
    rate: Tensor,
    counts: Tensor,
    predictions: Mapping[str, Tensor],
    k: Tensor,
    probabilities: Mapping[str, Tensor],
) -> Figure:
    """Draw what models predict over the true rates, and the probabilities of counts in the quietest row.

    Args:
        rate: The true rate of each row, shape ``(n,)``.
        counts: The counts, shape ``(n,)``.
        predictions: What models predict, shape ``(n,)``, by name.
        k: Whole numbers, shape ``(m,)``, ascending.
        probabilities: Their probabilities in the row with the lowest rate, shape ``(m,)``, by name.
    """
    titles = [f"{len(rate):,} test rows", f"the row with the lowest rate, {rate.min():.2g}"]
    labels = (["true rate", "count"], ["count or prediction", "probability"])
    figure, (left, right) = panels(titles, "Counts: Poisson regression and a linear model", *labels)
    left.plot(rate, counts, ".", color="0.75", label="counts")
    styles = list(zip(COLOURS, "os", ("", "///"), strict=False))
    for (name, values), (colour, marker, _) in zip(predictions.items(), styles, strict=True):
        left.plot(rate, values, marker, color=colour, markersize=3, label=name)
    left.axhline(0, color="black", linewidth=0.8)
    left.legend(frameon=False)
    right.axvspan(k.min().item() - 0.5, -0.5, color="0.9", label="impossible: no count is negative")
    for i, ((name, values), (colour, _, hatch)) in enumerate(zip(probabilities.items(), styles, strict=True)):
        place = (k + 0.4 * (i - 0.5)).tolist()
        right.bar(place, values.tolist(), width=0.4, color=colour, label=name, hatch=hatch, edgecolor="white")
    right.set_ylim(0, 1.4 * max(values.max().item() for values in probabilities.values()))
    right.legend(framealpha=1)
    return figure
