"""Errors of a model of a table for each group of rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from d2l_lightning.errors import InputError
from d2l_lightning.models.table_regressor import RegressionMetric
from d2l_lightning.tabular.diagnostics import score, to_scale

if TYPE_CHECKING:
    import pandas as pd


def errors_by_group(
    predictions: Tensor, y: Tensor, groups: Sequence[str], metric: RegressionMetric
) -> "pd.DataFrame":
    """Return the errors for each group of rows, the largest group first.

    The columns are ``group``; ``rows``, their number; the metric; and ``bias``, the mean of predictions minus
    labels, of logarithms with ``log_rmse``.

    Args:
        predictions: Predictions for rows that the model was not trained on, shape ``(n,)``.
        y: Their labels, shape ``(n,)``.
        groups: The name of each row's group.
        metric: The metric.

    Raises:
        InputError: If there are not as many groups as rows.
    """
    import pandas as pd

    if len(groups) != len(y):
        raise InputError(f"{len(groups)} groups do not go with {len(y)} rows")
    codes, names = pd.factorize(pd.Series(groups, dtype=object), sort=True)
    rows = []
    for code, name in enumerate(names):
        own = torch.from_numpy((codes == code).nonzero()[0])
        bias = (to_scale(predictions[own], metric) - to_scale(y[own], metric)).mean().item()
        rows.append((name, len(own), score(predictions[own], y[own], metric).item(), bias))
    table = pd.DataFrame(rows, columns=["group", "rows", metric, "bias"])
    return table.sort_values("rows", ascending=False, kind="stable", ignore_index=True)
