"""How good predictions for rows are that a model was not trained on: errors, calibration, coverage."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from d2l_lightning.errors import InputError, require_known
from d2l_lightning.functional.conformal import conformal_quantile
from d2l_lightning.functional.regression import absolute_error, squared_error, squared_log_error
from d2l_lightning.models.table_regressor import RegressionMetric
from d2l_lightning.plots.tables import calibration_figure, residuals_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEIGHBOURS = 10  # of which quantiles are drawn, at least
LEVELS = (*(tenth / 10 for tenth in range(1, 10)), 0.95)


def score(predictions: Tensor, y: Tensor, metric: RegressionMetric, floor: float = 1.0) -> Tensor:
    """Return a metric of predictions for labels, both of shape ``(n,)``: a scalar.

    For ``log_rmse``, predictions below the floor count as the floor, as in eq. 4.10.2.
    """
    require_known("metric", metric, RegressionMetric)
    if metric == "mae":
        return absolute_error(predictions, y).mean()
    if metric == "log_rmse":
        return squared_log_error(predictions, y, floor).mean().sqrt()
    return squared_error(predictions, y).mean().sqrt()


def to_scale(values: Tensor, metric: RegressionMetric) -> Tensor:
    """Return labels or predictions on the scale of a metric: for ``log_rmse``, their logarithms."""
    return values.log() if metric == "log_rmse" else values


def running_quantiles(
    x: Tensor,
    values: Tensor,
    levels: Sequence[float] = (0.1, 0.5, 0.9),
    share: float = 0.1,
    least: int = 1,
    points: int = 60,
) -> tuple[Tensor, Tensor]:
    """Return quantiles of the values of rows with neighbouring x.

    Args:
        x: Where each row is, shape ``(n,)``.
        values: The value of each row, shape ``(n,)``.
        levels: The quantiles, from 0 to 1.
        share: The share of the rows that are neighbours.
        least: The least number of neighbours, if there are as many rows.
        points: The greatest number of places, p.

    Returns:
        The median x of each set of neighbours, shape ``(p,)``, and the quantiles, ``(len(levels), p)``.
    """
    order = x.argsort(stable=True)
    width = max(min(least, len(x)), round(share * len(x)))
    starts = torch.linspace(0, len(x) - width, min(points, len(x) - width + 1)).round().long()
    near, of_near = (each[order].unfold(0, width, 1)[starts] for each in (x, values))
    return near.median(dim=1).values, of_near.quantile(torch.tensor(levels).to(values), dim=1)


def group_means(
    predictions: Tensor, y: Tensor, metric: RegressionMetric, groups: int = 10
) -> dict[str, Tensor]:
    """Return the mean prediction and the mean label of equally large groups of rows, by their prediction.

    For ``log_rmse``, means are those of logarithms, so that the results are geometric means.

    Returns:
        Tensors of shape ``(groups,)``: ``predictions``, ``labels``, and the ends ``low`` and ``high`` of an
        interval around the mean label. It is two standard errors of the mean residual to either side.

    Raises:
        InputError: If there are fewer than two rows for each group.
    """
    if len(y) < 2 * groups:
        raise InputError(f"{groups} groups need {2 * groups} rows, not {len(y)}")
    scaled = torch.stack([to_scale(each, metric).double() for each in (predictions, y)])
    of_groups = scaled[:, predictions.argsort(stable=True)].tensor_split(groups, dim=1)
    error = torch.stack([(g[1] - g[0]).std() / g.shape[1] ** 0.5 for g in of_groups])
    predicted, true = torch.stack([g.mean(dim=1) for g in of_groups], dim=1)
    found = {"predictions": predicted, "labels": true, "low": true - 2 * error, "high": true + 2 * error}
    return {name: each.exp() if metric == "log_rmse" else each for name, each in found.items()}


def coverage_by_level(
    residuals: Tensor, folds: Sequence[Tensor], levels: Sequence[float] = LEVELS
) -> tuple[Tensor, Tensor]:
    """Return the share of rows whose residual lies within the conformal interval of each level.

    The interval of a fold's rows comes from the residuals of all other folds, so that no row decides about
    its own interval.

    Args:
        residuals: The residuals of rows that no model was trained on, shape ``(n,)``.
        folds: The rows of each of K folds; two at least.
        levels: The L nominal coverages, between 0 and 1.

    Returns:
        The share of all rows, shape ``(L,)``, and that of each fold's rows, shape ``(K, L)``.
    """
    covered = []
    for rows in folds:
        others = torch.ones(len(residuals), dtype=torch.bool).index_fill(0, rows, False)
        widths = torch.stack([conformal_quantile(residuals[others], level) for level in levels])
        covered.append((residuals[rows].abs() <= widths[:, None]).double())
    return torch.cat(covered, dim=1).mean(dim=1), torch.stack([each.mean(dim=1) for each in covered])


def diagnostic_figures(
    predictions: Tensor, y: Tensor, folds: Sequence[Tensor], metric: RegressionMetric, label: str
) -> "Mapping[str, Callable[[], Figure]]":
    """Return functions that draw ``residuals`` and ``calibration``, as ``Run.finish`` takes them.

    Args:
        predictions: The prediction of each row by a model that was not trained on it, shape ``(n,)``;
            positive for ``log_rmse``.
        y: The labels, shape ``(n,)``.
        folds: The rows of each fold.
        metric: The metric of the models.
        label: What is predicted, with its unit.
    """
    residuals = to_scale(y, metric) - to_scale(predictions, metric)

    def draw_residuals() -> "Figure":
        running = running_quantiles(predictions, residuals, least=NEIGHBOURS)
        return residuals_figure(predictions, y, residuals, running, label, log=metric == "log_rmse")

    def draw_calibration() -> "Figure":
        means = group_means(predictions, y, metric, groups=min(10, len(y) // 2))
        shares = (LEVELS, *coverage_by_level(residuals, folds), len(y))
        return calibration_figure(means, *shares, label, log=metric == "log_rmse")

    return {"residuals": draw_residuals, "calibration": draw_calibration}
