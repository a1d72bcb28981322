"""What one table has in a column and another lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from d2l_lightning.data.tables.reading import to_numbers

if TYPE_CHECKING:
    import pandas as pd

NOTABLE = 0.05  # a share of rows outside what is known that is worth a warning
MAX_COLUMNS = 12  # to warn about


def share_outside(known: pd.Series[Any], column: pd.Series[Any], numeric: bool) -> float:
    """Return the share of a column's values outside the known range or not among the known categories."""
    if numeric:
        numbers, values = to_numbers(known), to_numbers(column)
        within = (values >= numbers.min()) & (values <= numbers.max())
    else:
        within = column.isin(set(known.dropna()))
    # A missing value counts as a category.
    outside = ~within if known.notna().all() else ~within & column.notna()
    return float(outside.mean())


def new_categories(known: pd.Series[Any], column: pd.Series[Any]) -> dict[str, float]:
    """Return the share of rows of each category of a column that is not known, the most frequent first."""
    unknown = column[column.notna() & ~column.isin(set(known.dropna()))]
    return {str(name): count / len(column) for name, count in unknown.value_counts().items()}
