"""Feature sets: the numbers and the categories that a model learns from, made from the columns of a table."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from d2l_lightning.data.tables.reading import to_numbers
from d2l_lightning.data.tables.schema import to_booleans, to_dates

if TYPE_CHECKING:
    import pandas as pd

DATE_PARTS = ("year", "month", "day")


class FeatureSet(ABC):
    """The numbers and the categories of a table.

    Args:
        kinds: The kind of each column that is used, by its name, see ``schema.py``.

    Attributes:
        fitted: What ``fit`` found, as plain values.
        scalers: The scalers of the numbers, and their columns; None for all of them.
        grades: The texts of the columns that become numbers by their place on a scale.
    """

    name: ClassVar[str]
    scalers: ClassVar[Sequence[tuple[str, Sequence[str] | None]]] = (("standard", None),)
    grades: ClassVar[Mapping[str, Sequence[str]]] = {}

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self.kinds = dict(kinds)
        self.fitted: dict[str, Any] = {}

    @property
    def missing_together(self) -> set[str]:
        """The numbers that are missing only where another number is."""
        return set()

    def fit(self, table: "pd.DataFrame") -> None:  # noqa: B027
        """Fit to a table: nothing, if the set has nothing to fit."""

    @property
    def sources(self) -> dict[str, str] | None:
        """The column that each number is made of; None if a number is made of several columns."""
        return None

    @abstractmethod
    def numbers(self, table: "pd.DataFrame") -> "pd.DataFrame":
        """Return the numbers of a table as float64, NaN where they are missing."""

    @abstractmethod
    def categories(self, table: "pd.DataFrame") -> "pd.DataFrame":
        """Return the categories of a table as text, NaN where they are missing."""


class Columns(FeatureSet):
    """The columns as they are: numbers, booleans as 0 and 1, dates as year, month and day, and categories."""

    name = "columns"

    @property
    def missing_together(self) -> set[str]:
        """The months and days: they are missing where the year is."""
        dates = [column for column, kind in self.kinds.items() if kind.startswith("date")]
        return {f"{column}_{part}" for column in dates for part in ("month", "day")}

    @property
    def sources(self) -> dict[str, str]:
        """The column that each number is made of."""
        made: dict[str, str] = {}
        for column, kind in self.kinds.items():
            if kind.startswith("date"):
                made |= {f"{column}_{part}": column for part in DATE_PARTS}
            elif kind != "category":
                made[column] = column
        return made

    def numbers(self, table: "pd.DataFrame") -> "pd.DataFrame":
        """Return the numbers of a table as float64, NaN where they are missing."""
        import pandas as pd

        columns: dict[str, Any] = {}
        for column, kind in self.kinds.items():
            kind, _, date_format = kind.partition(" ")
            if kind == "number":
                columns[column] = to_numbers(table[column])
            elif kind == "boolean":
                columns[column] = to_booleans(table[column])
            elif kind == "date":
                dates = to_dates(table[column], date_format)
                for part in DATE_PARTS:
                    columns[f"{column}_{part}"] = getattr(dates.dt, part)
        return pd.DataFrame(columns, index=table.index, dtype=np.float64)

    def categories(self, table: "pd.DataFrame") -> "pd.DataFrame":
        """Return the categories of a table as text, NaN where they are missing."""
        return table[[column for column, kind in self.kinds.items() if kind == "category"]]


class UnscaledColumns(Columns):
    """As ``Columns``, with the numbers as they are in the table, not standardised."""

    name = "unscaled"
    scalers: ClassVar[Sequence[tuple[str, Sequence[str] | None]]] = (("unscaled", None),)


class ScaledColumns(Columns):
    """As ``Columns``, with each number in three scales: standardised logarithms, robust, by quantiles."""

    name = "scaled"
    scalers: ClassVar[Sequence[tuple[str, Sequence[str] | None]]] = (
        ("log_standard", None),
        ("robust", None),
        ("normal_quantile", None),
    )
