"""The encoder of a table: fitted once, saved with the model, applied to new rows."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from d2l_lightning.data.tables.ames import Ames
from d2l_lightning.data.tables.features import Columns, FeatureSet, ScaledColumns, UnscaledColumns
from d2l_lightning.data.tables.scaling import make_scaler, scaler_from
from d2l_lightning.errors import InputError, require_known

if TYPE_CHECKING:
    import pandas as pd

Codes = dict[str, Any]  # of each column, the place of each row's category in the vocabulary, or one of these
MISSING, UNSEEN = -1, -2  # pandas.factorize returns -1 for missing values
FORMAT = 2  # of the state; a change that older code cannot read gets the next number
FEATURE_SETS: Mapping[str, type[FeatureSet]] = {
    kind.name: kind for kind in (Columns, UnscaledColumns, ScaledColumns, Ames)
}
Missing = Literal["mean", "median", "indicator"]


class TableEncoder:
    """Turns the rows of a table into features: scaled numbers, then indicators of categories.

    A table is text, as ``read_table`` or ``checked`` returns it; numbers may be float64. Each category of the
    table that the encoder is fitted to becomes an indicator. A row whose category is another one has none of
    the indicators, or that of missing values if there were some; ``unseen`` counts such rows.

    Args:
        features: The numbers and categories that are encoded.
        always_missing: Whether every category column has an indicator of missing values, as in the book.
            Otherwise, those with missing values have one.
        scalers: The scalers of the numbers and their columns; those of the feature set if not given.
        missing_numbers: What a missing number becomes: 0 after scaling, which is the mean of a standardised
            column (mean); the median of its column (median); or the same as with mean, and the column has an
            indicator of missing values (indicator). If not given, mean with ``always_missing``, else
            indicator.

    Attributes:
        feature_names: The names of the d features, after ``fit``.
        vocabulary: The categories of each column.
        gaps: The columns whose missing values have an indicator.
        fill: What takes the place of missing numbers before they are scaled, by column; empty for 0 after it.
        missing: The columns of categories with missing values in the table that the encoder is fitted to.

    Example:
        >>> import pandas as pd
        >>> encoder = TableEncoder(Columns({"rooms": "number", "street": "category"}))
        >>> encoder.fit(pd.DataFrame({"rooms": ["1", "3"], "street": ["Pave", "Grvl"]})).feature_names
        ['rooms', 'street_Grvl', 'street_Pave']
        >>> encoder.transform(pd.DataFrame({"rooms": ["2", None], "street": ["Pave", "Dirt"]}))
        tensor([[0., 0., 1.],
                [0., 0., 0.]])
    """

    def __init__(
        self,
        features: FeatureSet,
        always_missing: bool = False,
        scalers: Sequence[tuple[str, Sequence[str] | None]] | None = None,
        missing_numbers: Missing | None = None,
    ) -> None:
        missing_numbers = missing_numbers or ("mean" if always_missing else "indicator")
        require_known("missing_numbers", missing_numbers, Missing)
        self.missing_numbers: Missing = missing_numbers
        self.features, self.always_missing = features, always_missing
        self.scalers = [make_scaler(*scaler) for scaler in (features.scalers if scalers is None else scalers)]
        self.vocabulary: dict[str, list[str]] = {}
        self.gaps: list[str] = []
        self.fill: dict[str, float] = {}
        self.missing: list[str] = []
        self.feature_names: list[str] = []

    @property
    def columns(self) -> dict[str, str]:
        """The kind of each column that a table must have, by its name."""
        return self.features.kinds

    def fit(self, table: "pd.DataFrame", rows: Tensor | None = None) -> "TableEncoder":
        """Fit to a table.

        Args:
            table: The table. All its categories become indicators.
            rows: The rows that decide how numbers are made and scaled; all rows if not given.

        Raises:
            InputError: If no feature is left.
        """
        self._fit(table, rows)
        return self

    def fit_transform(self, table: "pd.DataFrame", rows: Tensor | None = None) -> Tensor:
        """Fit to a table and return the features of its rows; faster than ``fit`` and ``transform``."""
        return self._encode(*self._fit(table, rows))

    def _fit(self, table: "pd.DataFrame", rows: Tensor | None) -> tuple["pd.DataFrame", Codes]:
        """Fit to a table; return the numbers of its rows, and the codes of their categories."""
        import pandas as pd

        known = slice(None) if rows is None else rows.numpy()
        self.features.fit(table.iloc[known])
        numbers, categories = self.features.numbers(table), self.features.categories(table)
        for scaler in self.scalers:
            scaler.fit(numbers.iloc[known])
        together = self.features.missing_together
        if self.missing_numbers == "median":
            medians = numbers.iloc[known].median().dropna()
            self.fill = {str(column): float(value) for column, value in medians.items()}
        marked = self.missing_numbers == "indicator"
        own = [column for column in numbers if column not in together] if marked else []
        self.gaps = [str(column) for column in own if numbers[column].isna().any()]
        self.vocabulary, self.missing = {}, []
        codes: Codes = {}
        for column in map(str, categories):
            codes[column], values = pd.factorize(categories[column], sort=True)
            self.vocabulary[column] = list(values)
            if (codes[column] == MISSING).any():
                self.missing.append(column)
        self.gaps += codes if self.always_missing else self.missing
        self._name_features(numbers.columns)
        return numbers, codes

    def _name_features(self, numbers: "pd.Index[str]") -> None:
        names: list[str] = []
        for index, scaler in enumerate(self.scalers):
            # A column that several scalers take is named after each but the first.
            names += [f"{c}_{scaler.name}" if index and c in names else c for c in scaler.columns or ()]
        names += [f"{column}_nan" for column in numbers if column in self.gaps]
        for column, values in self.vocabulary.items():
            names += [f"{column}_{value}" for value in values]
            names += [f"{column}_nan"] * (column in self.gaps)
        if not names:
            raise InputError("the table has no column to learn from")
        self.feature_names = names

    def transform(self, table: "pd.DataFrame") -> Tensor:
        """Return the features of a table's rows: shape ``(n, d)``, float32."""
        import pandas as pd

        numbers, categories = self.features.numbers(table), self.features.categories(table)
        codes: Codes = {}
        for column, values in self.vocabulary.items():
            texts = pd.Index(categories[column], dtype=object)
            codes[column] = own = pd.Index(values, dtype=object).get_indexer(texts)
            if column not in self.missing and (own < 0).any():
                own[(own < 0) & texts.notna()] = UNSEEN
        return self._encode(numbers, codes)

    def _encode(self, numbers: "pd.DataFrame", codes: Codes) -> Tensor:
        """Return the features of numbers and of the codes of categories."""
        X = torch.zeros(len(numbers), len(self.feature_names))
        start = 0
        filled = numbers.fillna(self.fill) if self.fill else numbers
        for scaler in self.scalers:
            values = scaler.transform(filled)
            X[:, start : start + values.shape[1]] = values
            start += values.shape[1]
        indicators, rows = X.numpy(), np.arange(len(numbers))  # numpy sets single elements faster
        for column in [column for column in numbers if column in self.gaps]:
            indicators[:, start] = numbers[column].isna()
            start += 1
        for column, own in codes.items():
            # The indicator of missing values is the last one.
            number = len(self.vocabulary[column])
            places = np.where(own == MISSING, number, own) if column in self.gaps else own
            indicators[rows[places >= 0], start + places[places >= 0]] = 1
            start += number + (column in self.gaps)
        return X

    def features_of_columns(self) -> dict[str, list[int]] | None:
        """Return which features each column of the table makes; None if a feature depends on several."""
        sources = self.features.sources
        if sources is None:
            return None
        made_of = [sources[number] for scaler in self.scalers for number in scaler.columns or ()]
        made_of += [source for number, source in sources.items() if number in self.gaps]
        for column, values in self.vocabulary.items():
            made_of += [column] * (len(values) + (column in self.gaps))
        return {column: [i for i, made in enumerate(made_of) if made == column] for column in self.columns}

    def unseen(self, table: "pd.DataFrame") -> dict[str, int]:
        """Return in how many rows each column has a category that the encoder was not fitted to."""
        texts = self.features.categories(table)
        counts = {}
        for name, values in {**self.vocabulary, **self.features.grades}.items():
            column = texts[name] if name in self.vocabulary else table[name]
            counts[name] = int((column.notna() & ~column.isin(values)).sum())
        return {name: count for name, count in counts.items() if count}

    def state(self) -> dict[str, Any]:
        """Return the fitted encoder as plain values and tensors, for ``torch.load(weights_only=True)``."""
        return {
            "format": FORMAT if self.fill else 1,
            "features": self.features.name,
            "kinds": self.features.kinds,
            "fitted": self.features.fitted,
            "always_missing": self.always_missing,
            "scalers": [scaler.state() for scaler in self.scalers],
            "vocabulary": self.vocabulary,
            "gaps": self.gaps,
            **({"fill": self.fill} if self.fill else {}),
            "missing": self.missing,
            "feature_names": self.feature_names,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "TableEncoder":
        """Return the encoder whose ``state()`` this is.

        Raises:
            InputError: If a newer version of the package wrote the state.
        """
        if state["format"] > FORMAT or state["features"] not in FEATURE_SETS:
            raise InputError("the encoder was saved by a newer version of d2l_lightning; update the package")
        features = FEATURE_SETS[state["features"]](state["kinds"])
        features.fitted = state["fitted"]
        encoder = cls(features, state["always_missing"], scalers=())
        encoder.scalers = [scaler_from(scaler) for scaler in state["scalers"]]
        encoder.vocabulary = state["vocabulary"]
        encoder.gaps, encoder.missing = state["gaps"], state["missing"]
        encoder.fill = state.get("fill", {})
        encoder.feature_names = state["feature_names"]
        return encoder
