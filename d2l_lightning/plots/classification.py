"""A figure of how certain a classifier with dropout is (Section 4.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from d2l_lightning.plots.style import curve_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def dropout_uncertainty(uncertainty: Mapping[str, Sequence[float]], num_masks: int) -> Figure:
    """Draw accuracy and spread over confidence, a point for each group of test rows.

    ``uncertainty`` has the ``confidence``, ``spread`` and ``accuracy`` of each group under the dropout masks.
    """
    confidence = uncertainty["confidence"]
    figure = curve_figure(
        f"Predictions under {num_masks} dropout masks, by tenths of the test rows",
        {
            "Are confident predictions right?": [("this model", confidence, uncertainty["accuracy"])],
            "Do the masks agree?": [("", confidence, uncertainty["spread"])],
        },
        "confidence (mean probability of the predicted class)",
        ["accuracy", "standard deviation of that probability"],
        markers=True,
        legend="none",
    )
    ends = [min(confidence), 1]
    figure.axes[0].plot(ends, ends, color="0.6", linewidth=1, label="accuracy equals confidence")
    figure.axes[0].legend(frameon=False)
    return figure
