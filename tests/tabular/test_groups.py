"""Errors of groups are those of pandas."""

import numpy as np
import pandas as pd
import pytest
import torch

from d2l_lightning.errors import InputError
from d2l_lightning.tabular.groups import errors_by_group

NAMES = ["b"] * 5 + ["a"] * 2 + ["c"] * 3
Y = torch.linspace(50, 300, 10)
PREDICTIONS = Y * torch.linspace(0.8, 1.3, 10)


def test_errors_by_group_are_those_of_pandas() -> None:
    table = errors_by_group(PREDICTIONS, Y, NAMES, "log_rmse")
    assert table["group"].tolist() == ["b", "c", "a"]
    assert table["rows"].tolist() == [5, 3, 2]
    errors = pd.Series((PREDICTIONS / Y).log().numpy())
    logs = errors.groupby(NAMES)
    expected = np.sqrt((errors**2).groupby(NAMES).mean())[["b", "c", "a"]]
    np.testing.assert_allclose(table["log_rmse"], expected, rtol=1e-5)
    np.testing.assert_allclose(table["bias"], logs.mean()[["b", "c", "a"]], rtol=1e-4)
    absolute = errors_by_group(PREDICTIONS, Y, NAMES, "mae")
    assert absolute["mae"][0] == pytest.approx((PREDICTIONS - Y)[:5].abs().mean().item())
    assert absolute["bias"][0] == pytest.approx((PREDICTIONS - Y)[:5].mean().item())


def test_each_row_needs_a_group() -> None:
    with pytest.raises(InputError, match=r"^9 groups do not go with 10 rows$"):
        errors_by_group(PREDICTIONS, Y, NAMES[1:], "rmse")
