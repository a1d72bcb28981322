"""The schema of a table: kinds are found from the values, and other tables are checked against it."""

import datetime as dt
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d2l_lightning.data.tables.encoder import TableEncoder
from d2l_lightning.data.tables.features import Columns
from d2l_lightning.data.tables.reading import read_table
from d2l_lightning.data.tables.schema import (
    FORMATS,
    checked,
    find_kinds,
    schema_notes,
    to_booleans,
    to_dates,
)
from d2l_lightning.errors import InputError
from tests.tools.tables import KINDS, make_table, write_tables

UNUSED = ("id", "note", "street", "rent")


def column(*values: Any) -> pd.DataFrame:
    return pd.DataFrame({"c": pd.Series(values, dtype=object)})


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (("1", "2.5", "-3e2", None), "number"),
        (("0", "1"), "number"),
        (("true", "FALSE", None), "boolean"),
        (("Yes", "no"), "boolean"),
        (("Y", "N", "y"), "boolean"),
        (("t", "F"), "boolean"),
        (("Y", "N", "P"), "category"),
        (("N", "N"), "category"),  # south may follow north
        (("N", "T"), "category"),
        (("1", "2", "many"), "category"),
        (("12", "3-4"), "category"),
        (("2010-01-31", None), "date %Y-%m-%d"),
        (("2010-1-5", "2010-11-30T23:59:59.25Z"), "date %Y-%m-%d"),
        (("2010-01-31 7:05 PM", "2010-01-31 12:00+02:00"), "date %Y-%m-%d"),
        (("31.12.2010", "1.2.2010"), "date %d.%m.%Y"),
        (("31.12.10", "01.02.99"), "date %d.%m.%y"),
        (("12/31/2010", "1/2/2010"), "date %m/%d/%Y"),
        (("1/2/2010", "31/12/2010"), "date %d/%m/%Y"),
        (("Jan 5, 2010", "Dec 31, 1999"), "date %b %d, %Y"),
        (("5-Jan-2010",), "date %d-%b-%Y"),
        (("2010-01-31", "2010-02-31"), "category"),
        (("2010-01-31", "2010-02-01 25:00"), "category"),
        (("31.12.2010", "12/31/2010"), "category"),
    ],
)
def test_the_kind_is_the_one_that_all_values_have(values: tuple[Any, ...], kind: str) -> None:
    assert find_kinds(column(*values)) == {"c": kind}


@given(st.sampled_from(FORMATS), st.lists(st.dates(dt.date(1970, 1, 1), dt.date(2068, 12, 31)), min_size=1))
def test_dates_are_read_as_they_were_written(date_format: str, days: list[dt.date]) -> None:
    days += [dt.date(2000, 12, 31)]  # decides the order of day and month
    texts = column(*(f"{day:{date_format}}" for day in days))
    assert find_kinds(texts) == {"c": f"date {date_format}"}
    assert to_dates(texts["c"], date_format).dt.date.tolist() == days
    assert schema_notes(texts, find_kinds(texts)) == []


@pytest.mark.parametrize(
    ("values", "kind", "first"),
    [
        (("03/04/2010", "05/06/2010"), "date %m/%d/%Y", "2010-03-04"),
        (("03.04.2010", "05.06.2010"), "date %d.%m.%Y", "2010-04-03"),
        (("01/02/2010", "01/03/2010"), "date %d/%m/%Y", "2010-02-01"),
    ],
    ids=["slashes", "points", "the first day of each month"],
)
def test_an_order_of_day_and_month_that_is_not_certain_is_noted(
    values: tuple[str, ...], kind: str, first: str
) -> None:
    table = column(*values)
    assert find_kinds(table) == {"c": kind}
    assert schema_notes(table, {"c": kind}) == [
        f"Day and month may be exchanged in the column c: {values[0]} is read as {first}."
    ]


def test_booleans_are_one_and_zero() -> None:
    values = to_booleans(pd.Series(["Yes", "n", None, "TRUE", "f", "maybe"], dtype=object))
    np.testing.assert_array_equal(values, [1, 0, np.nan, 1, 0, np.nan])


def test_columns_without_a_value_are_left_out_with_a_note() -> None:
    table = make_table(30).assign(empty=None, other=np.nan)
    kinds = find_kinds(table, UNUSED)
    assert kinds == KINDS
    assert schema_notes(table, kinds, UNUSED) == [
        "the table has no value in the column 'empty', 'other': left out."
    ]


def test_a_column_of_different_texts_is_refused_with_advice() -> None:
    names = column(*(f"name {i}" for i in range(40)))
    with pytest.raises(InputError, match=r"'c' has 40 different texts in 40 rows, as names .*--ignore"):
        find_kinds(names)
    assert find_kinds(names, ignore=["c"]) == {}
    assert find_kinds(names.iloc[:20]) == {"c": "category"}
    dates = column(*(f"{day}.1.2010" for day in range(1, 32)), "soon")
    with pytest.raises(InputError, match=r"dates such as 31.12.2010, but not 'soon' \(the table, row 31\)"):
        find_kinds(dates)


@pytest.mark.parametrize("wrong", ["?", "1,234", "$5", "1,5", "12 %"])
def test_numbers_that_are_written_otherwise_are_refused_or_noted_as_categories(wrong: str) -> None:
    what = (
        rf"most of them numbers such as 1234.5 or NA, but not {re.escape(repr(wrong))} \(the table, row 1\)"
    )
    with pytest.raises(InputError, match=f"'c' has 40 different texts in 40 rows, {what}; correct it"):
        find_kinds(column("0.5", wrong, *map(str, range(38))))
    few = column("0.5", wrong, None, *map(str, range(5)))
    kinds = find_kinds(few)
    assert kinds == {"c": "category"}
    (note,) = schema_notes(few, kinds)
    assert re.fullmatch(f"The texts in the column c are taken as categories, {what}.", note)


def test_numbers_with_units_or_separators_alone_are_recognised() -> None:
    for texts in (["1,234", "12,345,678"], ["$1.50", "-$2"], ["1.234,5", "0,5"], ["12%", "3.5 %"]):
        assert "but not" in schema_notes(column(*texts), {"c": "category"})[0]
    for texts in (["red", "blue"], ["C85", "B20"], ["12:30", "8:15"], ["1-2", "3-4"], ["1", "2nd", "3rd"]):
        assert schema_notes(column(*texts), {"c": "category"}) == []


def test_a_table_that_pandas_reads_has_the_same_features_as_the_file(tmp_path: Path) -> None:
    train, test = (read_table(file) for file in write_tables(tmp_path))
    encoder = TableEncoder(Columns(find_kinds(train, UNUSED))).fit(train)
    typed = pd.read_csv(tmp_path / "test.csv").convert_dtypes()
    typed["sold"] = pd.to_datetime(typed["sold"])
    typed["built"] = [day.date() for day in pd.to_datetime(typed["built"], dayfirst=True)]
    typed["garden"] = typed["garden"] == "yes"
    typed["town"] = typed["town"].astype("category")
    for table in (test, typed, typed[typed.columns[::-1]]):
        chosen, notes = checked(table, encoder.columns, known=["id", "note"])
        assert list(chosen) == list(KINDS)
        name = test.index.name if table is test else "the table"
        assert notes == [f"{name} has columns that are not used: street."]
        assert torch.equal(encoder.transform(chosen), encoder.transform(test))


@pytest.mark.parametrize(
    "values",
    [
        *([60, 61.0, None], [60, 61], [60.0, 61.0, np.nan], pd.array([60, 61, None], dtype="Int64")),
        *(["60", "61", "NA"], pd.Categorical([60, 61, None]), pd.Series(["60", "61", ""], dtype="string")),
    ],
)
def test_whole_numbers_of_a_column_of_categories_have_no_point(values: Any) -> None:
    texts = checked(pd.DataFrame({"c": values}), {"c": "category"})[0]["c"]
    assert texts.dropna().tolist() == ["60", "61"]
    assert texts.dtype == object
    assert all(isinstance(text, str) or np.isnan(text) for text in texts)


def test_other_values_of_a_column_of_categories_are_their_text() -> None:
    values = [True, 5.5, np.float32(7), dt.date(2010, 1, 31), np.inf]
    texts = checked(column(*values), {"c": "category"})[0]["c"].tolist()
    assert texts == ["True", "5.5", "7", "2010-01-31", "inf"]


WRONG: dict[str, tuple[pd.DataFrame, str, str]] = {
    "text for a number": (column("1", "two"), "number", "the table, row 1: c 'two' is not a number"),
    "an infinite number": (column(1.0, np.inf), "number", "the table, row 1: c 'inf' is not a number"),
    "a boolean for a number": (column(True), "number", "the table, row 0: c 'True' is not a number"),
    "text for a boolean": (
        column("maybe"),
        "boolean",
        "c 'maybe' is neither true nor false",
    ),
    "a number for a boolean": (column(1), "boolean", "the table, row 0: c '1' is neither true nor false"),
    "text for a date": (
        column("31.13.2010"),
        "date %d.%m.%Y",
        "c '31.13.2010' is not a date such as 31.12",
    ),
    "no rows": (column(), "number", "the table has a header but no rows"),
    "a column doubled": (
        pd.DataFrame([[1, 2]], columns=["c", "c"]),
        "number",
        "the table has the column 'c' more than once",
    ),
    "a column missing": (pd.DataFrame({"d": [1]}), "number", "the table lacks the column 'c'"),
    "a name in another case": (
        pd.DataFrame({"C": [1]}),
        "number",
        "the table lacks the column 'c' (its column 'C' differs only by case; rename it)",
    ),
}


@pytest.mark.parametrize(("table", "kind", "message"), WRONG.values(), ids=WRONG.keys())
def test_the_error_names_row_and_column(table: pd.DataFrame, kind: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        checked(table, {"c": kind})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_error_names_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "new.csv"
    file.write_text("c\n1\n\n1\nx\n")
    with pytest.raises(InputError) as caught:
        checked(read_table(file), {"c": "number"})
    assert str(caught.value).startswith(f"{file}, line 5: c 'x' is not a number")
    many = pd.read_csv(io.StringIO("a,b,c,d,e\n1,2,3,4,5\n"))
    assert checked(many, {"c": "number"})[1] == [
        "the table has columns that are not used: a, b, d (and 1 more)."
    ]
