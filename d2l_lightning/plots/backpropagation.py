"""Figures of backpropagation: the computational graph and the memory of intermediates (Section 4.7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from d2l_lightning.plots.style import COLOURS, Curve, curve_figure, empty_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEGABYTE = 1e6
# Positions of the variables of the section's model, as in fig. 4.7.1: mostly rightward and upward.
POSITIONS = {
    **{"X": (0.0, 1.0), "W1": (1.0, 2.0), "b1": (1.0, 0.0), "z": (2.0, 1.0), "h": (4.0, 1.0)},
    **{"W2": (5.0, 2.0), "b2": (5.0, 0.0), "o": (6.0, 1.0), "y": (7.0, 0.0), "L": (8.0, 1.0)},
    **{"s": (8.0, 3.0), "J": (10.0, 3.0)},
}
LEGEND = (
    "squares: variables, with their shapes\ncircles: autograd's functions, the first one above\n"
    "←: the equation that gives the gradient of J for it"
)


def computational_graph(
    shapes: Mapping[str, Sequence[int]],
    operators: Iterable[tuple[Sequence[str], Sequence[str], str]],
    equations: Mapping[str, str],
) -> Figure:
    """Draw the computational graph of a perceptron with one hidden layer.

    ``shapes`` and ``equations``, those of the gradients of the objective, are by variable. Each of
    ``operators`` has its functions from the last to the first, its inputs and its output.
    """
    from matplotlib.patches import FancyArrowPatch

    figure = empty_figure(12, 5.4)
    figure.suptitle("Computational graph of forward propagation, as autograd keeps it (fig. 4.7.1)")
    panel = figure.subplots()
    panel.set(xlim=(-0.6, 10.6), ylim=(-0.75, 3.6), aspect="equal")
    panel.set_axis_off()
    square = {"boxstyle": "square,pad=0.45", "facecolor": "#E8F1F8", "edgecolor": COLOURS[0]}
    circle = {"boxstyle": "circle,pad=0.25", "facecolor": "white", "edgecolor": COLOURS[1]}
    style: dict[str, Any] = {"ha": "center", "va": "center", "linespacing": 1.3}
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 11, "color": "0.35", "zorder": 4}
    boxes = {}
    for name, shape in shapes.items():
        x, y = POSITIONS[name]
        symbol = name if len(name) == 1 else f"{name[0]}$^{{({name[1]})}}$"
        boxes[name] = panel.text(x, y, symbol, fontsize=13, bbox=square, **style)
        caption = ", ".join(map(str, shape)) or "scalar"
        caption += f"\n← {equations[name]}" if name in equations else ""
        # On the side without arrows.
        dy, va = (0.3, "bottom") if y > 0 and name != "L" else (-0.3, "top")
        panel.text(x, y + dy, caption, ha="center", va=va, fontsize=7, color="0.3")
    for functions, inputs, output in operators:
        x, y = POSITIONS[output]
        label = "\n".join(dict.fromkeys(reversed(functions)))
        operator = panel.text(x - 1, y, label, fontsize=7, bbox=circle, **style)
        for start, end in [*((boxes[name], operator) for name in inputs), (operator, boxes[output])]:
            patches: dict[str, Any] = {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}
            panel.add_patch(FancyArrowPatch(start.get_position(), end.get_position(), **patches, **arrow))
    panel.text(-0.5, 3.5, LEGEND, ha="left", va="top", fontsize=8)
    return figure


def memory(
    over_batch_size: Sequence[Mapping[str, int]], over_depth: Sequence[Mapping[str, int]], title: str
) -> Figure:
    """Draw the memory of training and prediction over batch size and depth.

    The bytes of ``training``, ``intermediates`` and ``prediction`` are given for each ``batch_size``, and for
    each ``depth``.
    """
    parts = {"training": "training", "intermediates": "kept for backpropagation", "prediction": "prediction"}

    def curves(measured: Sequence[Mapping[str, int]], setting: str) -> list[Curve]:
        x = [each[setting] for each in measured]
        return [(name, x, [each[part] / MEGABYTE for each in measured]) for part, name in parts.items()]

    panels = {
        "one hidden layer, over batch size": curves(over_batch_size, "batch_size"),
        f"batches of {over_depth[0]['batch_size']}, over depth": curves(over_depth, "depth"),
    }
    xlabels, ylabels = ["batch size", "hidden layers"], ["MB alive at the same time", ""]
    figure = curve_figure(title, panels, xlabels, ylabels, markers=True, legend="first")
    for panel in figure.axes:
        panel.set_ylim(bottom=0)
    return figure
