"""The encoder of a table: what it is fitted to, what becomes of new rows, and what a checkpoint keeps."""

import io
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from d2l_lightning.data.tables.encoder import Missing, TableEncoder
from d2l_lightning.data.tables.features import Columns, UnscaledColumns
from d2l_lightning.data.tables.schema import find_kinds
from d2l_lightning.errors import InputError
from tests.tools.tables import KINDS, make_table


def table(**columns: list[str | None]) -> pd.DataFrame:
    return pd.DataFrame(columns, dtype=object)


def loaded(encoder: TableEncoder) -> TableEncoder:
    """The encoder after a checkpoint that holds plain values and tensors alone."""
    file = io.BytesIO()
    torch.save(encoder.state(), file)
    file.seek(0)
    return TableEncoder.from_state(torch.load(file, weights_only=True))


KNOWN = table(
    size=["1", None, "3"],
    new=["yes", "No", "yes"],
    sold=["2010-01-31", "2011-01-01", None],
    town=["b", "a", "b"],
    heating=["gas", None, "oil"],
)
HALF = 0.5**0.5


def test_the_features_of_a_table_by_hand() -> None:
    encoder = TableEncoder(Columns(find_kinds(KNOWN)))
    X = encoder.fit_transform(KNOWN)
    assert encoder.feature_names == [
        *("size", "new", "sold_year", "sold_month", "sold_day", "size_nan", "sold_year_nan"),
        *("town_a", "town_b", "heating_gas", "heating_oil", "heating_nan"),
    ]
    expected = [
        [-HALF, 3**-0.5, -HALF, 0, HALF, 0, 0, 0, 1, 1, 0, 0],
        [0, -2 * 3**-0.5, HALF, 0, -HALF, 1, 0, 1, 0, 0, 0, 1],
        [HALF, 3**-0.5, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0],
    ]
    torch.testing.assert_close(X, torch.tensor(expected))
    assert torch.equal(encoder.transform(KNOWN), X)
    assert torch.equal(TableEncoder(Columns(find_kinds(KNOWN))).fit(KNOWN).transform(KNOWN), X)


@pytest.mark.parametrize("always", [False, True])
def test_a_category_that_is_new_counts_as_missing_only_if_some_were_missing(always: bool) -> None:
    kinds = {"town": "category", "heating": "category"}
    encoder = TableEncoder(Columns(kinds), always_missing=always).fit(KNOWN)
    new = table(town=["c", "a", None], heating=["wood", "wood", None])
    features = dict(zip(encoder.feature_names, encoder.transform(new).T.tolist(), strict=True))
    assert (features["town_a"], features["town_b"]) == ([0, 1, 0], [0, 0, 0])
    assert features["heating_nan"] == [1, 1, 1]
    assert features.get("town_nan") == ([0, 0, 1] if always else None)
    assert encoder.unseen(new) == {"town": 1, "heating": 2}
    assert encoder.unseen(KNOWN) == {}


SIZES = table(size=["1", "2", None, "12"], town=["a", "a", "b", "b"])
KINDS_OF_SIZES = {"size": "number", "town": "category"}


@pytest.mark.parametrize(("method", "size"), [("mean", 5.0), ("median", 2.0), ("indicator", 5.0)])
def test_what_a_missing_number_becomes(method: Missing, size: float) -> None:
    """The known rows are the first three and a row of 12: mean 5, median 2."""
    for features, mean, deviation in ((Columns, 5.0, 37**0.5), (UnscaledColumns, 0.0, 1.0)):
        encoder = TableEncoder(features(KINDS_OF_SIZES), missing_numbers=method)
        X = encoder.fit_transform(SIZES)
        expected = (torch.tensor([1.0, 2.0, size, 12.0]) - mean) / deviation
        torch.testing.assert_close(X[:, 0], expected)
        assert ("size_nan" in encoder.feature_names) == (method == "indicator")
        if method == "indicator":
            assert X[:, 1].tolist() == [0, 0, 1, 0]
        assert torch.equal(loaded(encoder).transform(SIZES), X)


def test_the_median_is_that_of_the_given_rows() -> None:
    encoder = TableEncoder(UnscaledColumns(KINDS_OF_SIZES), missing_numbers="median")
    assert encoder.fit_transform(SIZES, torch.tensor([0, 2]))[:, 0].tolist() == [1, 2, 1, 12]


def test_states_of_earlier_versions_can_be_read_and_new_settings_have_a_newer_format() -> None:
    earlier = TableEncoder(Columns(KINDS_OF_SIZES), always_missing=True).fit(SIZES)
    assert "fill" not in earlier.state()
    assert earlier.state()["format"] == 1
    median = TableEncoder(Columns(KINDS_OF_SIZES), missing_numbers="median").fit(SIZES).state()
    assert median["format"] == 2
    assert median["fill"] == {"size": 2.0}


def test_an_unknown_method_for_missing_numbers_is_an_error() -> None:
    with pytest.raises(
        InputError, match=r"^missing_numbers must be one of mean, median, indicator, not 'zero'$"
    ):
        TableEncoder(Columns(KINDS_OF_SIZES), missing_numbers=cast(Any, "zero"))


def test_only_the_given_rows_decide_how_numbers_are_scaled() -> None:
    encoder = TableEncoder(Columns({"size": "number", "town": "category"}))
    sizes = table(size=["1", "3", "100"], town=["a", "b", "c"])
    X = encoder.fit_transform(sizes, torch.tensor([0, 1]))
    torch.testing.assert_close(X[:, 0], torch.tensor([-HALF, HALF, 98 / 2**0.5]))
    assert encoder.feature_names == ["size", "town_a", "town_b", "town_c"]


def test_columns_that_several_scalers_take_have_names_of_their_own() -> None:
    scalers = [("standard", None), ("robust", ["size"]), ("normal_quantile", None)]
    encoder = TableEncoder(Columns({"size": "number", "year": "number"}), scalers=scalers)
    X = encoder.fit_transform(table(size=["1", "2", "4"], year=["5", "5", "6"]))
    names = ["size", "year", "size_robust", "size_normal_quantile", "year_normal_quantile"]
    assert encoder.feature_names == names
    assert X.shape == (3, 5)
    assert torch.equal(loaded(encoder).transform(table(size=["1"], year=["5"])), X[:1])


def test_rows_with_equal_labels_are_different_rows() -> None:
    encoder = TableEncoder(Columns(KINDS)).fit(make_table(50))
    rows = make_table(20)
    assert torch.equal(encoder.transform(rows.set_axis([7] * 20)), encoder.transform(rows))


def test_a_table_without_columns_to_learn_from_is_an_error() -> None:
    with pytest.raises(InputError, match=r"^the table has no column to learn from$"):
        TableEncoder(Columns({})).fit(KNOWN)


def test_a_state_of_a_newer_version_is_an_error() -> None:
    state = TableEncoder(Columns(KINDS)).fit(make_table(9)).state()
    for newer in ({"format": 99}, {"features": "splines"}):
        with pytest.raises(InputError, match=r"was saved by a newer version of d2l_lightning; update"):
            TableEncoder.from_state({**state, **newer})


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4)
VALUES = {
    "number": st.floats(-1e15, 1e15).map(str),
    "boolean": st.sampled_from(["yes", "No", "TRUE", "f"]),
    "date %d.%m.%Y": st.dates().map(lambda day: f"{day:%d}.{day:%m}.{day.year:04}"),
    "category": TEXT,
}


def column(kind: str, n: int) -> st.SearchStrategy[list[str | None]]:
    return st.lists(st.none() | VALUES[kind], min_size=n, max_size=n)


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, str], pd.DataFrame, pd.DataFrame]:
    """A schema, and two tables that follow it."""
    kinds = draw(st.dictionaries(TEXT, st.sampled_from(sorted(VALUES)), min_size=1, max_size=4))
    known, new = (
        pd.DataFrame({name: pd.Series(draw(column(kind, n)), dtype=object) for name, kind in kinds.items()})
        for n in draw(st.tuples(st.integers(1, 8), st.integers(0, 8)))
    )
    return kinds, known, new


@settings(deadline=None, max_examples=40)
@given(tables(), st.booleans(), st.data())
def test_any_table_is_encoded_and_a_loaded_encoder_gives_the_same_bits(
    made: tuple[dict[str, str], pd.DataFrame, pd.DataFrame], always: bool, data: st.DataObject
) -> None:
    kinds, known, new = made
    rows = data.draw(st.none() | st.lists(st.integers(0, len(known) - 1), min_size=1).map(torch.tensor))
    encoder = TableEncoder(Columns(kinds), always_missing=always)
    assume(always or not known.isna().all().all())
    X = encoder.fit_transform(known, rows)
    assert X.shape == (len(known), len(encoder.feature_names))
    again = loaded(encoder)
    for values in (known, new):
        features = encoder.transform(values)
        assert features.isfinite().all()
        assert features.dtype == torch.float32
        assert torch.equal(again.transform(values), features)
        alone = [encoder.transform(values.iloc[[row]]) for row in range(len(values))]
        assert torch.equal(torch.cat([*alone, features[:0]]), features)
    assert torch.equal(encoder.transform(known), X)
    assert encoder.unseen(known) == {}
    # Each row has one indicator for each column of categories, unless its category is new.
    for name, kind in kinds.items():
        if kind == "category":
            known_here = set(known[name].dropna())
            new_here = [value is not None and value not in known_here for value in new[name]]
            assert encoder.unseen(new).get(name, 0) == sum(new_here)


def test_wide_tables_of_categories_have_one_indicator_in_each_row() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 30, (500, 3))
    texts = pd.DataFrame(codes, columns=["a", "b", "c"]).astype(str).astype(object)
    encoder = TableEncoder(Columns(dict.fromkeys(texts, "category")))
    X = encoder.fit_transform(texts)
    for name, column in texts.items():
        own = [i for i, feature in enumerate(encoder.feature_names) if feature.startswith(f"{name}_")]
        names = [encoder.feature_names[own[i]] for i in X[:, own].argmax(dim=1).tolist()]
        assert names == [f"{name}_{text}" for text in column]
        assert X[:, own].sum(dim=1).tolist() == [1] * 500
