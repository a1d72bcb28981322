"""Tables from CSV files: reading and checks, with errors that name file, line and column."""

import csv
import gzip
import io
import reprlib
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from d2l_lightning.errors import InputError

# The texts of missing values. "None" is not among them: it is a category (no masonry veneer).
MISSING = ["", "NA", "na", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null"]
LARGEST = 1e15  # float32 features of larger numbers would overflow


def read_table(file: Path) -> pd.DataFrame:
    """Read a CSV file, gzipped or not, as text; missing values are NaN.

    The index holds the line on which each row begins; its name is the file. Messages use both. It is an
    InputError if the file cannot be read, is not CSV, or has a row with another length than the header.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    try:
        text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8-sig")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{file} is not a gzipped file, or is truncated ({error})") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{file}, line {line}: not text in UTF-8; save the file as CSV, UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: dict[int, list[str]] = {}  # by their first line: a quoted field may hold line breaks
    line = 1
    try:
        for row in reader:
            if row:
                rows[line] = row
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{file}, line {line}: not CSV ({error}); is a quote out of place?") from error
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
                "complete, and separated by commas?"
            )
    lines = pd.Index(list(rows), name=str(file))
    table = pd.DataFrame(list(rows.values()), columns=header, index=lines, dtype=object)
    return table.mask(table.isin(MISSING))


def is_numeric(column: "pd.Series[Any]") -> bool:
    """Return whether all values of a column that are not missing are numbers."""
    try:
        pd.to_numeric(column)
    except ValueError:
        return False
    return True


def to_numbers(column: "pd.Series[Any]") -> "pd.Series[float]":
    """Return a column as float64, NaN for values that are missing, not numbers, or too large."""
    numbers = cast("pd.Series[float]", pd.to_numeric(column, errors="coerce")).astype(np.float64)
    return numbers.where(numbers.abs() <= LARGEST)


def first_of(names: Sequence[str]) -> str:
    """Return the first name, and the number of further ones, for a message."""
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def refuse(table: pd.DataFrame, column: str, where: "pd.Series[bool]", why: str) -> None:
    """Raise an InputError that names the first of the marked rows, if there is one."""
    if where.any():
        line = table.index[where.to_numpy()][0]
        value = table.loc[line, column]
        shown = f" {reprlib.repr(value)}" if isinstance(value, str) else ""
        raise InputError(f"{table.index.name}, line {line}: {column}{shown} {why}")


def check_rows(table: pd.DataFrame, numeric: Iterable[str]) -> None:
    """Raise an InputError if there are no rows, or a value in the numeric columns is not a number."""
    if table.empty:
        raise InputError(f"{table.index.name} has a header but no rows")
    for column in numeric:
        wrong = table[column].notna() & to_numbers(table[column]).isna()
        refuse(table, column, wrong, "is not a number, or is too large; a missing number is NA")
