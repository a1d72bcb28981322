"""Panels and curves have the axes, scales, markers and legends that are asked for."""

import io
from typing import Any

import pytest

from d2l_lightning.plots.style import (
    curve_figure,
    default_style,
    draw_curves,
    log_scale,
    number_ticks,
    panels,
)


def test_panels_share_an_axis_for_one_label_and_have_their_own_for_several() -> None:
    for ylabel, shared in (("loss", True), (["loss", "norm"], False)):
        _, axes = panels(["a", "b"], "two", "x", ylabel)
        draw_curves(axes[0], [("one", [1, 10, 100], [1e-3, 1, 1e3])])
        draw_curves(axes[1], [("two", [1, 10, 100], [1, 2, 3])])
        log_scale(axes[0])
        log_scale(axes[0], "x")
        assert (axes[0].get_ylim() == axes[1].get_ylim()) is shared
        assert axes[1].get_ylabel() == ("" if shared else "norm")
        assert axes[0].get_xlim() == axes[1].get_xlim()


def test_a_log_axis_of_a_narrow_range_has_several_ticks() -> None:
    _, (panel,) = panels([""], "", "x", "y")
    panel.plot([1, 2], [93.0, 106.0])
    log_scale(panel)
    low, high = panel.get_ylim()
    ticks = [tick for tick in panel.yaxis.get_major_locator()() if low < tick < high]
    assert 4 <= len(ticks) <= 8
    assert panel.yaxis.get_major_formatter()(97.5) == "97.5"


def test_ticks_are_plain_numbers_if_these_are_not_large() -> None:
    written = []
    for size in (1e6, 1e10):
        _, (panel,) = panels([""], "", "x", "y")
        panel.plot([1, 2], [size, size + 1000])
        number_ticks(panel, "y")
        written.append(panel.yaxis.get_major_formatter()(size + 500))
    assert written[0] == "1,000,500"
    assert "," not in written[1]


def test_names_in_other_scripts_are_drawn_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    with default_style():
        figure = curve_figure("\u5e74", {"": []}, "x", "y", legend="none")
        figure.savefig(io.BytesIO())
    assert list(recwarn) == []


def test_whole_numbers_have_whole_ticks() -> None:
    for last in (1, 3):
        (panel,) = curve_figure(
            "", {"": [("", range(1, last + 1), [0.5] * last)]}, "epoch", "loss", legend="none"
        ).axes
        ticks = panel.xaxis.get_major_locator()()
        assert all(float(tick).is_integer() for tick in ticks)


def test_a_legend_beside_a_panel_covers_no_curve() -> None:
    curves = [(f"{k}", [0, 1], [k, -k]) for k in range(6)]
    figure = curve_figure("", {"": curves}, "x", "y", legend="beside")
    figure.draw_without_rendering()
    (panel,) = figure.axes
    assert panel.get_legend().get_window_extent().x0 >= panel.get_window_extent().x1


def test_a_curve_figure_has_scales_markers_and_legends() -> None:
    curves = {name: [("low", [1, 10], [1, 2]), ("high", [1, 10], [3, 4])] for name in ("a", "b")}
    figure = curve_figure("title", curves, "x", "y", xscale="log", markers=True, legend="first")
    assert figure.get_suptitle() == "title"
    assert [panel.get_title() for panel in figure.axes] == ["a", "b"]
    for panel in figure.axes:
        assert (panel.get_xscale(), panel.get_yscale()) == ("log", "linear")
        assert [line.get_label() for line in panel.lines] == ["low", "high"]
        assert {line.get_marker() for line in panel.lines} == {"o"}
    assert [panel.get_legend() is None for panel in figure.axes] == [False, True]


@pytest.mark.parametrize(("legend", "shown"), [("each", 2), ("last", 1), ("none", 0)])
def test_legends_are_in_the_panels_asked_for(legend: Any, shown: int) -> None:
    figure = curve_figure("", {name: [("c", [1, 2], [1, 2])] for name in "ab"}, "x", "y", legend=legend)
    assert sum(panel.get_legend() is not None for panel in figure.axes) == shown
