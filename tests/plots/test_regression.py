"""Figures of the regression chapter show the numbers that they are given."""

import pytest
import torch

from d2l_lightning.plots.regression import (
    errors_by_amount,
    exact_by_degree,
    losses_by_amount,
    losses_by_degree,
    losses_by_rate,
    normal_densities,
    regularization_path,
)


def test_errors_by_amount_have_a_guide_only_if_they_are_positive() -> None:
    (panel,) = errors_by_amount({"n": [10, 1000], "w_error": [0.1, 0.01], "b_error": [0.2, 0.02]}, 5).axes
    assert [list(line.get_ydata()) for line in panel.lines][:2] == [[0.1, 0.01], [0.2, 0.02]]
    assert list(panel.lines[2].get_ydata()) == pytest.approx([0.1, 0.01])
    assert panel.get_yscale() == "log"
    (panel,) = errors_by_amount({"n": [10, 1000], "w_error": [0.0, 0.0], "b_error": [0.0, 0.0]}, 5).axes
    assert len(panel.lines) == 2
    assert panel.get_yscale() == "linear"


def test_losses_by_degree_start_at_degree_0() -> None:
    selection = {"train_loss": [3, 2, 1], "val_loss": [4, 3, 5]}
    exact = {"exact_train_loss": [2, 1], "exact_val_loss": [3, 4]}
    sgd, solved = losses_by_degree({**selection, **exact}, 5).axes
    assert [list(line.get_xdata()) for line in sgd.lines] == [[0, 1, 2]] * 2
    assert [list(line.get_ydata()) for line in sgd.lines] == [[3, 2, 1], [4, 3, 5]]
    assert [list(line.get_ydata()) for line in solved.lines] == [[2, 1], [3, 4]]


def test_exact_losses_that_are_out_of_scale_are_cut_off() -> None:
    (panel,) = exact_by_degree({"train_loss": [1, 1e-90], "test_loss": [2, 1e90]}, 5).axes
    assert panel.get_ylim() == (1e-35, 1e35)


def test_losses_by_rate_show_the_rates_of_each_basis() -> None:
    bases = {"factorial": {"lr": [0.1, 1], "train_loss": [3, 2]}, "powers": {"lr": [0.1], "train_loss": [4]}}
    (panel,) = losses_by_rate(bases, 5.0, 1.0).axes
    assert [list(line.get_ydata()) for line in panel.lines] == [[3, 2], [4], [5, 5], [1, 1]]


@pytest.mark.parametrize(("least", "scale"), [(0.5, "log"), (0.0, "linear")])
def test_losses_by_amount_have_a_log_scale_only_if_they_are_positive(least: float, scale: str) -> None:
    losses = {"n": [25, 50], "train_loss": [least, 1.0], "test_loss": [3.0, 2.0]}
    figure = losses_by_amount({"1": losses, "3": losses}, 5)
    assert [panel.get_title() for panel in figure.axes] == ["degree 1", "degree 3"]
    assert {panel.get_yscale() for panel in figure.axes} == {scale}


def test_the_path_marks_the_lambda_that_validation_chooses() -> None:
    path = {"lambda": [0.1, 1, 10], "train_loss": [1, 2, 3], "val_loss": [5, 4, 6], "w_norm": [3, 2, 1]}
    losses, norms = regularization_path({**path, "new_loss": [6, 5, 4]}).axes
    assert [list(line.get_ydata()) for line in losses.lines[:3]] == [[1, 2, 3], [5, 4, 6], [6, 5, 4]]
    assert (list(losses.lines[3].get_xdata()), list(losses.lines[3].get_ydata())) == ([1], [4])
    assert list(norms.lines[0].get_ydata()) == [3, 2, 1]


def test_densities_are_shown_over_most_of_their_mass() -> None:
    x = torch.linspace(-9, 9, 5)
    (panel,) = normal_densities([(0.0, 1.0), (2.0, 2.0)], [x, x], [x, 2 * x]).axes
    assert panel.get_xlim() == (-7.0, 11.0)
    assert list(panel.lines[1].get_ydata()) == (2 * x).tolist()
