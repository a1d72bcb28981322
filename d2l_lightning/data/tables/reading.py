"""Tables from CSV files: reading and checks, with errors that name file, line and column."""

from __future__ import annotations

import csv
import io
import re
import reprlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from d2l_lightning.data import reading
from d2l_lightning.errors import InputError, printable

if TYPE_CHECKING:
    import pandas as pd

# The texts of missing values. "None" is not among them: it is a category (no masonry veneer).
MISSING = ["", "NA", "na", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null"]
LARGEST = 1e15  # float32 features of larger numbers would overflow
NOT_A_NUMBER = "is not a number, or is too large; a missing number is NA"
SEPARATOR_LINE = re.compile(r"sep=(.?)", re.IGNORECASE)  # a first line that Excel writes and understands


def read_table(file: Path) -> pd.DataFrame:
    """Read a CSV file, gzipped or not, as text; missing values are NaN.

    Space around values and names is removed, as are rows without a value, columns without name and value, and
    a first line ``sep=,``. The index holds the line on which each row begins; its name is the file. Messages
    use both.

    Raises:
        InputError: If the file cannot be read, is too large or not CSV, or has a row with another length than
            the header.
    """
    import pandas as pd

    rows = _parse(file, _read_text(file))
    line = next((line for line, row in rows.items() if any(row)), None)
    if line is None:
        raise InputError(f"{file} is empty")
    header = rows[line]
    # In a table of one column, a row without a value has a missing value.
    rows = {at: row for at, row in rows.items() if at > line and (any(row) or len(header) == len(row) == 1)}
    for line, row in rows.items():
        rows[line] = row = _fit(row, header)
        if len(row) != len(header):
            raise InputError(
                f"{file}, line {line}: {len(row)} fields where the header has {len(header)}; is the file "
                "complete, and separated by commas?"
            )
    for mark in ";\t|":
        if len(header) == 1 and all(mark in row[0] for row in (header, *rows.values())):
            raise InputError(f"{file} is separated by {mark!r}; save it as CSV, separated by commas")
    kept = [i for i, name in enumerate(header) if name or any(row[i] for row in rows.values())]
    column, count = Counter(header[i] for i in kept).most_common(1)[0]
    if count > 1:
        raise InputError(f"{file} has the column {reprlib.repr(column)} {count} times")
    lines = pd.Index(list(rows), name=str(file))
    table = pd.DataFrame(list(rows.values()), columns=header, index=lines, dtype=object).iloc[:, kept]
    return table.mask(table.isin(MISSING))


def _read_text(file: Path) -> str:
    with reading.open_input(file) as stream:
        data = reading.read_at_most(stream, reading.LIMIT + 1)
    if len(data) > reading.LIMIT:
        size = f"{reading.LIMIT / 1e6:g} MB of text"
        raise InputError(f"{file} holds more than {size}; give a file with fewer rows or columns")
    try:
        text = data.decode("utf-8-sig")
        wrong = text.find("\0")  # text in UTF-16 without a byte-order mark can be read as UTF-8
        if wrong < 0:
            return text
        before = text[:wrong].encode()
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
    line = before.count(b"\n") + 1
    raise InputError(f"{file}, line {line}: not text in UTF-8; save the file as CSV, UTF-8")


def _parse(file: Path, text: str) -> dict[int, list[str]]:
    """Return the fields of each row by the row's first line: a quoted field may hold line breaks."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    rows: dict[int, list[str]] = {}
    line = 1
    try:
        for row in reader:
            if row:
                rows[line] = [field.strip() for field in row]
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{file}, line {line}: not CSV ({error}); is a quote out of place?") from error
    line, (first, *others) = next(iter(rows.items()), (0, [""]))
    if (declared := SEPARATOR_LINE.fullmatch(first)) and not any(others):
        if declared[1] not in ("", ","):
            raise InputError(f"{file} is separated by {declared[1]!r}; save it as CSV, separated by commas")
        del rows[line]
    return rows


def _fit(row: list[str], header: list[str]) -> list[str]:
    """Cut fields without a value behind the last column, and add those of columns without a name."""
    n = len(header)
    if len(row) > n and not any(row[n:]):
        return row[:n]
    return row + header[len(row) :] if not any(header[len(row) :]) else row


def is_numeric(column: pd.Series[Any]) -> bool:
    """Return whether all values of a column that are not missing are numbers."""
    import pandas as pd

    try:
        pd.to_numeric(column)
    except ValueError:
        return False
    return True


def to_numbers(column: pd.Series[Any]) -> pd.Series[float]:
    """Return a column as float64, NaN for values that are missing, not numbers, or too large."""
    import pandas as pd

    numbers = cast("pd.Series[float]", pd.to_numeric(column, errors="coerce")).astype(np.float64)
    return numbers.where(numbers.abs() <= LARGEST)


def other_case(table: pd.DataFrame, name: str) -> str:
    """Return a clause that names a column whose name differs only by case, if there is one."""
    similar = [column for column in table if str(column).casefold() == name.casefold()]
    return f" (its column {reprlib.repr(similar[0])} differs only by case; rename it)" if similar else ""


def name_of(table: pd.DataFrame) -> str:
    """Return what a message calls a table: its file, or "the table" if it is not from a file."""
    return "the table" if table.index.name is None else str(table.index.name)


def place_of(table: pd.DataFrame, label: Any) -> str:
    """Return what a message calls the row of a table that has this label in the index."""
    return f"{name_of(table)}, {'row' if table.index.name is None else 'line'} {label}"


def refuse(table: pd.DataFrame, column: str, where: pd.Series[bool], why: str) -> None:
    """Raise an InputError that names the first of the marked rows, if there is one."""
    if where.any():
        row = int(where.to_numpy().argmax())
        missing, value = table[column].isna().iloc[row], table[column].iloc[row]
        shown = "" if missing else f" {reprlib.repr(str(value))}"
        raise InputError(f"{place_of(table, table.index[row])}: {printable(column)}{shown} {why}")


def require_rows(table: pd.DataFrame) -> None:
    """Raise an InputError if a table has no rows."""
    if not len(table):
        raise InputError(f"{name_of(table)} has a header but no rows")


def check_rows(table: pd.DataFrame, numeric: Iterable[str]) -> None:
    """Raise an InputError if there are no rows, or a value in the numeric columns is not a number."""
    require_rows(table)
    for column in numeric:
        wrong = table[column].notna() & to_numbers(table[column]).isna()
        refuse(table, column, wrong, NOT_A_NUMBER)
