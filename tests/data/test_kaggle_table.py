"""Any table with a label: its features, its ids, and errors of one line for what cannot be used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from d2l_lightning.data.batches import ShuffledBatches
from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.data.kaggle_table import KaggleTable
from d2l_lightning.data.tables.encoder import TableEncoder
from d2l_lightning.data.tables.features import Columns
from d2l_lightning.data.tables.reading import read_table
from d2l_lightning.ensemble.folds import k_fold, make_folds
from d2l_lightning.errors import InputError
from d2l_lightning.models.table_regressor import TableRegressor
from tests.conftest import lean_trainer
from tests.tools.tables import KINDS, make_table, write_tables

SETTINGS: dict[str, Any] = {"id": "id", "label": "rent", "ignore": ["note", "street"]}


def ready(folder: Path, **settings: Any) -> KaggleTable:
    data = KaggleTable(**{"train": folder / "train.csv", "test": folder / "test.csv", **SETTINGS, **settings})
    data.setup()
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(tmp_path_factory.mktemp("tables"))[0].parent


@pytest.mark.parametrize("statistics", ["all", "train"])
def test_a_table_is_encoded_by_its_schema(folder: Path, statistics: str) -> None:
    data = ready(folder, statistics=statistics)
    train, test = (read_table(folder / f"{name}.csv") for name in ("train", "test"))
    both = pd.concat([train, test], ignore_index=True)
    assert data.kinds == KINDS
    assert data.unused == ["id", "note", "street", "rent"]
    assert data.num_train == 60
    assert data.labels.tolist() == torch.tensor(train["rent"].astype(float).tolist()).tolist()
    assert (data.train_ids, data.test_ids) == (train["id"].tolist(), test["id"].tolist())
    pd.testing.assert_frame_equal(data.raw, both[list(KINDS)])
    encoder = TableEncoder(Columns(KINDS)).fit(train)
    assert data.feature_names == encoder.feature_names
    assert torch.equal(data.features(), encoder.transform(both))
    assert torch.equal(data.encoder.transform(test), data.features()[60:])


def test_each_member_has_the_encoder_of_its_rows(folder: Path) -> None:
    train_rows, _ = k_fold(60, 3)
    data = ready(folder, statistics="train")
    X, y = data.stacked_features(train_rows)
    assert (X.shape[:2], y.shape) == ((3, 60), (3, 60))
    for member, rows in zip(X, train_rows, strict=True):
        assert torch.equal(data.encoder_for(rows).transform(data.raw)[:60], member)
    assert not torch.equal(X[0], X[1])
    data = ready(folder)
    X, y = data.stacked_features(train_rows)
    assert (X.shape, y.shape) == ((60, len(data.feature_names)), (60,))
    assert data.encoder_for(train_rows[0]) is data.encoder


def test_the_loaders_and_the_submission(folder: Path) -> None:
    data = ready(folder, batch_size=16, seed=3)
    for (X, y), rows in zip(data.train_dataloader(), ShuffledBatches(60, 16, seed=3), strict=True):
        assert torch.equal(X, data.features()[rows])
        assert torch.equal(y, data.labels[rows])
    [(X, y, weight)] = data.val_dataloader()
    assert (len(X), len(y), weight["train"].tolist()) == (60, 60, [1.0] * 60)
    [X] = data.predict_dataloader()
    table = data.submission(torch.arange(20) - 3.5)
    assert list(table) == ["id", "rent"]
    assert table["id"].tolist() == read_table(folder / "test.csv")["id"].tolist()
    assert table["rent"].tolist() == [i - 3.5 for i in range(20)]
    with pytest.raises(InputError, match=r"^a predicted rent is not finite; a lower lr may help$"):
        data.submission(torch.full((20,), torch.nan))


@pytest.mark.filterwarnings("ignore:.*many workers", "ignore:.*logging interval")
def test_a_model_is_trained_on_the_table_and_predicts(folder: Path) -> None:
    data = ready(folder, metric="log_rmse", batch_size=16)
    torch.manual_seed(0)
    model = TableRegressor(len(data.feature_names), metric="log_rmse", standardize=True, lr=0.05)
    model.fit_target(data.labels)
    trainer = lean_trainer(max_epochs=30)
    trainer.fit(model, data)
    predicted = trainer.predict(model, data)
    assert predicted is not None
    rent = torch.tensor(make_table(80)["rent"][60:].astype(float).tolist())
    error = (torch.cat(predicted) / rent).log().square().mean().sqrt()
    assert error < 0.75 * rent.log().std()


def test_there_may_be_nothing_to_predict(folder: Path) -> None:
    data = ready(folder, test=None)
    assert data.test_ids == []
    assert len(data.features()) == len(data.raw) == 60
    assert data.warnings() == []


def test_rows_can_be_grouped_by_a_column_that_is_no_feature(folder: Path) -> None:
    data = ready(folder)
    streets = read_table(folder / "train.csv")["street"].tolist()
    assert data.groups("street") == streets
    _, val, _ = make_folds("group:street", 3, data.labels, groups=data.groups)
    assert len({(streets[row], fold) for fold, rows in enumerate(val) for row in rows}) == len(set(streets))
    with pytest.raises(
        InputError, match=r"lacks the column 'Street' of the groups \(its column 'street' differs"
    ):
        data.groups("Street")
    with pytest.raises(
        InputError, match=r"train\.csv, line \d+: area is missing; every training row needs its"
    ):
        data.groups("area")


def test_the_house_prices_are_such_a_table() -> None:
    houses = KaggleHouse()
    houses.setup()
    assert isinstance(houses, KaggleTable)
    assert houses.labels is houses.prices
    assert len(houses.groups("Neighborhood")) == 1460
    assert (houses.id, houses.label, houses.metric) == ("Id", "SalePrice", "log_rmse")


def test_notes_name_what_is_odd_about_the_files(tmp_path: Path) -> None:
    table = make_table(80)
    train, test = (
        table.iloc[:60].assign(fax=None),
        table.iloc[60:].drop(columns="rent").assign(fax="1", tax="2"),
    )
    train["built"] = "03.04.2010"
    test["built"] = "04.05.2010"
    test["town"] = "Dortmund"
    test["garden"], test["sold"] = "yes", train["sold"].dropna().iloc[0]
    train.to_csv(tmp_path / "train.csv", index=False)
    test.to_csv(tmp_path / "test.csv", index=False)
    data = ready(tmp_path)
    assert list(data.kinds) == list(KINDS)
    new = "have a category that no training row has in the column town: 'Dortmund' (100.0%)."
    assert data.warnings() == [
        f"{tmp_path / 'train.csv'} has no value in the column 'fax': left out.",
        "Day and month may be exchanged in the column built: 03.04.2010 is read as 2010-04-03.",
        f"{tmp_path / 'test.csv'} has columns that are not used: tax.",
        f"100.0% of the test rows {new}",
        "100.0% of the test rows lie outside what the training rows have in the column built.",
    ]
    assert data.warnings() == data.warnings()


Change = Callable[[pd.DataFrame], pd.DataFrame]
WRONG: dict[str, tuple[str, Change, dict[str, Any], str]] = {
    "no rows": ("train", lambda t: t[:0], {}, "train.csv has a header but no rows"),
    "nothing to predict": ("test", lambda t: t[:0], {}, "test.csv has a header but no rows"),
    "no label": (
        "train",
        lambda t: t.rename(columns={"rent": "Rent"}),
        {},
        "train.csv lacks the column 'rent', the label (its column 'Rent' differs only by case; rename it)",
    ),
    "no id": ("test", lambda t: t.drop(columns="id"), {}, "test.csv lacks the column 'id', the id"),
    "an id doubled": (
        "train",
        lambda t: t.assign(id=["x", *t["id"][1:-1], "x"]),
        {},
        "train.csv, line 61: id 'x' is not unique; every row needs its own",
    ),
    "an id missing": (
        "test",
        lambda t: t.assign(id=[None, *t["id"][1:]]),
        {},
        "test.csv, line 2: id is missing",
    ),
    "a label missing": (
        "train",
        lambda t: t.assign(rent=[*t["rent"][:-1], None]),
        {},
        "train.csv, line 61: rent is missing; every training row needs its label",
    ),
    "text for a label": (
        "train",
        lambda t: t.assign(rent=["cheap", *t["rent"][1:]]),
        {},
        "train.csv, line 2: rent 'cheap' is not a number",
    ),
    "labels of one value": (
        "train",
        lambda t: t.assign(rent=["1", "1.0"] * 30),
        {},
        "train.csv: rent is 1 in all rows; it must vary",
    ),
    "a negative label for a metric of logarithms": (
        "train",
        lambda t: t.assign(rent=[*t["rent"][:-1], "-1"]),
        {"metric": "log_rmse"},
        "train.csv, line 61: rent '-1' is not positive, as the metric log_rmse needs it",
    ),
    "a column missing in the test file": (
        "test",
        lambda t: t.rename(columns={"area": "Area"}),
        {},
        "test.csv lacks the column 'area' (its column 'Area' differs only by case; rename it)",
    ),
    "another kind in the test file": (
        "test",
        lambda t: t.assign(built="Summer"),
        {},
        "test.csv, line 2: built 'Summer' is not a date such as 31.12.2010; a missing date is NA",
    ),
    "a number that is too large": (
        "train",
        lambda t: t.assign(area=["1e16", *t["area"][1:]]),
        {},
        "train.csv, line 2: area '1e16' is not a number, or is too large",
    ),
    "a column of names": (
        "train",
        lambda t: t,
        {"ignore": ["street"]},
        "train.csv: the column 'note' has 60 different texts in 60 rows, as names and addresses have; leave",
    ),
    "labels too close together": (
        "train",
        lambda t: t.assign(rent=[str(10**8 + i) for i in range(60)]),
        {},
        "train.csv: rent varies by 59 around 1e+08, too little for single precision; subtract",
    ),
    "an unknown label, with nothing to ignore": (
        "train",
        lambda t: t.drop(columns=["note", "street"]),
        {"label": "Rent", "ignore": []},
        "train.csv lacks the column 'Rent', the label (its column 'rent' differs only by case; rename it)",
    ),
    "an id that only one file has": (
        "test",
        lambda t: t.drop(columns="id"),
        {},
        "test.csv lacks the column 'id', the id",
    ),
    "an unknown column to ignore": (
        "train",
        lambda t: t,
        {"ignore": ["Note"]},
        "--ignore names the column 'Note', which no file has (its column 'note' differs only by case",
    ),
    "nothing to learn from": (
        "train",
        lambda t: t[["id", "rent", "note", "street"]],
        {},
        "train.csv has no column to learn from",
    ),
}


@pytest.mark.parametrize(("name", "change", "settings", "expected"), WRONG.values(), ids=WRONG.keys())
def test_the_error_names_the_file_and_what_is_wrong(
    tmp_path: Path, name: str, change: Change, settings: dict[str, Any], expected: str
) -> None:
    write_tables(tmp_path)
    file = tmp_path / f"{name}.csv"
    change(pd.read_csv(file, dtype=str)).to_csv(file, index=False)
    with pytest.raises(InputError) as caught:
        ready(tmp_path, **settings)
    message = str(caught.value)
    assert expected in message
    assert len(message.splitlines()) == 1
    assert message.startswith((str(file), "--ignore"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": "id"}, "the label and the id are the same column, 'id'"),
        ({"ignore": ["rent"]}, "the label 'rent' cannot be ignored"),
        ({"ignore": ["id"]}, "the id 'id' cannot be ignored"),
        *(
            ({what: name}, f"the {what} cannot be named {name!r}, as results are; rename the column")
            for what, name in [
                ("label", "prediction"),
                ("label", "fold_2"),
                ("label", "line"),
                ("id", "upper"),
            ]
        ),
        ({"metric": "r2"}, "metric must be one of rmse, log_rmse, mae, not 'r2'"),
        ({"features": "ames"}, "features must be one of columns, unscaled, scaled, not 'ames'"),
        ({"statistics": "none"}, "statistics must be one of all, train, not 'none'"),
        ({"batch_size": 0}, "batch_size must be positive, not 0"),
    ],
)
def test_settings_that_cannot_be_used_are_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        KaggleTable("train.csv", "test.csv", **{**SETTINGS, **settings})
    assert str(caught.value) == message
