"""The schema of a table: which kind of values each column has, and the check of a table against it.

A schema is a dictionary from the names of columns to their kinds. A kind is ``number``, ``category``,
``boolean``, or ``date`` with the format of the dates, as in ``date %Y-%m-%d``.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from d2l_lightning.data.reading import first_of
from d2l_lightning.data.tables.reading import (
    MISSING,
    NOT_A_NUMBER,
    is_numeric,
    name_of,
    other_case,
    place_of,
    refuse,
    require_rows,
    to_numbers,
)
from d2l_lightning.errors import InputError, printable

if TYPE_CHECKING:
    import pandas as pd

TRUE, FALSE = ("true", "yes", "y", "t"), ("false", "no", "n", "f")
TRUTH = dict.fromkeys(TRUE, 1.0) | dict.fromkeys(FALSE, 0.0)

# Where day and month can be exchanged, the format that comes first is taken: the month is first with slashes.
FORMATS = (
    *("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d.%m.%y", "%m.%d.%Y", "%m.%d.%y"),
    *("%m/%d/%Y", "%m/%d/%y", "%d/%m/%Y", "%d/%m/%y", "%d-%m-%Y", "%d-%m-%y", "%m-%d-%Y", "%m-%d-%y"),
    *("%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d, %Y", "%B %d, %Y", "%d. %B %Y"),
)
# A time after a date, with seconds, AM or PM, and a time zone; it is not used.
TIME = re.compile(
    r"[T ] ?([01]?\d|2[0-3]):[0-5]\d(:[0-5]\d([.,]\d+)?)?( ?[AP]M)?( ?(Z|UTC|[+-]\d\d:?\d\d))?", re.IGNORECASE
)
# A number with separators of thousands, a decimal comma, or a unit.
NUMBER_LIKE = r"[-+]?[$€£¥]? ?(?:\d{1,3}(?:[,.' ]\d{3})+|\d+)(?:[.,]\d+)? ?[%$€£¥]?"
FIRST = 10  # values from which the formats of dates are guessed
FEW = 20  # different texts that a column may always have
EXAMPLE = date(2010, 12, 31)


def to_booleans(column: pd.Series[Any]) -> pd.Series[float]:
    """Return a column of texts such as yes and no as 1 and 0; NaN for other values."""
    values = {text: TRUTH.get(str(text).casefold(), np.nan) for text in column.dropna().unique()}
    return column.map(values).astype(np.float64)


def to_dates(column: pd.Series[Any], date_format: str) -> pd.Series[Any]:
    """Return a column of texts as dates, without times; NaT for values that are not dates in this format."""
    import pandas as pd

    codes, texts = pd.factorize(column)  # the code of a missing value is -1
    days = [TIME.sub("", text) if ":" in text else text for text in map(str, texts)]
    dates = pd.Series(pd.to_datetime(pd.Series(days, dtype=object), format=date_format, errors="coerce"))
    return dates.reindex(codes).set_axis(column.index)


def find_kinds(table: pd.DataFrame, ignore: Collection[str] = ()) -> dict[str, str]:
    """Return the schema of a table of text, without columns that are to be ignored or have no value.

    A column is of numbers, booleans (true and false, yes and no, y and n, t and f) or dates if all its values
    are. A date may have a time, which is not used. The order of day and month is the one that fits all
    values. If both fit, it is the one in which all dates are the first day of a month, else that of
    ``FORMATS``.

    Raises:
        InputError: If a column has nearly as many different texts as rows: nothing can be learned from it.
    """
    columns = {str(column): table[column].dropna() for column in table if column not in ignore}
    return {name: _kind(values, name, table) for name, values in columns.items() if len(values)}


def _kind(values: pd.Series[Any], name: str, table: pd.DataFrame) -> str:
    if is_numeric(values):
        return "number"
    texts = values.drop_duplicates()
    words = {text.casefold() for text in texts}
    if words <= TRUTH.keys() and any(pair <= words for pair in map(set, zip(TRUE, FALSE, strict=True))):
        return "boolean"
    guesses = {guess: to_dates(texts, guess) for guess in _date_formats(texts)}
    fitting = [guess for guess, dates in guesses.items() if dates.notna().all()]
    if fitting:
        return f"date {next((f for f in fitting if (guesses[f].dt.day == 1).all()), fitting[0])}"
    if len(texts) > max(FEW, len(table) / 2):
        what = f"{name_of(table)}: the column {reprlib.repr(name)} has {len(texts)} different texts"
        like = _exception(texts, table)
        advice = (
            f"{like}; correct it, or leave the column out"
            if like
            else "as names and addresses have; leave it out"
        )
        raise InputError(f"{what} in {len(table)} rows, {advice} with --ignore")
    return "category"


def _exception(texts: pd.Series[Any], table: pd.DataFrame) -> str:
    """Return a clause that names the first text that is not as most are, a number or a date; or nothing."""
    numbers = to_numbers(texts)
    if (numbers.notna() | texts.str.fullmatch(NUMBER_LIKE)).mean() > 0.5:
        found = {"numbers such as 1234.5 or NA": numbers}
    else:
        guesses = {guess: to_dates(texts, guess) for guess in _date_formats(texts)}
        found = {f"dates such as {EXAMPLE:{guess}}": dates for guess, dates in guesses.items()}
        found = {like: dates for like, dates in found.items() if dates.notna().mean() >= 0.5}
    for like, values in found.items():
        wrong = texts[values.isna()]
        return (
            f"most of them {like}, but not {reprlib.repr(wrong.iloc[0])} ({place_of(table, wrong.index[0])})"
        )
    return ""


def _date_formats(texts: pd.Series[Any]) -> list[str]:
    """Return the formats that fit at least one of the first texts."""
    first = [TIME.sub("", text) for text in texts.iloc[:FIRST] if any(map(str.isdigit, text))]
    return [guess for guess in FORMATS if any(_fits(text, guess) for text in first)]


def _fits(text: str, date_format: str) -> bool:
    try:
        datetime.strptime(text, date_format)
    except ValueError:
        return False
    return True


def schema_notes(table: pd.DataFrame, kinds: Mapping[str, str], ignore: Collection[str] = ()) -> list[str]:
    """Return what a user should know of a schema that was found.

    These are columns without values, categories that are nearly all numbers or dates, and ambiguous dates.
    """
    empty = [reprlib.repr(str(column)) for column in table if column not in kinds and column not in ignore]
    notes = [f"{name_of(table)} has no value in the column {first_of(empty, 3)}: left out."] if empty else []
    for column, kind in kinds.items():
        chosen = kind.partition(" ")[2]
        other = chosen.translate({ord("d"): "m", ord("m"): "d"})
        values = table[column].dropna()
        if kind == "category" and (like := _exception(values.drop_duplicates(), table)):
            notes.append(f"The texts in the column {printable(column)} are taken as categories, {like}.")
        if other != chosen and other in FORMATS and to_dates(values, other).notna().all():
            first = to_dates(values.iloc[:1], chosen).iloc[0]
            shown = f"{printable(values.iloc[0])} is read as {first:%Y-%m-%d}"
            notes.append(f"Day and month may be exchanged in the column {printable(column)}: {shown}.")
    return notes


def checked(
    table: pd.DataFrame, kinds: Mapping[str, str], known: Iterable[str] = ()
) -> tuple[pd.DataFrame, list[str]]:
    """Return the columns of a schema in its order, numbers as float64 and others as text, and notes.

    Tables other than those of ``read_table``, such as pandas.read_csv returns, get the texts that a file with
    these values has: 60 and 60.0 become "60", True becomes "True", and dates get the format of the schema.

    Args:
        table: The table. Its index, named after the file, has the line of each row; or any other index.
        kinds: The schema.
        known: Further columns that are not used; others that are not in the schema are noted.

    Raises:
        InputError: If a column is missing, there are no rows, or a value is of another kind.
    """
    import pandas as pd

    table = table.rename(columns=str)
    doubled = table.columns[table.columns.duplicated()]
    if len(doubled):
        raise InputError(f"{name_of(table)} has the column {reprlib.repr(doubled[0])} more than once")
    missing = [column for column in kinds if column not in table]
    if missing:
        names = first_of([reprlib.repr(column) for column in missing])
        raise InputError(f"{name_of(table)} lacks the column {names}{other_case(table, missing[0])}")
    require_rows(table)
    columns = {column: _as_text(table[column], kind) for column, kind in kinds.items()}
    for column, kind in kinds.items():
        values = check_values(columns[column], kind)
        if kind == "number":
            columns[column] = values
    extra = [printable(str(column)) for column in table if column not in {*kinds, *known}]
    notes = [f"{name_of(table)} has columns that are not used: {first_of(extra, 3)}."] if extra else []
    return pd.DataFrame(columns, index=table.index, columns=list(kinds)), notes


def check_values(column: pd.Series[Any], kind: str) -> pd.Series[Any]:
    """Return a column as numbers, 0 and 1, dates, or text, by its kind.

    Raises:
        InputError: If a value is of another kind.
    """
    kind, _, date_format = kind.partition(" ")
    if kind == "number":
        values, why = to_numbers(column), NOT_A_NUMBER
    elif kind == "boolean":
        values, why = to_booleans(column), "is neither true nor false, yes nor no; a missing value is NA"
    elif kind == "date":
        values = to_dates(column, date_format)
        why = f"is not a date such as {EXAMPLE:{date_format}}; a missing date is NA"
    else:
        return column
    refuse(column.to_frame(), str(column.name), column.notna() & values.isna(), why)
    return values


def _as_text(column: pd.Series[Any], kind: str) -> pd.Series[Any]:
    """Return a column as text, NaN where it is missing; numbers in a column of numbers stay numbers."""
    import pandas as pd

    kind, _, date_format = kind.partition(" ")
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    found = pd.api.types.infer_dtype(column, skipna=True)
    if kind == "number" and found in ("integer", "floating", "mixed-integer-float", "decimal"):
        return column
    if kind == "date" and found in ("datetime64", "datetime", "date"):
        column = column.map(lambda day: f"{day:{date_format}}", na_action="ignore")
    elif found != "string":
        column = column.map(_text, na_action="ignore")
    column = column.astype(object)
    return column.mask(column.isna() | column.isin(MISSING), np.nan)


def _text(value: Any) -> str:
    """Return a value as a CSV file has it: whole numbers without a point."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)
