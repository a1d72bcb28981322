"""What out-of-fold predictions say about a model: scores, running quantiles, calibration, coverage."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, root_mean_squared_error, root_mean_squared_log_error
from torch import Tensor

from d2l_lightning.errors import InputError
from d2l_lightning.tabular.diagnostics import (
    coverage_by_level,
    diagnostic_figures,
    group_means,
    running_quantiles,
    score,
    to_scale,
)


def labels(n: int = 1000, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """Return predictions and labels whose logarithms have normal errors."""
    generator = torch.Generator().manual_seed(0)
    predictions = (5 + torch.rand(n, generator=generator)).exp()
    return predictions, predictions * (noise * torch.randn(n, generator=generator)).exp()


def test_scores_are_those_of_scikit_learn() -> None:
    predictions, y = labels()
    arrays = y.double().numpy(), predictions.double().numpy()
    assert score(predictions, y, "rmse").item() == pytest.approx(root_mean_squared_error(*arrays), rel=1e-5)
    assert score(predictions, y, "mae").item() == pytest.approx(mean_absolute_error(*arrays), rel=1e-5)
    # scikit-learn takes log(1 + x).
    expected = root_mean_squared_log_error(*(each - 1 for each in arrays))
    assert score(predictions, y, "log_rmse").item() == pytest.approx(expected, rel=1e-4)
    bad: Any = "r2"
    with pytest.raises(InputError, match="metric must be one of rmse, log_rmse, mae, not 'r2'"):
        score(predictions, y, bad)


def test_the_scale_of_log_rmse_is_that_of_its_errors() -> None:
    predictions, y = labels()
    difference = to_scale(predictions, "log_rmse") - to_scale(y, "log_rmse")
    assert difference.square().mean().sqrt() == score(predictions, y, "log_rmse")
    assert torch.equal(to_scale(predictions, "mae"), predictions)
    predictions[0] = -5.0
    of_floor = score(predictions.index_fill(0, torch.tensor(0), 0.25), y, "log_rmse", floor=0.25)
    assert score(predictions, y, "log_rmse", floor=0.25) == of_floor
    assert score(predictions, y, "log_rmse") != of_floor


def test_running_quantiles_are_those_of_the_neighbours() -> None:
    x, values = torch.rand(2, 200, generator=torch.Generator().manual_seed(0))
    at, found = running_quantiles(x, values, levels=(0.25, 0.5), share=0.1, points=3)
    order = x.argsort().numpy()
    for point, start in enumerate((0, 90, 180)):
        near = order[start : start + 20]
        assert at[point] == x[near].median()
        assert found[:, point].numpy() == pytest.approx(
            np.quantile(values.numpy()[near], [0.25, 0.5]), rel=1e-6
        )


def test_running_quantiles_of_few_rows_have_fewer_points() -> None:
    at, found = running_quantiles(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([30.0, 10.0, 20.0]))
    assert at.tolist() == [1, 2, 3]
    assert found.tolist() == [[10, 20, 30]] * 3


def test_running_quantiles_have_a_least_number_of_neighbours() -> None:
    x = torch.arange(20.0)
    assert torch.equal(running_quantiles(x, x, least=10)[0], torch.arange(4.0, 15.0))
    assert running_quantiles(x[:3], x[:3], least=10)[0].tolist() == [1]


def test_group_means_are_means_of_rows_with_similar_predictions() -> None:
    predictions, y = torch.tensor([4.0, 1.0, 2.0, 3.0]), torch.tensor([9.0, 0.0, 4.0, 3.0])
    found = group_means(predictions, y, "rmse", groups=2)
    assert found["predictions"].tolist() == [1.5, 3.5]
    assert found["labels"].tolist() == [2.0, 6.0]
    # The residuals are -1 and 2, and 0 and 5.
    error = np.array([np.std([-1, 2], ddof=1), np.std([0, 5], ddof=1)]) / 2**0.5
    assert (found["labels"] - found["low"]).numpy() == pytest.approx(2 * error)
    assert (found["high"] - found["labels"]).numpy() == pytest.approx(2 * error)


def test_group_means_for_log_rmse_are_geometric_means() -> None:
    predictions, y = labels()
    logs = group_means(predictions.log(), y.log(), "rmse")
    for name, value in group_means(predictions, y, "log_rmse").items():
        assert value.numpy() == pytest.approx(logs[name].exp().numpy(), rel=1e-6)
    with pytest.raises(InputError, match="10 groups need 20 rows, not 19"):
        group_means(predictions[:19], y[:19], "rmse")


def test_coverage_of_exchangeable_residuals_is_the_nominal_one() -> None:
    residuals = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    folds = list(torch.arange(5000).split(1000))
    covered, of_folds = coverage_by_level(residuals, folds, (0.1, 0.5, 0.9))
    error = (np.array([0.1, 0.5, 0.9]) * np.array([0.9, 0.5, 0.1]) / 5000) ** 0.5
    assert (np.abs(covered.numpy() - [0.1, 0.5, 0.9]) < 3 * error).all()
    assert of_folds.shape == (5, 3)
    assert torch.allclose(of_folds.mean(dim=0), covered)


def test_the_quantile_of_a_fold_does_not_see_the_rows_of_the_fold() -> None:
    residuals = torch.tensor([1.0, 2.0, 3.0, -10.0, 20.0, 30.0])
    covered, of_folds = coverage_by_level(residuals, [torch.arange(3), torch.arange(3, 6)], (0.25, 0.75))
    assert of_folds.tolist() == [[1, 1], [0, 0]]
    assert covered.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("metric", "scale"), [("log_rmse", "log"), ("mae", "linear")])
def test_figures_show_what_the_metric_sees(metric: Any, scale: str) -> None:
    predictions, y = labels()
    draw = diagnostic_figures(predictions, y, list(torch.arange(1000).split(200)), metric, "price (dollars)")
    left, right = draw["residuals"]().axes
    assert (left.get_xscale(), left.get_yscale()) == (scale, scale)
    assert (left.get_xlabel(), left.get_ylabel()) == ("predicted price (dollars)", "true price (dollars)")
    residuals = (y / predictions).log() if metric == "log_rmse" else y - predictions
    drawn = np.asarray(right.lines[0].get_ydata())
    assert drawn == pytest.approx(residuals.numpy(), abs=1e-4)
    means, coverage = draw["calibration"]().axes
    expected = group_means(predictions, y, metric)
    assert means.lines[0].get_ydata() == pytest.approx(expected["labels"].numpy())
    shares = [line for line in coverage.lines if line.get_label() == "all rows"]
    assert shares[0].get_ydata() == pytest.approx(
        coverage_by_level(residuals, list(torch.arange(1000).split(200)))[0].numpy()
    )
