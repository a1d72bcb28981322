"""The house prices: the features equal the book's, statistics do not leak, and bad files are an error."""

import copy
import csv
import gzip
import hashlib
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from d2l_lightning.data import kaggle_house
from d2l_lightning.data.batches import ShuffledBatches
from d2l_lightning.data.kaggle_house import BUNDLED, KaggleHouse
from d2l_lightning.data.tables.reading import read_table
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.errors import InputError
from d2l_lightning.models.price_regressor import PriceRegressor

Lines = list[str]
Name = Literal["train", "test"]
NAMES: tuple[Name, Name] = ("train", "test")
STYLES = ["{}.csv", "kaggle_house_pred_{}.csv"]
# The published digests of the files, Section 4.10.3.
SHA1 = {
    "train": "585e9cc93e70b39160e7921475f9bcd7d31219ce",
    "test": "fa19780a7b011d9b009e8bff8e99922a8ee2eb90",
}


@cache
def unpacked(name: Name) -> bytes:
    return gzip.decompress((BUNDLED / f"kaggle_house_pred_{name}.csv.gz").read_bytes())


def head(name: Name, rows: int = 30) -> Lines:
    """The header and the first rows of a file; it has no quotes, so that a line is a row."""
    return unpacked(name).decode().splitlines()[: rows + 1]


def edit(lines: Lines, line: int, **values: str) -> Lines:
    """Set the values of some columns in a line, counted from 1 as an editor does."""
    header, fields = lines[0].split(","), lines[line - 1].split(",")
    for column, value in values.items():
        fields[header.index(column)] = value
    return [*lines[: line - 1], ",".join(fields), *lines[line:]]


def set_column(lines: Lines, column: str, values: list[str]) -> Lines:
    for line, value in enumerate(values, start=2):
        lines = edit(lines, line, **{column: value})
    return lines


def drop(lines: Lines, *columns: str) -> Lines:
    kept = [place for place, column in enumerate(lines[0].split(",")) if column not in columns]
    return [",".join(line.split(",")[place] for place in kept) for line in lines]


def append(lines: Lines, column: str, value: str) -> Lines:
    return [f"{line},{column if place == 0 else value}" for place, line in enumerate(lines)]


def replace(lines: Lines, old: str, new: str) -> Lines:
    """Replace a value in all fields."""
    return [",".join(new if field == old else field for field in line.split(",")) for line in lines]


def as_bytes(content: Lines | str | bytes) -> bytes:
    if isinstance(content, list):
        content = "\n".join(content) + "\n"
    return content.encode() if isinstance(content, str) else content


def write(
    folder: Path,
    train: Lines | str | bytes | None = None,
    test: Lines | str | bytes | None = None,
    style: str = STYLES[0],
) -> str:
    """Write both files into a folder, the first 30 rows of each if not given; return the folder."""
    folder.mkdir(exist_ok=True)
    for name, content in zip(NAMES, (train, test), strict=True):
        (folder / style.format(name)).write_bytes(as_bytes(head(name) if content is None else content))
    return str(folder)


def ready(
    data_dir: str | None = None, statistics: Literal["all", "train"] = "all", **settings: int
) -> KaggleHouse:
    data = KaggleHouse(data_dir, statistics, **settings)
    data.setup()
    return data


@pytest.fixture(scope="module", autouse=True)
def _bundled_files_read_once() -> Iterator[None]:
    """Save time: every setup reads the bundled files to learn the columns."""
    kept = cache(read_table)
    with mock.patch.object(
        kaggle_house, "read_table", lambda file: (kept if file.parent == BUNDLED else read_table)(file)
    ):
        yield


@pytest.fixture(scope="module")
def book() -> pd.DataFrame:
    """The book's steps in pandas; None is a category, not a missing value."""
    train, test = (
        pd.read_csv(io.BytesIO(unpacked(name)), keep_default_na=False, na_values=["", "NA"]) for name in NAMES
    )
    features = pd.concat((train.iloc[:, 1:-1], test.iloc[:, 1:]))
    numeric = [c for c in features if pd.api.types.is_numeric_dtype(features[c])]
    features[numeric] = features[numeric].apply(lambda x: (x - x.mean()) / x.std())
    features[numeric] = features[numeric].fillna(0)
    return pd.get_dummies(features, dummy_na=True)


@pytest.fixture(scope="module")
def bundled() -> KaggleHouse:
    return ready()


@pytest.fixture(scope="module")
def numeric() -> Lines:
    """The columns that hold numbers, found without the code under test."""
    rows = [*csv.DictReader(head("train", 1460)), *csv.DictReader(head("test", 1459))]

    def holds_numbers(column: str) -> bool:
        try:
            return bool([float(row[column]) for row in rows if row[column] != "NA"])
        except ValueError:
            return False

    return [column for column in head("test")[0].split(",")[1:] if holds_numbers(column)]


# --- The files, and the features that the book makes of them.


@pytest.mark.parametrize("name", NAMES)
def test_bundled_files_are_the_published_ones(name: Name) -> None:
    assert hashlib.sha1(unpacked(name)).hexdigest() == SHA1[name]


@pytest.mark.parametrize(("name", "shape"), [("train", (1460, 81)), ("test", (1459, 80))])
def test_tables_have_the_shapes_that_the_book_prints(name: Name, shape: tuple[int, int]) -> None:
    table = read_table(BUNDLED / f"kaggle_house_pred_{name}.csv.gz")
    assert table.shape == shape
    assert table.index.tolist() == list(range(2, shape[0] + 2))  # lines of the file: the header is line 1


def test_features_are_those_of_the_books_steps(bundled: KaggleHouse, book: pd.DataFrame) -> None:
    assert bundled.feature_names == list(book.columns)
    features = bundled.features()
    assert features.shape == (2919, 331)
    assert features.dtype == torch.float32
    assert torch.equal(features, torch.tensor(np.array(book.values, dtype=np.float32)))


def test_the_files_have_the_shapes_that_the_book_prints(bundled: KaggleHouse) -> None:
    assert bundled.shapes == {"train": (1460, 81), "test": (1459, 80)}


def test_features_that_are_not_standardised_are_the_numbers_of_the_files(
    tmp_path: Path, numeric: Lines
) -> None:
    own = KaggleHouse(write(tmp_path), features="unscaled")
    own.setup()
    standard = ready(write(tmp_path), "all")
    assert own.feature_names == standard.feature_names
    raw = own.raw[numeric].astype(float)
    expected = torch.tensor(raw.fillna(raw.mean()).to_numpy(), dtype=torch.float32)
    torch.testing.assert_close(own.features()[:, : len(numeric)], expected)
    assert torch.equal(own.features()[:, len(numeric) :], standard.features()[:, len(numeric) :])


@pytest.mark.parametrize("statistics", ["all", "train"])
def test_missing_numbers_get_an_indicator_on_request(
    tmp_path: Path, statistics: Literal["all", "train"]
) -> None:
    book, own = (
        KaggleHouse(write(tmp_path), statistics, missing=missing) for missing in ("mean", "indicator")
    )
    for each in (book, own, default := KaggleHouse(write(tmp_path), statistics)):
        each.setup()
    rows = torch.arange(20)
    assert torch.equal(book.features(rows), default.features(rows))
    added = [name for name in own.feature_names if name not in book.feature_names]
    assert "LotFrontage_nan" in added
    for name in added:
        indicator = own.features(rows)[:, own.feature_names.index(name)]
        assert indicator.tolist() == own.raw[name.removesuffix("_nan")].isna().astype(float).tolist()
    same = [own.feature_names.index(name) for name in book.feature_names]
    assert torch.equal(own.features(rows)[:, same], book.features(rows))


def test_what_missing_numbers_become_must_be_known_and_suit_the_features() -> None:
    unknown: Any = "zero"
    with pytest.raises(InputError, match=r"^missing must be one of mean, median, indicator, not 'zero'$"):
        KaggleHouse(missing=unknown)
    with pytest.raises(InputError, match=r"^missing mean has no effect: the features ames leave no number"):
        KaggleHouse(features="ames", missing="mean")


def test_every_indicator_counts_its_category(bundled: KaggleHouse, numeric: Lines) -> None:
    rows = [*csv.DictReader(head("train", 1460)), *csv.DictReader(head("test", 1459))]
    columns = [column for column in head("test")[0].split(",")[1:] if column not in numeric]
    counts = Counter(f"{c}_{'nan' if row[c] == 'NA' else row[c]}" for row in rows for c in columns)
    indicators = bundled.features()[:, len(numeric) :]
    assert set(indicators.unique().tolist()) == {0.0, 1.0}
    sums = dict(zip(bundled.feature_names[len(numeric) :], indicators.sum(dim=0).tolist(), strict=True))
    assert sums == {name: counts[name] for name in sums}
    assert set(counts) <= set(sums)
    # "None" is a category, kept apart from missing.
    assert (sums["MasVnrType_None"], sums["MasVnrType_nan"]) == (1742, 24)


def test_prices_and_ids_are_those_of_the_files(bundled: KaggleHouse) -> None:
    assert bundled.num_train == 1460
    prices = [float(row["SalePrice"]) for row in csv.DictReader(head("train", 1460))]
    assert bundled.prices.dtype == torch.float32
    assert bundled.prices.tolist() == prices
    assert bundled.test_ids == [row["Id"] for row in csv.DictReader(head("test", 1459))]


@pytest.mark.parametrize("style", STYLES)
def test_own_copies_of_the_files_give_the_same_bits(tmp_path: Path, bundled: KaggleHouse, style: str) -> None:
    own = ready(write(tmp_path, unpacked("train"), unpacked("test"), style))
    assert own.feature_names == bundled.feature_names
    assert torch.equal(own.features(), bundled.features())
    assert torch.equal(own.prices, bundled.prices)
    assert own.test_ids == bundled.test_ids


def test_kaggles_names_come_before_the_books(tmp_path: Path) -> None:
    write(tmp_path, head("train", 9), head("test", 9), STYLES[1])
    assert ready(write(tmp_path)).num_train == 30


ACCEPTED: dict[str, Callable[[Lines], bytes]] = {
    "windows line ends": lambda lines: "\r\n".join([*lines, ""]).encode(),
    "old Mac line ends": lambda lines: "\r".join([*lines, ""]).encode(),
    "byte-order mark": lambda lines: as_bytes(lines).decode().encode("utf-8-sig"),
    "byte-order mark and windows line ends": lambda lines: "\r\n".join([*lines, ""]).encode("utf-8-sig"),
    "no line end at the end": lambda lines: "\n".join(lines).encode(),
    "blank lines": lambda lines: ("\n" + "\n\n".join(lines) + "\n\n\n").encode(),
    "everything quoted": lambda lines: as_bytes(
        [",".join(f'"{field}"' for field in line.split(",")) for line in lines]
    ),
    "columns in another order": lambda lines: as_bytes([",".join(line.split(",")[::-1]) for line in lines]),
    "missing as nothing": lambda lines: as_bytes(replace(lines, "NA", "")),
    "missing as nan": lambda lines: as_bytes(replace(lines, "NA", "nan")),
    "missing as N/A": lambda lines: as_bytes(replace(lines, "NA", "N/A")),
    "empty rows at the end, as spreadsheets write them": lambda lines: as_bytes(
        [*lines, "," * lines[0].count(","), " , ", ","]
    ),
    "empty columns at the end": lambda lines: as_bytes([line + ",,, " for line in lines]),
    "an empty column within": lambda lines: as_bytes([line.replace(",", ",,", 1) for line in lines]),
    "commas at the end of the header alone": lambda lines: as_bytes([lines[0] + ",,", *lines[1:]]),
    "commas at the end of the rows alone": lambda lines: as_bytes([lines[0], *(f"{x},," for x in lines[1:])]),
    "empty rows before the header": lambda lines: as_bytes([",,,", "", *lines]),
    "the separator in the first line": lambda lines: b"sep=,\r\n" + as_bytes(lines),
    "the separator in the first line, quoted": lambda lines: b'\xef\xbb\xbf"sep=,"\n' + as_bytes(lines),
    "the separator in the first line, saved again": lambda lines: as_bytes(["SEP=,,,,,,", *lines]),
    "spaces after commas": lambda lines: as_bytes(
        [lines[0].replace(",", ", "), *(line.replace(",", ",  ") for line in lines[1:])]
    ),
    "spaces after commas, before quotes": lambda lines: as_bytes(
        [", ".join(f'"{field}"' for field in line.split(",")) for line in lines]
    ),
    "space around every value": lambda lines: as_bytes(
        [",".join(f"\t{field}\u00a0 " for field in line.split(",")) for line in lines]
    ),
    "ids with a point": lambda lines: as_bytes(
        [lines[0], *(re.sub(r"^(\d+),", r"\1.0,", line) for line in lines[1:])]
    ),
    "numbers with a point": lambda lines: as_bytes(edit(lines, 2, LotArea="8450.0", YrSold="2.008e3")),
}


@pytest.mark.parametrize("written", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_other_formats_of_a_file_change_nothing(tmp_path: Path, written: Callable[[Lines], bytes]) -> None:
    train, test = edit(head("train"), 2, LotArea="8450"), edit(head("test"), 2, LotArea="8450", YrSold="2008")
    plain = ready(write(tmp_path / "plain", train, test))
    own = ready(write(tmp_path / "own", written(train), written(test)))
    assert own.feature_names == plain.feature_names
    assert torch.equal(own.features(), plain.features())
    assert torch.equal(own.prices, plain.prices)
    assert own.test_ids == plain.test_ids


def test_a_category_never_seen_in_training_gets_an_indicator(tmp_path: Path) -> None:
    category = 'New, "Venice"\nßeach'
    header, fields = (line.split(",") for line in head("test")[:2])
    fields[header.index("Neighborhood")] = '"' + category.replace('"', '""') + '"'
    own = ready(write(tmp_path, test=[head("test")[0], ",".join(fields), *head("test")[2:]]))
    indicator = own.features()[:, own.feature_names.index(f"Neighborhood_{category}")]
    assert indicator.nonzero().tolist() == [[30]]


def test_the_books_files_agree(bundled: KaggleHouse) -> None:
    assert bundled.warnings() == []


@pytest.mark.parametrize(
    "change", [str.lower, lambda value: {"Pave": "TRUE", "Grvl": "FALSE"}[value]], ids=["case", "words"]
)
def test_categories_of_the_test_rows_alone_are_warnings(tmp_path: Path, change: Callable[[str], str]) -> None:
    rows = [line.split(",") for line in head("test", 1459)]
    place = rows[0].index("Street")
    for row in rows[1:]:
        row[place] = change(row[place])
    changed = [row[place] for row in rows[1:]]
    houses = ready(write(tmp_path, head("train", 1460), [",".join(row) for row in rows]))
    warnings = houses.warnings()
    assert len(warnings) == 2
    what = "have a category that no training row has in the column Street: "
    assert warnings[0].startswith(f"100.0% of the test rows {what}{changed[0]!r} (")
    for value in set(changed):
        assert f"{value!r} ({changed.count(value) / len(changed):.1%})" in warnings[0]
    assert len(houses.feature_names) == 331 + len(set(changed))
    number = len(set(changed))
    assert warnings[1] == f"Only test rows have {number} of the {331 + number} features."


def test_columns_of_the_test_rows_out_of_range_are_warnings(tmp_path: Path) -> None:
    train = set_column(set_column(head("train"), "LotArea", ["7000"] * 30), "Alley", ["Pave"] * 30)
    test = set_column(set_column(head("test"), "LotArea", ["650"] * 30), "Alley", ["NA"] * 30)
    test = set_column(test, "MSZoning", ["RL", "\x1b[2J"] * 15)
    few = set_column(train, "LotArea", [str(7000 + i) for i in range(30)])
    warnings = ready(write(tmp_path, few, test)).warnings()
    for column in ("LotArea", "Alley"):
        lies = "100.0% of the test rows lie outside what the training rows have in the column"
        assert f"{lies} {column}." in warnings
    assert any("MSZoning: '\\x1b[2J' (50.0%)" in warning for warning in warnings)


def test_only_the_worst_columns_are_warnings(tmp_path: Path) -> None:
    columns = "Street Alley LotShape LandContour Utilities LotConfig LandSlope Condition1 Condition2 BldgType"
    columns += " HouseStyle RoofStyle RoofMatl Heating"
    test = edit(head("test", 1459), 2, **dict.fromkeys(columns.split(), "new"))
    test = edit(test, 3, Heating="newer")
    *worst, rest, number = ready(write(tmp_path, head("train", 1460), test)).warnings()
    assert len(worst) == 12
    assert any(text.endswith("in the column Heating: 'new' (0.1%), 'newer' (0.1%).") for text in worst)
    assert rest == "The same holds for 2 more columns."
    assert number == "Only test rows have 15 of the 346 features."


# --- Statistics: of all rows, or of those trained on.


def standardised(rows: list[dict[str, str]], column: str, known: list[int]) -> list[float]:
    """Eq. 4.10.1 in plain Python: missing values and columns that do not vary become 0."""
    values = [None if row[column] == "NA" else float(row[column]) for row in rows]
    some = [value for row in known if (value := values[row]) is not None]
    if len(set(some)) < 2:
        return [0.0] * len(rows)
    mean = math.fsum(some) / len(some)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in some) / (len(some) - 1))
    return [0.0 if value is None else (value - mean) / std for value in values]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KaggleHouse]:
    folder = write(tmp_path_factory.mktemp("small"))
    return {"all": ready(folder, "all"), "train": ready(folder, "train")}


@settings(deadline=None, max_examples=25)
@given(st.sets(st.integers(0, 29), min_size=1))
def test_statistics_are_those_of_the_rows_trained_on(
    small: dict[str, KaggleHouse], numeric: Lines, chosen: set[int]
) -> None:
    known = sorted(chosen)
    rows = [*csv.DictReader(head("train")), *csv.DictReader(head("test"))]
    features = small["train"].features(torch.tensor(known))
    for place, column in enumerate(numeric):
        expected = torch.tensor(standardised(rows, column, known))
        torch.testing.assert_close(features[:, place], expected, rtol=1e-5, atol=1e-6)
    assert features[known].mean(dim=0)[: len(numeric)].abs().max() < 1e-5


@pytest.mark.parametrize(("statistics", "known"), [("all", range(60)), ("train", range(30))])
def test_statistics_without_rows_given(
    small: dict[str, KaggleHouse], numeric: Lines, statistics: str, known: range
) -> None:
    rows = [*csv.DictReader(head("train")), *csv.DictReader(head("test"))]
    features = small[statistics].features()
    for place, column in enumerate(numeric):
        expected = torch.tensor(standardised(rows, column, list(known)))
        torch.testing.assert_close(features[:, place], expected, rtol=1e-5, atol=1e-6)


def test_statistics_all_ignore_the_given_rows(small: dict[str, KaggleHouse]) -> None:
    assert torch.equal(small["all"].features(torch.arange(5)), small["all"].features())


@pytest.mark.parametrize("held_out", [("train", 7), ("test", 3)], ids=["validation row", "test row"])
def test_nothing_leaks_from_a_row_that_is_held_out(
    tmp_path: Path, small: dict[str, KaggleHouse], numeric: Lines, held_out: tuple[Name, int]
) -> None:
    name, row = held_out
    changed = edit(head(name), row + 2, **dict.fromkeys(numeric, "12345"))
    folder = write(tmp_path, **{name: changed})
    row += 30 * (name == "test")
    known = torch.tensor([place for place in range(30) if place != 7])
    others = torch.arange(60) != row
    for statistics, before in small.items():
        after = ready(folder, before.statistics)
        assert after.feature_names == before.feature_names
        old, new = before.features(known), after.features(known)
        assert not torch.equal(new[row], old[row])
        same = (new[others] == old[others]).all(dim=0)
        if statistics == "train":
            assert same.all()
        else:
            varies = old[:, : len(numeric)].std(dim=0) > 0
            assert not same[: len(numeric)][varies].any()


def test_folds_have_their_own_features_only_with_statistics_train(small: dict[str, KaggleHouse]) -> None:
    train_rows, _ = k_fold(30, 3)
    X, y = small["train"].stacked_features(train_rows)
    assert (X.shape[:2], y.shape) == ((3, 30), (3, 30))
    for member, prices, rows in zip(X, y, train_rows, strict=True):
        assert torch.equal(member, small["train"].features(rows)[:30])
        assert torch.equal(prices, small["train"].prices)
    assert not torch.equal(X[0], X[1])
    X, y = small["all"].stacked_features(train_rows)
    assert torch.equal(X, small["all"].features()[:30])
    assert torch.equal(y, small["all"].prices)


@pytest.mark.parametrize("statistics", ["all", "train"])
@pytest.mark.parametrize("value", ["NA", "0", "0.1", "-1e15", "123456.7"])
def test_a_column_that_does_not_vary_becomes_zeros(
    tmp_path: Path, statistics: Literal["all", "train"], value: str
) -> None:
    """The mean of thirty times 0.1 is not 0.1, and the standard deviation is not 0: it must not be used."""
    columns = [set_column(head(name), "GarageArea", [value] * 30) for name in NAMES]
    own = ready(write(tmp_path, *columns), statistics)
    features = own.features(torch.arange(25))
    assert features.isfinite().all()
    assert not features[:, own.feature_names.index("GarageArea")].any()


@pytest.mark.parametrize("first", ["NA", "0.1", "1e-30"])
def test_a_column_that_varies_only_in_rows_held_out_becomes_zeros(tmp_path: Path, first: str) -> None:
    """A standard deviation from 1e-30 and zeros would make a large number infinite as float32."""
    rest = "0" if first == "1e-30" else first
    train = set_column(head("train"), "GarageArea", [first] + [rest] * 24 + ["1e15"] * 5)
    own = ready(write(tmp_path, train), "train")
    features = own.features(torch.arange(25))
    assert features.isfinite().all()
    assert not features[:, own.feature_names.index("GarageArea")].any()


def test_one_row_to_train_on_gives_finite_features(small: dict[str, KaggleHouse], numeric: Lines) -> None:
    features = small["train"].features(torch.tensor([4]))
    assert features.isfinite().all()
    assert not features[:, : len(numeric)].any()


def test_a_column_of_categories_may_have_only_missing_values(tmp_path: Path) -> None:
    files = [set_column(head(name), "Alley", ["NA"] * 30) for name in NAMES]
    own = ready(write(tmp_path, *files))
    assert [name for name in own.feature_names if name.startswith("Alley")] == ["Alley_nan"]
    assert own.features()[:, own.feature_names.index("Alley_nan")].all()


@pytest.mark.parametrize("statistics", ["median", "ALL", ""])
def test_unknown_statistics_are_an_error(statistics: Any) -> None:
    with pytest.raises(InputError, match=f"^statistics must be one of all, train, not '{statistics}'$"):
        KaggleHouse(statistics=statistics)


@pytest.mark.parametrize("batch_size", [0, -64])
def test_a_batch_size_that_is_not_positive_is_an_error(batch_size: int) -> None:
    with pytest.raises(InputError, match=f"^batch_size must be positive, not {batch_size}$"):
        KaggleHouse(batch_size=batch_size)


# --- Bad files: one line names the file and the line, and says what to do.

WRONG: dict[str, tuple[Name, Callable[[Lines], Lines | str | bytes], str]] = {
    "empty": ("train", lambda lines: "", " is empty"),
    "a byte-order mark and blank lines": ("test", lambda lines: b"\xef\xbb\xbf\n\r\n\n", " is empty"),
    "cut within a row": (
        "train",
        lambda lines: as_bytes(lines)[:-100],
        ", line 31: 50 fields where the header has 81; is the file complete, and separated by commas?",
    ),
    "cut within the header": (
        "test",
        lambda lines: lines[0][:200],
        " lacks the column YearRemodAdd (and 59 more)",
    ),
    "a row too long": (
        "test",
        lambda lines: [*lines, lines[-1] + ",1"],
        ", line 32: 81 fields where the header",
    ),
    "a picture": (
        "train",
        lambda lines: b"\x89PNG\r\n\x1a\n\x00\x00",
        ", line 1: not text in UTF-8; save the",
    ),
    "windows-1252": (
        "test",
        lambda lines: as_bytes(edit(lines, 9, Neighborhood="Café")).decode().encode("cp1252"),
        ", line 9: not text in UTF-8; save the file as CSV, UTF-8",
    ),
    "windows-1252 after a byte-order mark": (
        "test",
        lambda lines: b"\xef\xbb\xbf" + b"\n".join(line.encode() for line in lines) + b"\n\xe9",
        ", line 32: not text in UTF-8",
    ),
    "utf-16": (
        "train",
        lambda lines: as_bytes(lines).decode().encode("utf-16"),
        ", line 1: not text in UTF-8",
    ),
    "a web page": (
        "train",
        lambda lines: "<!DOCTYPE html>\n<html>\n<p>Sorry, log in</p>\n</html>\n",
        ", line 3: 2 fields where the header has 1; is the file complete, and separated by commas?",
    ),
    "semicolons": (
        "train",
        lambda lines: as_bytes(lines).replace(b",", b";"),
        " is separated by ';'; save it as CSV, separated by commas",
    ),
    "tabs": (
        "test",
        lambda lines: as_bytes(lines).replace(b",", b"\t"),
        " is separated by '\\t'; save it as CSV, separated by commas",
    ),
    "semicolons, as Excel declares them": (
        "train",
        lambda lines: b"sep=;\r\n" + as_bytes(lines).replace(b",", b";"),
        " is separated by ';'; save it as CSV, separated by commas",
    ),
    "only a line that declares commas": ("train", lambda lines: "sep=,\n", " is empty"),
    "utf-16 without a byte-order mark": (
        "train",
        lambda lines: as_bytes(lines).decode().encode("utf-16-le"),
        ", line 1: not text in UTF-8; save the file as CSV, UTF-8",
    ),
    "names in lower case": (
        "test",
        lambda lines: [lines[0].lower(), *lines[1:]],
        " lacks the column Id (and 79 more) (its column 'id' differs only by case; rename it); it must have",
    ),
    "columns without a name": (
        "train",
        lambda lines: [f"{line},,{'' if i == 0 else 'a'}" for i, line in enumerate(lines)],
        " has an unknown column, ''; it must",
    ),
    "two columns without a name": (
        "train",
        lambda lines: [f"{line},{'' if i == 0 else 'a'}" * 2 for i, line in enumerate(lines)],
        " has the column ",
    ),
    "an Id doubled as a number with a point": (
        "test",
        lambda lines: edit(lines, 7, Id="1461.0"),
        ", line 7: Id '1461' is not unique; every row needs its own",
    ),
    "control characters in a column's name": (
        "train",
        lambda lines: append(lines, "Col\x1b[31mour\x07\u202e", "red"),
        " has an unknown column, 'Col\\x1b[31mour\\x07\\u202e'; it must",
    ),
    "control characters in a value": (
        "train",
        lambda lines: edit(lines, 4, LotArea="\x1b]0;title\x9b"),
        ", line 4: LotArea '\\x1b]0;title\\x9b' is not a number",
    ),
    "a quote that is not closed": (
        "test",
        lambda lines: edit(lines, 5, Street='"Pave'),
        ", line 5: not CSV (unexpected end of data); is a quote out of place?",
    ),
    "a quote that is closed too late": (
        "test",
        lambda lines: as_bytes(edit(lines, 5, Street='"Pave')) + b"x" * 200_000,
        ", line 5: not CSV (field larger than field limit (131072)); is a quote out of place?",
    ),
    "text after a quote": ("train", lambda lines: edit(lines, 4, Street='"Pa"ve'), ", line 4: not CSV ("),
    "no SalePrice": ("train", lambda lines: drop(lines, "SalePrice"), " lacks the column SalePrice; it must"),
    "no Id": (
        "test",
        lambda lines: drop(lines, "Id"),
        " lacks the column Id; it must have those of Kaggle's",
    ),
    "columns missing": (
        "test",
        lambda lines: drop(lines, "LotArea", "Alley", "YrSold"),
        " lacks the column LotArea (and 2 more); it must have those of Kaggle's file",
    ),
    "a column doubled": (
        "train",
        lambda lines: append(lines, "LotArea", "1"),
        " has the column 'LotArea' 2 times",
    ),
    "a column unknown": (
        "train",
        lambda lines: append(lines, "Colour", "red"),
        " has an unknown column, 'Colour'; it must have those of Kaggle's file",
    ),
    "prices in the test file": (
        "test",
        lambda lines: append(lines, "SalePrice", "1"),
        " has an unknown column, 'SalePrice'; it must",
    ),
    "the index that pandas writes": (
        "train",
        lambda lines: [f"{place - 1 if place else ''},{line}" for place, line in enumerate(lines)],
        " has an unknown column, ''; it must",
    ),
    "a line break in the header": (
        "test",
        lambda lines: append(lines, '"Lot\r\nColour"', "red"),
        " has an unknown column, 'Lot\\r\\nColour'; it must",
    ),
    "no rows to train on": ("train", lambda lines: lines[:1], " has a header but no rows"),
    "no rows to predict": ("test", lambda lines: lines[:1], " has a header but no rows"),
    "text for a number": (
        "train",
        lambda lines: edit(lines, 4, LotArea="big"),
        ", line 4: LotArea 'big' is not a number, or is too large; a missing number is NA",
    ),
    "text for a number in the test file": (
        "test",
        lambda lines: edit(lines, 31, YrSold="20 10"),
        ", line 31: YrSold '20 10' is not a number",
    ),
    "None for a number": (
        "train",
        lambda lines: edit(lines, 2, MasVnrArea="None"),
        ", line 2: MasVnrArea 'None' ",
    ),
    "thousands with a comma": (
        "test",
        lambda lines: edit(lines, 2, LotArea='"8,450"'),
        ", line 2: LotArea '8,450'",
    ),
    "an infinite number": (
        "train",
        lambda lines: edit(lines, 3, LotArea="-inf"),
        ", line 3: LotArea '-inf' is not a number",
    ),
    "too large a number": (
        "test",
        lambda lines: edit(lines, 3, LotArea="1.1e15"),
        ", line 3: LotArea '1.1e15' is",
    ),
    "a long text for a number": (
        "train",
        lambda lines: edit(lines, 4, LotArea="big" * 1000),
        ", line 4: LotArea 'bigbigbigbig...gbigbigbigbig' is not a number",
    ),
    "a negative price": (
        "train",
        lambda lines: edit(lines, 6, SalePrice="-208500"),
        ", line 6: SalePrice '-208500' is not a positive price",
    ),
    "a price of zero": (
        "train",
        lambda lines: edit(lines, 2, SalePrice="0"),
        ", line 2: SalePrice '0' is not a",
    ),
    "a price that rounds to zero": (
        "train",
        lambda lines: edit(lines, 2, SalePrice="1e-60"),
        ", line 2: SalePrice '1e-60' is not a positive price",
    ),
    "a price missing": (
        "train",
        lambda lines: edit(lines, 31, SalePrice="NA"),
        ", line 31: SalePrice is missing; every training row needs a price",
    ),
    "text for a price": (
        "train",
        lambda lines: edit(lines, 7, SalePrice="$1"),
        ", line 7: SalePrice '$1' is not a number",
    ),
    "an Id missing": (
        "test",
        lambda lines: edit(lines, 7, Id=""),
        ", line 7: Id is missing; every row needs one",
    ),
    "an Id doubled": (
        "test",
        lambda lines: edit(lines, 7, Id="1461"),
        ", line 7: Id '1461' is not unique; every row needs its own",
    ),
}


def error_of(data_dir: str) -> str:
    data = KaggleHouse(data_dir)
    with pytest.raises(InputError) as caught:
        data.setup()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 250 + len(data_dir)
    return message


@pytest.mark.parametrize(("name", "spoil", "expected"), WRONG.values(), ids=WRONG.keys())
def test_the_error_names_the_file_and_the_line(
    tmp_path: Path, name: Name, spoil: Callable[[Lines], Lines | str | bytes], expected: str
) -> None:
    folder = write(tmp_path, **{name: spoil(head(name))})
    assert error_of(folder).startswith(f"{tmp_path / f'{name}.csv'}{expected}")


LAYOUTS: dict[str, tuple[Callable[[Lines], bytes], int]] = {
    "as it is": (as_bytes, 6),
    "windows line ends": (lambda lines: "\r\n".join(lines).encode(), 6),
    "old Mac line ends": (lambda lines: "\r".join(lines).encode(), 6),
    "byte-order mark": (lambda lines: as_bytes(lines).decode().encode("utf-8-sig"), 6),
    "blank lines": (lambda lines: "\n".join(["", "", *lines[:3], "", *lines[3:]]).encode(), 9),
    "line breaks in a field above": (lambda lines: as_bytes(edit(lines, 3, Street='"a\nb\n\nc"')), 9),
    "windows line breaks in a field above": (
        lambda lines: "\r\n".join(edit(lines, 3, Street='"a\r\nb\r\n\r\nc"')).encode(),
        9,
    ),
    "line breaks in the row itself": (lambda lines: as_bytes(edit(lines, 6, Street='"a\nb"')), 6),
    "line breaks in the header": (lambda lines: as_bytes(append(lines, '"Lot\nColour"', "red")), 7),
}


@pytest.mark.parametrize(("layout", "line"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_lines_are_counted_as_in_an_editor(
    tmp_path: Path, layout: Callable[[Lines], bytes], line: int
) -> None:
    file = tmp_path / "file.csv"
    file.write_bytes(layout(edit(head("train"), 6, LotArea="big")))
    table = read_table(file)
    assert table.index[table["LotArea"] == "big"].tolist() == [line]
    assert table.index.name == str(file)
    file.write_bytes(layout(edit(head("train"), 6, LotArea="8,450")))
    with pytest.raises(
        InputError, match=rf"file\.csv, line {line}: 8[23] fields where the header has 8[12];"
    ):
        read_table(file)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    assert error_of(str(tmp_path / "gone")) == (
        f"cannot read the folder {tmp_path / 'gone'}: No such file or directory"
    )


def test_a_file_instead_of_the_folder_is_an_error(tmp_path: Path) -> None:
    write(tmp_path)
    folder = tmp_path / "train.csv"
    assert error_of(str(folder)) == f"cannot read the folder {folder}: Not a directory"


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_an_error(tmp_path: Path, name: Name) -> None:
    write(tmp_path)
    (tmp_path / f"{name}.csv").unlink()
    other = "test" if name == "train" else "train"
    expected = f"there is no {name}.csv or kaggle_house_pred_{name}.csv in {tmp_path}; it holds '{other}.csv'"
    assert error_of(str(tmp_path)) == expected


def test_a_folder_instead_of_a_file_is_an_error(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "test.csv").unlink()
    (tmp_path / "test.csv").mkdir()
    assert error_of(str(tmp_path)) == f"cannot read {tmp_path / 'test.csv'}: Is a directory"


def test_setup_works_after_the_file_was_corrected(tmp_path: Path) -> None:
    data = KaggleHouse(write(tmp_path, test=""))
    with pytest.raises(InputError, match="is empty"):
        data.setup()
    write(tmp_path)
    data.setup()
    assert torch.equal(data.features(), ready(str(tmp_path)).features())


def check_usable_or_error(folder: str, name: Name) -> None:
    """Check that features are finite and prices positive, or that an error of one line names the file."""
    data = KaggleHouse(folder, "train")
    message = None
    try:
        data.setup()
    except InputError as error:
        message = str(error)
    if message is not None:
        assert str(Path(folder) / f"{name}.csv") in message
        assert len(message.splitlines()) == 1
        return
    for features in (data.features(), data.features(torch.tensor([0]))):
        assert features.isfinite().all()
    data.statistics = "all"
    assert data.features().isfinite().all()
    assert data.features().shape == (data.num_train + len(data.test_ids), len(data.feature_names))
    assert data.prices.isfinite().all()
    assert (data.prices > 0).all()


MUTATION = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 1), st.just(b"")),
    st.tuples(
        st.sampled_from(["insert", "replace"]),
        st.floats(0, 1),
        st.one_of(
            st.binary(min_size=1, max_size=4),
            st.sampled_from([b'"', b",", b"\n", b"\r", b"\x00", b"-", b"e9", b"NA", b'""', b"\xef\xbb\xbf"]),
        ),
    ),
    st.tuples(st.just("delete"), st.floats(0, 1), st.binary(min_size=1, max_size=40)),
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(NAMES), mutations=st.lists(MUTATION, min_size=1, max_size=3))
def test_a_damaged_file_works_or_is_an_error(
    tmp_path: Path, name: Name, mutations: list[tuple[str, float, bytes]]
) -> None:
    damaged = as_bytes(head(name, 4))
    for kind, where, text in mutations:
        place = int(where * len(damaged))
        rest = {
            "cut": len(damaged),
            "insert": place,
            "replace": place + len(text),
            "delete": place + len(text),
        }
        damaged = damaged[:place] + (text if kind != "delete" else b"") + damaged[rest[kind] :]
    check_usable_or_error(write(tmp_path, **{name: damaged}), name)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(NAMES),
    column=st.sampled_from(["Id", "LotArea", "Street", "SalePrice"]),
    value=st.one_of(st.text(), st.floats().map(str), st.integers().map(str)),
)
def test_any_value_works_or_is_an_error(tmp_path: Path, name: Name, column: str, value: str) -> None:
    column = "Id" if (name, column) == ("test", "SalePrice") else column
    header, *rows = [*csv.reader(head(name, 4))]
    rows[1][header.index(column)] = value
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    check_usable_or_error(write(tmp_path, **{name: text.getvalue()}), name)


# --- Loaders.


def test_a_second_setup_reads_nothing(tmp_path: Path) -> None:
    data = KaggleHouse(write(tmp_path))
    data.prepare_data()
    data.setup("fit")
    features, prices, ids = data.features(), data.prices, data.test_ids
    for name in NAMES:
        (tmp_path / f"{name}.csv").unlink()
    data.setup("predict")
    data.setup()
    assert torch.equal(data.features(), features)
    assert data.prices is prices
    assert data.test_ids is ids


def rows_of(data: KaggleHouse, epoch: int = 0) -> list[Lines]:
    """The rows of each training batch, recognised by their features."""
    names = {tuple(x): str(place) for place, x in enumerate(data.features()[: data.num_train].tolist())}
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [[names[tuple(x)] for x in X.tolist()] for X, _ in loader]


def test_training_batches_have_every_row_once(small: dict[str, KaggleHouse]) -> None:
    data = copy.copy(small["all"])
    data.batch_size = 8
    assert [len(rows) for rows in rows_of(data)] == [8, 8, 8, 6]
    assert sorted(int(row) for rows in rows_of(data) for row in rows) == list(range(30))
    assert len(data.train_dataloader()) == 4
    loader = data.train_dataloader()
    loader.sampler.set_epoch(0)
    batches = list(loader)
    assert {(X.shape[1:], X.dtype, y.dtype) for X, y in batches} == {
        ((len(data.feature_names),), torch.float32, torch.float32)
    }
    features = data.features()
    for (X, y), rows in zip(batches, ShuffledBatches(30, 8, seed=0), strict=True):
        assert torch.equal(X, features[rows])
        assert torch.equal(y, data.prices[rows])


def test_the_order_of_training_rows_changes_with_seed_and_epoch(small: dict[str, KaggleHouse]) -> None:
    orders = []
    for seed in range(3):
        data = copy.copy(small["all"])
        data.seed = seed
        orders += [rows_of(data, epoch) for epoch in range(3)]
        assert rows_of(data, epoch=0) == orders[-3]
    assert all(orders.count(order) == 1 for order in orders)


def test_validation_evaluates_all_training_rows_as_stage_train(small: dict[str, KaggleHouse]) -> None:
    data = small["train"]
    [(X, y, weight)] = data.val_dataloader()
    assert torch.equal(X, data.features()[:30])
    assert torch.equal(y, data.prices)
    assert list(weight) == ["train"]
    assert weight["train"].tolist() == [1.0] * 30


def test_prediction_uses_the_test_rows_in_order(bundled: KaggleHouse) -> None:
    [X] = bundled.predict_dataloader()
    assert X.shape == (1459, 331)
    assert torch.equal(X, bundled.features()[1460:])


class Watch(Callback):
    """Keeps the prices of every training batch."""

    def __init__(self) -> None:
        self.prices: list[Tensor] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.prices.append(batch[1])


def plain_trainer(epochs: int, *callbacks: Callback) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning", "ignore:.*many workers", "ignore:.*logging interval"
)
def test_works_in_a_plain_trainer(tmp_path: Path) -> None:
    folder = write(tmp_path)
    data = KaggleHouse(folder, batch_size=8, seed=5)  # the Trainer sets it up
    model = PriceRegressor(len(ready(folder).feature_names), log_price=True, lr=0.1)
    watch = Watch()
    trainer = plain_trainer(2, watch)
    trainer.fit(model, data)
    assert set(model.evaluated) == {"train/log_rmse"}
    order = ShuffledBatches(30, 8, seed=5)
    expected = []
    for epoch in range(2):
        order.set_epoch(epoch)
        expected += [data.prices[rows] for rows in order]
    assert all(torch.equal(seen, drawn) for seen, drawn in zip(watch.prices, expected, strict=True))

    predicted = trainer.predict(model, data)
    assert predicted is not None
    table = data.submission(torch.cat([prices for prices in predicted if isinstance(prices, Tensor)]))
    assert table.shape == (30, 2)
    assert (table["SalePrice"] > 1).all()


@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning", "ignore:.*many workers", "ignore:.*logging interval"
)
@pytest.mark.parametrize("statistics", ["all", "train"])
def test_stacked_batches_have_the_features_of_each_fold(
    small: dict[str, KaggleHouse], statistics: str
) -> None:
    data = small[statistics]
    train_rows, val_rows = k_fold(30, 3)
    X, y = data.stacked_features(train_rows)
    stacked = StackedData(X, y, {"train": train_rows, "val": val_rows}, batch_size=8, seed=0)
    taken = list(stacked.batches)
    stacked.batches.set_epoch(0)
    for (batch_X, batch_y, _), (rows, _) in zip(stacked.train_dataloader(), taken, strict=True):
        for fold in range(3):
            assert torch.equal(batch_X[fold], data.features(train_rows[fold])[rows[fold]])
            assert torch.equal(batch_y[fold], data.prices[rows[fold]])


# --- The submission.


def test_submission_is_kaggles_table(tmp_path: Path) -> None:
    test = [head("test")[0], *reversed(head("test", 3)[1:])]
    data = ready(write(tmp_path, test=edit(test, 4, Id="007")))
    table = data.submission(torch.tensor([208500.0, 0.25, -3.0]))
    assert table.to_csv(index=False, lineterminator="\n") == (
        "Id,SalePrice\n1463,208500.0\n1462,1.0\n007,1.0\n"
    )


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=30, max_size=30))
def test_submission_is_finite_and_positive(small: dict[str, KaggleHouse], prices: list[float]) -> None:
    table = small["all"].submission(torch.tensor(prices))
    header, *rows = csv.reader(table.to_csv(index=False).splitlines())
    assert header == ["Id", "SalePrice"]
    assert [int(row[0]) for row in rows] == list(range(1461, 1491))
    assert [float(row[1]) for row in rows] == [max(price, 1.0) for price in prices]


@pytest.mark.parametrize("price", [math.nan, math.inf, -math.inf])
def test_a_price_that_is_not_finite_is_not_submitted(small: dict[str, KaggleHouse], price: float) -> None:
    prices = torch.full((30,), 1e5)
    prices[17] = price
    with pytest.raises(InputError, match=r"^a predicted price is not finite; a lower lr may help$"):
        small["all"].submission(prices)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        *[("1461", "1461"), ("1461.0", "1461"), ("1461.", "1461"), ("1.461e+03", "1461")],
        *[("1.4615e2", "1.4615e2"), ("0012", "0012"), ("a1.0", "a1.0"), ("1e999", "1e999"), ("", "")],
    ],
)
def test_an_id_that_a_program_took_for_a_number_is_whole_again(text: str, whole: str) -> None:
    assert kaggle_house._whole_number(text) == whole
