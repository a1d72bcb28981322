"""Tables from CSV files, read as text and checked: what is wrong is told with file, line and column."""

import csv
import gzip
import io
import reprlib
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from d2l_lightning.errors import InputError

# What stands for a missing value. "None" does not: it is a category of its own (no masonry veneer).
MISSING = ["", "NA", "na", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null"]
LARGEST = 1e15  # of a number; with larger ones float32 features would overflow


def read_table(file: Path) -> pd.DataFrame:
    """Read a CSV file, gzipped or not, as text; missing values are NaN.

    The index tells the line that each row begins on and is named after the file, for messages.

    Raises:
        InputError: If the file cannot be read, is no CSV, or has lines with more or fewer fields than its
            header.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    try:
        text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8-sig")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{file} is no gzipped file, or is cut short ({error})") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{file}, line {line}: no text in UTF-8; save the file as CSV, UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: dict[int, list[str]] = {}  # by the line that they begin on: a quoted field may hold line breaks
    line = 1
    try:
        for row in reader:
            if row:
                rows[line] = row
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{file}, line {line}: no CSV ({error}); is a quote out of place?") from error
    if not rows:
        raise InputError(f"{file} is empty")
    header = rows.pop(min(rows))
    column, count = Counter(header).most_common(1)[0]
    if count > 1:
        raise InputError(f"{file} has the column {reprlib.repr(column)} {count} times")
    for line, row in rows.items():
        if len(row) != len(header):
            raise InputError(
                f"{file}, line {line}: {len(row)} fields where the header has {len(header)}; is the file "
                "whole, and separated by commas?"
            )
    table = pd.DataFrame(
        list(rows.values()), columns=header, index=pd.Index(list(rows), name=str(file)), dtype=object
    )
    return table.mask(table.isin(MISSING))


def is_numeric(column: "pd.Series[Any]") -> bool:
    """Return whether all that is not missing in a column are numbers."""
    try:
        pd.to_numeric(column)
    except ValueError:
        return False
    return True


def to_numbers(column: "pd.Series[Any]") -> "pd.Series[float]":
    """Return a column as float64, NaN where it is missing, no number, or too large a one."""
    numbers = cast("pd.Series[float]", pd.to_numeric(column, errors="coerce")).astype(np.float64)
    return numbers.where(numbers.abs() <= LARGEST)


def standardized(numbers: pd.DataFrame, known: pd.DataFrame) -> npt.NDArray[np.float32]:
    """Return numbers with the mean 0 and the standard deviation 1 that those known have; 0 where missing.

    Args:
        numbers: float64, NaN where missing.
        known: The rows whose statistics count.

    Returns:
        Shape ``(n, d)``. A column that does not vary, or by next to nothing, is 0.

    Source: eq. 4.10.1.
    """
    # The standard deviation would not tell what does not vary: it can be a rounding error instead of 0.
    varies = known.max() - known.min() > 1e-12
    standard = ((numbers - known.mean()) / known.std().where(varies)).fillna(0.0)
    return standard.to_numpy(np.float32)


def indicators(column: "pd.Series[Any]") -> tuple[list[str], npt.NDArray[np.float32]]:
    """Return an indicator for each category of a column, and a last one for what is missing.

    Returns:
        Their names and values, shape ``(n, categories + 1)``.
    """
    codes, categories = pd.factorize(column, sort=True)
    # A missing value's code is -1, which takes the last row.
    values = np.eye(len(categories) + 1, dtype=np.float32)[codes]
    return [f"{column.name}_{category}" for category in [*categories, "nan"]], values


def refuse(table: pd.DataFrame, column: str, where: "pd.Series[bool]", why: str) -> None:
    """Raise an InputError that names the first of these rows, if there is one."""
    if where.any():
        line = table.index[where.to_numpy()][0]
        value = table.loc[line, column]
        shown = f" {reprlib.repr(value)}" if isinstance(value, str) else ""
        raise InputError(f"{table.index.name}, line {line}: {column}{shown} {why}")


def require_numbers(table: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raise an InputError that names the first value in these columns that is no number."""
    for column in columns:
        no_number = table[column].notna() & to_numbers(table[column]).isna()
        refuse(table, column, no_number, "is no number, or too large a one; a missing number is NA")
