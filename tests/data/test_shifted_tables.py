"""Two CSV files become features, and errors in them name file, line and column."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from d2l_lightning.data.shifted_tables import ShiftedTables
from d2l_lightning.errors import InputError

SOURCE = ["size,city,price", *(f"{i},{'Rome' if i % 3 else 'Oslo'},{100 + 2 * i}" for i in range(1, 9))]
TARGET = ["size,city", *(f"{i},{'Rome' if i % 2 else 'Lima'}" for i in range(6, 12))]


def tables(
    folder: Path, source: list[str] = SOURCE, target: list[str] = TARGET, **settings: Any
) -> ShiftedTables:
    for name, lines in (("source", source), ("target", target)):
        (folder / f"{name}.csv").write_text("".join(line + "\n" for line in lines))
    arguments = {"label": "price", **settings}
    data = ShiftedTables(str(folder / "source.csv"), str(folder / "target.csv"), **arguments)
    data.setup()
    return data


def edited(lines: list[str], number: int, text: str) -> list[str]:
    """Return lines with another one at a number, counted from 1."""
    return [*lines[: number - 1], text, *lines[number:]]


def test_features_are_standardised_numbers_and_indicators(tmp_path: Path) -> None:
    data = tables(tmp_path)
    assert data.feature_names == ["size", "city_Lima", "city_Oslo", "city_Rome"]
    assert data.num_source == 8
    sizes = [*range(1, 9), *range(6, 12)]
    scaled = StandardScaler().fit_transform(pd.DataFrame({"size": sizes}))[:, 0]
    # scikit-learn divides by n where this divides by n - 1.
    expected = torch.tensor(scaled * (13 / 14) ** 0.5).float()
    torch.testing.assert_close(data.X[:, 0], expected)
    assert data.X[:8, 1:].sum(dim=0).tolist() == [0, 2, 6]
    assert data.X[8:, 1:].sum(dim=0).tolist() == [3, 0, 3]
    mean, deviation = data.scale
    torch.testing.assert_close(data.y.double() * deviation + mean, torch.arange(102.0, 117, 2).double())
    assert data.lines == {"source": list(range(2, 10)), "target": list(range(2, 8))}
    assert data.outside == {"size": 0.5, "city": 0.5}


def test_missing_values_have_an_indicator(tmp_path: Path) -> None:
    source = edited(edited(SOURCE, 3, "NA,Rome,104"), 4, "3,,106")
    data = tables(tmp_path, source)
    assert data.feature_names == ["size", "size_nan", "city_Lima", "city_Oslo", "city_Rome", "city_nan"]
    assert data.X[:, 0][1] == 0
    assert data.X[:, 1].nonzero().flatten().tolist() == [1]
    assert data.X[:, 5].nonzero().flatten().tolist() == [2]


def test_labels_are_numbers_or_classes(tmp_path: Path) -> None:
    assert tables(tmp_path).classes == []
    as_classes = tables(tmp_path, task="classification")
    assert as_classes.classes == sorted(str(price) for price in range(102, 118, 2))
    assert [as_classes.classes[i] for i in as_classes.y.tolist()] == [str(p) for p in range(102, 118, 2)]
    by_city = tables(tmp_path, ["city,size", "Rome,1", "Oslo,2", "Rome,3"], ["size", "2", "4"], label="city")
    assert by_city.classes == ["Oslo", "Rome"]
    assert by_city.y.tolist() == [1, 0, 1]


def test_outputs_become_labels(tmp_path: Path) -> None:
    numbers = tables(tmp_path)
    assert numbers.decode(numbers.y).tolist() == pytest.approx(list(range(102, 118, 2)))  # type: ignore[union-attr]
    assert numbers.loss_unit == pytest.approx(torch.arange(102.0, 118, 2).var().item())
    classes = tables(tmp_path, ["city,size", "Rome,1", "Oslo,2", "Rome,3"], ["size", "2", "4"], label="city")
    assert classes.decode(torch.tensor([[0.1, 2.0], [3.0, -1.0]])) == ["Rome", "Oslo"]
    assert classes.loss_unit == 1
    with pytest.raises(InputError, match=r"predictions\[1\] must be a finite number"):
        numbers.decode(torch.tensor([0.0, torch.inf]))


def test_warnings_name_columns_with_new_values_and_small_classes(tmp_path: Path) -> None:
    assert tables(tmp_path).warnings(k=5) == [
        "50% of the target's rows lie outside what the source has in the column size.",
        "50% of the target's rows lie outside what the source has in the column city.",
    ]
    by_city = tables(tmp_path, ["city,size", "Rome,1", "Oslo,2", "Rome,3"], ["size", "2", "3"], label="city")
    (warning,) = by_city.warnings(k=2)
    assert "The class Oslo has 1 rows, fewer than the 2 folds" in warning


def test_control_characters_are_escaped_in_messages_and_warnings(tmp_path: Path) -> None:
    source = ["\x1b[2J,\x9bm", "0,\x07", "1,a", "2,a"]
    data = tables(tmp_path, source, ["\x1b[2J", "9"], label="\x9bm")
    outside, small, _ = data.warnings(k=5)
    assert outside.endswith("in the column \\x1b[2J.")
    assert small.startswith("The class \\x07 has 1 rows")
    with pytest.raises(InputError, match=r"line 4: \\x1b\[2J 'inf' is not a number"):
        tables(tmp_path, [*source[:3], "inf,a"], ["\x1b[2J", "9"], label="\x9bm")


def test_space_around_values_does_not_make_categories(tmp_path: Path) -> None:
    target = [line.replace(",", " ,  ") + " " for line in TARGET]
    assert tables(tmp_path, target=target).feature_names == tables(tmp_path).feature_names


def test_a_table_of_one_column_keeps_rows_without_a_value(tmp_path: Path) -> None:
    data = tables(tmp_path, ["size,price", "1,1", ",2", "3,3", ","], ["size", "2", '""', "3", ""])
    assert data.lines == {"source": [2, 3, 4], "target": [2, 3, 4]}
    assert data.feature_names == ["size", "size_nan"]


def test_ignored_columns_need_not_be_in_both(tmp_path: Path) -> None:
    source = [f"{'Id' if i == 0 else i},{line}" for i, line in enumerate(SOURCE)]
    assert tables(tmp_path, source, ignore=["Id"]).feature_names == tables(tmp_path).feature_names


def test_training_batches_have_weights_if_they_are_set(tmp_path: Path) -> None:
    data = tables(tmp_path, batch_size=3)
    assert [len(batch) for batch in data.train_dataloader()] == [2, 2, 2]
    data.weights = torch.arange(8.0).double()
    X, y, weight = (torch.cat(parts) for parts in zip(*data.train_dataloader(), strict=True))
    order = X[:, 0].argsort()
    assert weight[order].tolist() == list(range(8))
    assert torch.equal(y[order], data.y)
    (predicted,) = data.predict_dataloader()
    assert torch.equal(predicted, data.X[8:])


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "the source is separated by semicolons": (
        {"source": [line.replace(",", ";") for line in SOURCE]},
        "source.csv is separated by ';'; save it as CSV, separated by commas",
    ),
    "the target is separated by tabs": (
        {"target": [line.replace(",", "\t") for line in TARGET]},
        "target.csv is separated by '\\t'; save it as CSV, separated by commas",
    ),
    "UTF-16 without a byte-order mark": (
        {"target": ["\0".join([*line, ""]) for line in TARGET]},
        "target.csv, line 1: not text in UTF-8; save the file as CSV, UTF-8",
    ),
    "the label differs by case": (
        {"label": "Price"},
        "source.csv lacks the column 'Price', the label (its column 'price' differs only by case; rename it)",
    ),
    "an ignored column differs by case": (
        {"ignore": ["SIZE"]},
        "which neither file has (its column 'size' differs only by case; rename it)",
    ),
    "a column differs by case": (
        {"target": ["Size,city", "1,Rome"]},
        "target.csv lacks the column 'size' of",
    ),
    "control characters in names": (
        {
            "source": ["\x1b[2J,city,price", "a,Rome,1", "1,Rome,2"],
            "target": ["\x1b[2J,city", "1,\x07"],
            "task": "regression",
            "label": "\x1b[2J",
        },
        "target.csv has the column '\\x1b[2J', the label; take it out",
    ),
    "the target lacks a column": ({"target": ["size", "1"]}, "target.csv lacks the column 'city' of"),
    "the source lacks columns": (
        {"target": ["size,city,age,colour", "1,Rome,3,red"]},
        "source.csv lacks the column 'age' (and 1 more) of",
    ),
    "the label is in the target": (
        {"target": SOURCE},
        "target.csv has the column 'price', the label; take it out",
    ),
    "the source lacks the label": (
        {"label": "cost"},
        "source.csv lacks the column 'cost', the label",
    ),
    "the label is ignored": ({"ignore": ["price"]}, "the label 'price' cannot be ignored"),
    "an ignored column is in neither file": (
        {"ignore": ["Id"]},
        "--ignore names the column 'Id', which neither file has",
    ),
    "no feature is left": ({"ignore": ["size", "city"]}, "source.csv has no column to learn from"),
    "the source has no rows": ({"source": SOURCE[:1]}, "source.csv has a header but no rows"),
    "the target has no rows": ({"target": TARGET[:1]}, "target.csv has a header but no rows"),
    "the target is empty": ({"target": []}, "target.csv is empty"),
    "a label is missing": (
        {"source": edited(SOURCE, 4, "3,Oslo,NaN")},
        "source.csv, line 4: price is missing; every row of the source needs its label",
    ),
    "all labels are the same": (
        {"source": ["size,city,price", "1,Rome,5", "2,Rome,5"]},
        "source.csv: price is the same in all rows; it must vary",
    ),
    "all labels are the same number in two spellings": (
        {"source": ["size,city,price", "1,Rome,5", "2,Rome,5.0"]},
        "source.csv: price is 5 in all rows",
    ),
    "there are as many classes as rows": (
        {"source": ["size,city,price", *(f"{i},Rome,n{i}" for i in range(30))]},
        "source.csv: price has 30 classes in 30 rows; there must be several rows of each",
    ),
    "a label is not a number": (
        {"source": edited(SOURCE, 4, "3,Oslo,dear"), "task": "regression"},
        "source.csv, line 4: price 'dear' is not a number",
    ),
    "a label is infinite": (
        {"source": edited(SOURCE, 4, "3,Oslo,inf")},
        "source.csv, line 4: price 'inf' is not a number, or is too large",
    ),
    "a number is infinite": (
        {"source": edited(SOURCE, 5, "inf,Oslo,3")},
        "source.csv, line 5: size 'inf' is not a number, or is too large",
    ),
    "a line break in a column's name": (
        {"source": ['"si\nze",price', "1,1", "inf,2"], "target": ['"si\nze"', "1"]},
        "source.csv, line 4: si\\nze 'inf' is not a number",
    ),
    "a value of the target is not a number": (
        {"target": edited(TARGET, 3, "big,Rome")},
        "target.csv, line 3: size 'big' is not a number",
    ),
    "a line has too few fields": (
        {"target": edited(TARGET, 3, "7")},
        "target.csv, line 3: 1 fields where the header has 2",
    ),
    "two columns have one name": (
        {"target": ["size,size", "1,2"]},
        "target.csv has the column 'size' 2 times",
    ),
    "a column has a different text in each row": (
        {
            "source": ["name,price", *(f"house {i},{i}" for i in range(30))],
            "target": ["name", *(f"other {i}" for i in range(30))],
        },
        "the column name has 60 different texts in 60 rows, as names and dates have; leave it out",
    ),
    "the task is unknown": ({"task": "ranking"}, "task must be one of auto, regression, classification"),
    "the batch size is 0": ({"batch_size": 0}, "batch_size must be positive"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_errors_name_the_file_and_the_place(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        tables(tmp_path, **change)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    data = ShiftedTables(str(tmp_path / "gone.csv"), str(tmp_path / "gone.csv"), "price")
    with pytest.raises(InputError, match=r"cannot read .*gone\.csv: No such file"):
        data.setup()


def test_an_incomplete_gzipped_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cut.csv.gz").write_bytes(b"\x1f\x8b\x08\x00")
    data = ShiftedTables(str(tmp_path / "cut.csv.gz"), str(tmp_path / "gone.csv"), "price")
    with pytest.raises(InputError, match=r"cut\.csv\.gz is truncated or damaged"):
        data.setup()


def test_values_missing_only_in_the_target_are_outside(tmp_path: Path) -> None:
    source = ["a,b,c,d,y", *(f"{i},,NA,x,{i}" for i in range(10))]
    target = ["a,b,c,d", *(f",{i},NA," for i in range(8)), "3,,NA,x", "11,,NA,z"]
    data = tables(tmp_path, source, target, label="y")
    assert data.outside == {"a": 0.9, "b": 0.8, "c": 0, "d": 0.9}
