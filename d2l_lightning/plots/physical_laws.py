"""Figures of laws of physics that are learned from measurements (Section 3.4.6, exercises 2 and 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from torch import Tensor

from d2l_lightning.plots.style import COLOURS, DASHES, log_scale, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The panels' titles and the labels of their axes, by law.
LAWS = {
    "ohm": ("Ohm's law", "current (A)", "voltage (V)"),
    "planck": ("Planck's law", "wavelength (µm)", "spectral density (kW / (m² sr nm))"),
}
Points = tuple[Tensor, Tensor]  # x and y, shape (n,)


def fitted_laws(measured: Mapping[str, Points], curves: Mapping[str, tuple[str, Points]]) -> Figure:
    """Draw measurements, and the law that was learned from them, by law; a curve comes with its name."""
    titles, xlabels, ylabels = zip(*(LAWS[law] for law in measured), strict=True)
    figure, axes = panels(titles, "Laws of physics, learned from measurements", xlabels, ylabels)
    for panel, law in zip(axes, measured, strict=True):
        name, curve = curves[law]
        panel.plot(*measured[law], ".", color="0.6", label="measured")
        panel.plot(*curve, color=COLOURS[0], label=name)
        panel.legend(frameon=False)
    return figure


def paths_from_starts(
    paths: Mapping[str, Mapping[str, Tensor]], truths: Mapping[str, float], units: Sequence[str]
) -> Figure:
    """Draw constants over the steps, by law and by what is learned, shape ``(steps + 1, K)``."""
    titles = [LAWS[law][0] for law in paths]
    ylabels = [f"estimate ({unit})" for unit in units]
    figure, axes = panels(
        titles, "Estimates from several starts, side by side", ["step"] * len(titles), ylabels
    )
    for panel, (law, variants) in zip(axes, paths.items(), strict=True):
        for (name, values), colour, dash in zip(variants.items(), cycle(COLOURS), cycle(DASHES)):
            lines = panel.plot(values, color=colour, linestyle=dash, linewidth=1.2)
            lines[0].set_label(f"learned: {name.replace('_', ' ')}")
        panel.axhline(truths[law], color="black", linewidth=0.8, label="true value")
        log_scale(panel, "y")
        panel.legend(fontsize="small", loc="upper right", framealpha=1)
    return figure
