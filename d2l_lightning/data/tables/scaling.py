"""Scalers: fitted transformations of the numeric columns of a table."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from d2l_lightning.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

EQUAL = 1e-12  # values that differ by less are equal: their standard deviation would be a rounding error


class Scaler(ABC):
    """A transformation of p numeric columns, fitted to the known rows of a table.

    Missing values (NaN) are ignored by ``fit`` and become 0, but for ``Unscaled``.

    Args:
        columns: The names of the columns; all columns of the table that ``fit`` gets if not given.

    Attributes:
        fitted: What ``fit`` found, as tensors by name, in double precision.
    """

    name: ClassVar[str]

    def __init__(self, columns: Sequence[str] | None = None) -> None:
        self.columns = None if columns is None else list(columns)
        self.fitted: dict[str, Tensor] = {}

    def fit(self, known: "pd.DataFrame") -> None:
        """Fit to the known rows: a table of float64."""
        if self.columns is None:
            self.columns = [str(column) for column in known]
        found = self._fit(known[self.columns])
        self.fitted = {name: torch.from_numpy(np.array(value)) for name, value in found.items()}

    def transform(self, numbers: "pd.DataFrame") -> Tensor:
        """Return the scaled columns of a table of float64: shape ``(n, p)``, float64."""
        values = torch.from_numpy(numbers[self.columns].to_numpy(np.float64, copy=True))
        return self._transform(values).nan_to_num_(nan=0.0)

    def state(self) -> dict[str, Any]:
        """Return the scaler as plain values and tensors."""
        return {"name": self.name, "columns": self.columns, **self.fitted}

    @abstractmethod
    def _fit(self, known: "pd.DataFrame") -> dict[str, Any]:
        """Return arrays that describe the columns, by name."""

    @abstractmethod
    def _transform(self, values: Tensor) -> Tensor:
        """Return the scaled values; NaN where they are missing."""


class Standard(Scaler):
    """Subtracts the mean and divides by the standard deviation (eq. 4.10.1). Constant columns become 0."""

    name = "standard"

    def _fit(self, known: "pd.DataFrame") -> dict[str, Any]:
        varies = known.max() - known.min() > EQUAL
        return {"mean": known.mean().to_numpy(), "deviation": known.std().where(varies).to_numpy()}

    def _transform(self, values: Tensor) -> Tensor:
        return (values - self.fitted["mean"]) / self.fitted["deviation"]


class Unscaled(Scaler):
    """Leaves values as they are; missing values become the mean of their column."""

    name = "unscaled"

    def _fit(self, known: "pd.DataFrame") -> dict[str, Any]:
        return {"mean": known.mean().to_numpy()}

    def _transform(self, values: Tensor) -> Tensor:
        return torch.where(values.isnan(), self.fitted["mean"], values)


class LogStandard(Standard):
    """As ``Standard``, but of the logarithms ``log(1 + x)`` of columns that are skewed.

    These are columns without negative values, with more than 15 different values and a skewness beyond
    0.75 on either side.
    """

    name = "log_standard"

    def _fit(self, known: "pd.DataFrame") -> dict[str, Any]:
        log = ((known.min() >= 0) & (known.skew().abs() > 0.75) & (known.nunique() > 15)).to_numpy()
        known = known.copy()
        known.loc[:, log] = np.log1p(known.loc[:, log])
        return {"log": log, **super()._fit(known)}

    def _transform(self, values: Tensor) -> Tensor:
        # A new value may be negative where the known ones were not.
        log = self.fitted["log"]
        values[:, log] = values[:, log].clamp_(min=0).log1p_()
        return super()._transform(values)


class Robust(Scaler):
    """Subtracts the median, divides by the interquartile range, and moves values smoothly into (-3, 3).

    Where the interquartile range is 0, half of the range of the column takes its place. The scaled value z
    becomes ``z / sqrt(1 + (z / 3)**2)``. Source: Holzmüller et al., "Better by Default" (2024), Section 3.
    """

    name = "robust"

    def _fit(self, known: "pd.DataFrame") -> dict[str, Any]:
        median, spread = known.median(), known.quantile(0.75) - known.quantile(0.25)
        extent = known.max() - known.min()
        spread = spread.where(spread > EQUAL, extent / 2).where(extent > EQUAL)
        return {"median": median.to_numpy(), "spread": spread.to_numpy()}

    def _transform(self, values: Tensor) -> Tensor:
        z = (values - self.fitted["median"]) / self.fitted["spread"]
        return z / (1 + (z / 3).square_()).sqrt_()


class NormalQuantile(Scaler):
    """Maps each column to a normal distribution by its quantiles; results are clipped to [-3, 3].

    A value is replaced by the quantile of the standard normal distribution that belongs to its rank, which is
    interpolated between 500 known quantiles (as many as rows if there are fewer). Equal values get the mean
    of their ranks, but the least value gets the first rank and the greatest the last, as in scikit-learn's
    ``QuantileTransformer``.
    """

    name = "normal_quantile"
    largest, limit = 500, 3.0

    def _fit(self, known: "pd.DataFrame") -> dict[str, Any]:
        ranks = np.linspace(0, 1, min(self.largest, len(known)))
        values = known.fillna({column: 0.0 for column in known if known[column].isna().all()})
        quantiles = np.nanquantile(values.to_numpy(), ranks, axis=0)
        # Interpolation can make them decrease by a rounding error.
        return {"quantiles": np.maximum.accumulate(quantiles)}

    def _transform(self, values: Tensor) -> Tensor:
        quantiles = self.fitted["quantiles"].numpy()
        ranks = np.linspace(0, 1, len(quantiles))
        result = np.full(values.shape, np.nan)
        for j, (known, column) in enumerate(zip(quantiles.T, values.numpy().T, strict=True)):
            if known[0] < known[-1]:
                # The first and the last rank of equal quantiles.
                upper = np.interp(column, known, ranks)
                lower = -np.interp(-column, -known[::-1], -ranks[::-1])
                result[:, j] = (lower + upper) / 2
                result[column <= known[0], j], result[column >= known[-1], j] = 0, 1
        return torch.special.ndtri(torch.from_numpy(result)).clamp_(-self.limit, self.limit)


SCALERS: Mapping[str, type[Scaler]] = {
    kind.name: kind for kind in (Standard, Unscaled, LogStandard, Robust, NormalQuantile)
}


def make_scaler(name: str, columns: Sequence[str] | None = None) -> Scaler:
    """Return a new scaler; raise an InputError if the name is unknown."""
    if name not in SCALERS:
        raise InputError(f"a scaler must be one of {', '.join(SCALERS)}, not {name!r}")
    return SCALERS[name](columns)


def scaler_from(state: Mapping[str, Any]) -> Scaler:
    """Return the scaler whose ``state()`` this is."""
    scaler = make_scaler(state["name"], state["columns"])
    scaler.fitted = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return scaler
