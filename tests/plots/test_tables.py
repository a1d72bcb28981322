"""Figures of models of tables show the numbers that they are given."""

from typing import cast

import pytest
import torch
from matplotlib.container import BarContainer

from d2l_lightning.plots import tables
from d2l_lightning.plots.tables import calibration_figure, importance_figure, residuals_figure


def test_importance_has_a_bar_for_each_of_the_first_columns() -> None:
    names, values = [f"column {i}" for i in range(30)], [1 / (1 + i) for i in range(30)]
    (panel,) = importance_figure(names, values, [0.1] * 30, "log RMSE").axes
    assert [text.get_text() for text in panel.get_yticklabels()] == names[:20]
    bars = next(each for each in panel.containers if isinstance(each, BarContainer))
    assert [bar.get_width() for bar in bars] == values[:20]
    assert panel.yaxis_inverted()
    assert panel.get_xlabel() == "increase of the log RMSE when the column is shuffled"
    assert bars.errorbar is not None
    ends = [path.vertices for path in bars.errorbar.lines[2][0].get_paths()]
    assert [end[:, 0].tolist() for end in ends[:2]] == [pytest.approx([0.9, 1.1]), pytest.approx([0.4, 0.6])]


def test_importance_of_few_columns_without_errors_shows_all() -> None:
    figure = importance_figure(["a", "b"], [2.0, -1.0], [float("nan")] * 2, "RMSE")
    assert [bar.get_width() for bar in cast(BarContainer, figure.axes[0].containers[1])] == [2, -1]
    assert figure.get_suptitle() == "Importance on validation rows: all columns"


def test_importance_makes_room_for_long_names_and_shortens_longer_ones() -> None:
    figures = [importance_figure(["a" * size], [1.0], [0.1], "RMSE") for size in (20, 60, 600)]
    assert figures[0].get_figwidth() == 6.4
    assert figures[1].get_figwidth() == pytest.approx(9.6)
    assert figures[2].get_figwidth() == pytest.approx(10)
    (label,) = figures[2].axes[0].get_yticklabels()
    assert label.get_text() == f"{'a' * 32}…{'a' * 32}"


def test_residuals_are_drawn_over_predictions_with_running_quantiles(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions, y = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.5, 2.0, 3.0])
    running = torch.tensor([1.0, 4.0]), torch.tensor([[-1.0, -2.0], [0.0, 0.5], [1.0, 2.0]])
    left, right = residuals_figure(predictions, y, y - predictions, running, "size").axes
    assert [list(line.get_ydata()) for line in left.lines] == [[1.5, 2, 3], [1, 4]]
    assert list(right.lines[0].get_xdata()) == [1, 2, 4]
    assert list(right.lines[0].get_ydata()) == [0.5, 0, -1]
    assert [list(line.get_ydata()) for line in right.lines[2:]] == [[0, 0.5], [-1, -2], [1, 2]]
    monkeypatch.setattr(tables, "MOST_POINTS", 2)
    left, _ = residuals_figure(predictions, y, y - predictions, running, "size").axes
    assert list(left.lines[0].get_xdata()) == [1, 4]
    assert left.get_title() == "true values (every 2th row)"


@pytest.mark.parametrize(
    ("log", "high", "scale"), [(True, 50.0, "log"), (True, 8.0, "linear"), (False, 50.0, "linear")]
)
def test_calibration_has_log_axes_only_for_a_wide_range_of_logarithms(
    log: bool, high: float, scale: str
) -> None:
    labels = torch.tensor([1.0, high])
    means = {"predictions": labels + 0.5, "labels": labels, "low": labels - 0.25, "high": labels + 0.5}
    covered, of_folds = torch.tensor([0.4, 0.95]), torch.tensor([[0.3, 0.9], [0.5, 1.0]])
    left, right = calibration_figure(means, (0.5, 0.9), covered, of_folds, 100, "size", log).axes
    assert (left.get_xscale(), left.get_yscale()) == (scale, scale)
    assert left.get_xlabel() == ("geometric mean of predicted size" if log else "mean predicted size")
    assert list(left.lines[0].get_ydata()) == [1, high]
    assert list(left.lines[1].get_ydata()) == [0.75, high - 0.25]
    assert list(left.lines[2].get_ydata()) == [1.5, high + 0.5]
    drawn = [list(line.get_ydata()) for line in right.lines[1:4]]
    assert drawn == [pytest.approx([0.3, 0.9]), [0.5, 1.0], pytest.approx([0.4, 0.95])]
