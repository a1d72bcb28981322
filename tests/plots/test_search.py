"""Figures of a search show each trial, and distinguish completed from pruned ones."""

from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection

from d2l_lightning.plots.search import (
    history_figure,
    label_of,
    parameter_importance_figure,
    parameters_figure,
    rungs_figure,
)


def points(line: Any) -> list[tuple[float, float]]:
    return list(zip(line.get_xdata(), line.get_ydata(), strict=True))


def test_the_history_has_pruned_trials_completed_ones_and_the_best_so_far() -> None:
    figure = history_figure([0, 1, 3, 4], [0.4, 0.3, 0.35, 0.2], [True, False, False, False], "log RMSE")
    pruned, completed, best = figure.axes[0].lines
    assert points(pruned) == [(0, 0.4)]
    assert points(completed) == [(1, 0.3), (3, 0.35), (4, 0.2)]
    assert points(best) == [(1, 0.3), (3, 0.3), (4, 0.2), (4, 0.2)]
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["pruned, at the last rung", "completed", "best so far"]


def test_a_history_of_pruned_trials_alone_has_no_best() -> None:
    (pruned,) = history_figure([0, 1], [0.4, 0.3], [True, True], "log RMSE").axes[0].lines
    assert points(pruned) == [(0, 0.4), (1, 0.3)]


def test_values_that_are_far_off_are_drawn_at_the_upper_edge_and_a_label_says_so() -> None:
    values = [1.0, *[2.0] * 9, 500.0]
    (panel,) = history_figure(range(11), values, [False] * 11, "RMSE").axes
    assert points(panel.lines[0])[-2:] == [(9, 2), (10, 3.5)]  # 1 + 2.5 * (2 - 1)
    assert panel.get_ylabel() == "RMSE, mean of folds\n(at the upper edge: 3.5 and more)"
    assert panel.get_ylim()[1] > 3.5
    (panel,) = history_figure(range(10), values[:-1], [False] * 10, "RMSE").axes
    assert panel.get_ylabel() == "RMSE, mean of folds"


@pytest.mark.parametrize(
    ("values", "scale"),
    [([1.0, 5.0], "linear"), ([1.0, 8.0], "log"), ([-1.0, 8.0], "linear"), ([2.0], "linear")],
)
def test_the_axis_of_values_is_logarithmic_for_a_wide_range(values: list[float], scale: str) -> None:
    (panel,) = history_figure(range(len(values)), values, [False] * len(values), "RMSE").axes
    assert panel.get_yscale() == scale


def test_lines_of_pruned_trials_end_at_their_last_rung() -> None:
    curves = [{5: 0.5}, {5: 0.4, 15: 0.3}, {15: 0.2, 5: 0.35, 60: 0.1}, {5: 0.3, 15: 0.25, 60: 0.2}]
    (panel,) = rungs_figure(curves, [True, True, False, False], 2, "log RMSE").axes
    lines = [points(line) for line in panel.lines if len(line.get_xdata())]
    assert lines == [
        *([(5, 0.5)], [(5, 0.5)], [(5, 0.4), (15, 0.3)], [(15, 0.3)]),
        [(5, 0.3), (15, 0.25), (60, 0.2)],
        [(5, 0.35), (15, 0.2), (60, 0.1)],  # the best above all others
    ]
    assert panel.get_xscale() == "log"
    assert [text.get_text() for text in panel.get_xticklabels()] == ["5", "15", "60"]


def test_rungs_that_are_close_to_each_other_share_a_label() -> None:
    curve = dict.fromkeys(range(1, 101), 0.5)
    (panel,) = rungs_figure([curve], [False], 0, "RMSE").axes
    ticks = panel.get_xticks()
    assert ticks[-1] == 100
    assert len(ticks) <= 13


def panels_of(**parameters: list[Any]) -> list[Axes]:
    kinds: Any = {"lr": "log", "dropout": "linear"}
    of = {name: kinds.get(name, "category") for name in parameters}
    figure = parameters_figure(parameters, of, [0.4, 0.2, 0.3], [True, False, False], 1, "log RMSE")
    figure.draw_without_rendering()
    return figure.axes


def test_each_parameter_has_a_panel_with_the_values_of_completed_pruned_and_best_trials() -> None:
    lr, dropout, bar = panels_of(lr=[0.001, 0.1, 0.01], dropout=[0.5, 0.0, 0.1])
    assert (lr.get_xscale(), dropout.get_xscale()) == ("log", "linear")
    (completed,) = [each for each in lr.collections if isinstance(each, PathCollection)]
    assert completed.get_offsets().tolist() == [[0.1, 0.2], [0.01, 0.3]]  # type: ignore[union-attr]
    assert completed.get_array().tolist() == [1, 2]  # type: ignore[union-attr]
    pruned, best, *_ = lr.lines
    assert (points(pruned), points(best)) == ([(0.001, 0.4)], [(0.1, 0.2)])
    assert (lr.get_xlabel(), dropout.get_xlabel(), bar.get_ylabel()) == (
        "lr",
        "dropout",
        "order of the trials",
    )


def test_categories_stand_in_order_and_trials_beside_their_label() -> None:
    panel, *_ = panels_of(hidden_sizes=[[256, 128], [], [64]])
    assert [text.get_text() for text in panel.get_xticklabels()] == ["[]", "64", "256, 128"]
    (pruned, best) = (line.get_xdata()[0] for line in panel.lines[:2])
    assert abs(pruned - 2) < 0.3
    assert abs(best) < 0.3
    panel, *_ = panels_of(batch_size=[256, 64, 128])
    assert all(text.get_rotation() == 0 for text in panel.get_xticklabels())
    assert [text.get_text() for text in panel.get_xticklabels()] == ["64", "128", "256"]
    panel, *_ = panels_of(name=["b" * 40, None, "a"])
    labels = panel.get_xticklabels()
    assert [text.get_text() for text in labels] == ["a", f"{'b' * 17}…", "null"]
    assert all(text.get_rotation() == 25 for text in labels)


def test_nine_parameters_have_three_rows_of_panels() -> None:
    axes = panels_of(**{f"p{i}": [1, 2, 3] for i in range(9)})
    assert len(axes) == 10
    assert {panel.get_subplotspec().get_gridspec().get_geometry() for panel in axes[:9]} == {(3, 3)}  # type: ignore[union-attr]
    assert len(panels_of(**{f"p{i}": [1, 2, 3] for i in range(4)})) == 5


def test_importance_has_a_bar_for_each_parameter() -> None:
    figure = parameter_importance_figure({"lr": 0.75, "dropout": 0.25}, 64)
    (panel,) = figure.axes
    assert [bar.get_width() for bar in panel.patches] == [0.75, 0.25]  # type: ignore[attr-defined]
    assert [text.get_text() for text in panel.get_yticklabels()] == ["lr", "dropout"]
    assert panel.yaxis_inverted()
    assert figure.get_suptitle() == "Search: importance of the parameters, 64 trials"


@pytest.mark.parametrize(
    ("value", "label"),
    [([256, 128], "256, 128"), ([], "[]"), (None, "null"), (True, "true"), (0.00312345678, "0.00312346")],
)
def test_values_are_labelled_as_in_yaml_without_brackets(value: Any, label: str) -> None:
    assert label_of(value) == label
