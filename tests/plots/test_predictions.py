"""The figures of predictions show the predictions and intervals that they get."""

import numpy as np
import pytest
import torch

from d2l_lightning.plots.predictions import MAX_BARS, class_probabilities, prediction_intervals


@pytest.mark.parametrize("n", [1, 5, MAX_BARS + 1])
@pytest.mark.parametrize("log", [False, True])
def test_predictions_are_drawn_in_order_with_their_intervals(n: int, log: bool) -> None:
    predictions = torch.arange(n, 0.0, -1) * 10
    ends = predictions / 2, predictions * 2
    (panel,) = prediction_intervals(predictions, ends, "price", 0.9, log).axes
    np.testing.assert_array_equal(panel.lines[0].get_ydata(), predictions.flip(0))
    drawn = np.concatenate([path.vertices for path in panel.collections[0].get_paths()])
    for each in ends:
        assert set(each.tolist()) <= set(drawn[:, 1])
    assert panel.get_yscale() == ("log" if log else "linear")
    assert {text.get_text() for text in panel.get_legend().texts} == {
        "interval for 90% of rows",
        "prediction",
    }


def test_unknown_intervals_are_not_drawn() -> None:
    unknown = torch.full((3,), torch.nan)
    (panel,) = prediction_intervals(torch.ones(3), (unknown, unknown), "price", 0.9, log=False).axes
    assert not panel.collections


def test_probabilities_are_counted_from_0_to_1() -> None:
    (panel,) = class_probabilities(torch.tensor([0.5, 0.5, 0.99, 1.0]), "kind").axes
    vertices = panel.patches[0].get_path().vertices
    assert vertices[:, 1].max() == 0.5
    assert (vertices[:, 0].min(), vertices[:, 0].max()) == (0, 1)
