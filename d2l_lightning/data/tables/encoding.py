"""Features from the columns of a table: standardised numbers and indicators of categories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd


def standardized(numbers: pd.DataFrame, known: pd.DataFrame) -> npt.NDArray[np.float32]:
    """Return the columns of float64 numbers, standardised over the rows ``known``: shape ``(n, d)``.

    Missing values (NaN), and columns whose known values are practically equal, become 0 (eq. 4.10.1).
    """
    # The standard deviation of equal numbers can be a rounding error instead of 0.
    varies = known.max() - known.min() > 1e-12
    standard = ((numbers - known.mean()) / known.std().where(varies)).fillna(0.0)
    return standard.to_numpy(np.float32)


def indicators(column: pd.Series[Any]) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Return names and values ``(n, categories + 1)`` of indicators of categories and of missing values."""
    import pandas as pd

    codes, categories = pd.factorize(column, sort=True)
    # The code of a missing value is -1, the index of the last row.
    values = np.eye(len(categories) + 1, dtype=np.float32)[codes]
    return [f"{column.name}_{category}" for category in [*categories, "nan"]], values
