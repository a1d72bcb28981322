"""Predictions for new rows are those of the models of the run, with intervals that cover."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from d2l_lightning.data.kaggle_house import ID, PRICE, KaggleHouse
from d2l_lightning.data.tables.encoder import TableEncoder
from d2l_lightning.data.tables.features import Columns
from d2l_lightning.data.tables.reading import MISSING, read_table
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.errors import InputError
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.models.softmax_regression import SoftmaxRegression
from d2l_lightning.runs.checkpoints import save_checkpoint
from d2l_lightning.tabular.models import Target, saved_encoding
from d2l_lightning.tabular.predictor import ClassPredictor, PricePredictor, TablePredictor
from tests.tools.house_runs import TEST, TRAIN

COLUMNS = ["prediction", "spread", "lower", "upper"]


def outputs(run: Path, name: str, X: torch.Tensor) -> np.ndarray[Any, Any]:
    model = PriceRegressor.load_from_checkpoint(run / "checkpoints" / f"{name}.ckpt").eval()
    with torch.no_grad():
        return model(X).double().numpy()


def test_predictions_are_those_of_the_models_on_the_features_of_the_job(house_run: Path) -> None:
    houses = KaggleHouse()
    houses.setup()
    X = houses.features()[houses.num_train :]
    each = np.stack([outputs(house_run, f"fold_{fold}", X) for fold in (1, 2, 3)])
    held_out = pd.read_csv(house_run / "oof_predictions.csv")
    errors = np.abs(np.log(held_out[PRICE]) - np.log(held_out["prediction"]))
    factor = np.exp(np.sort(errors)[math.ceil(1461 * 0.8) - 1])

    predictor = PricePredictor.load(house_run, coverage=0.8)
    predictions = predictor.predict(TEST)
    assert list(predictions) == [ID, *COLUMNS]
    assert predictions[ID].tolist() == houses.test_ids
    mean = np.exp(np.log(each).mean(axis=0))
    expected = np.stack([mean, each.std(axis=0, ddof=1), mean / factor, mean * factor], axis=1)
    np.testing.assert_allclose(predictions[COLUMNS], expected, rtol=1e-9)
    assert predictor.notes == []
    assert predictor.columns["LotArea"] == "number"
    assert list(predictor.models) == ["fold_1", "fold_2", "fold_3"]


def test_the_final_model_predicts_alone_with_the_same_intervals(house_run: Path) -> None:
    folds, final = (PricePredictor.load(house_run, kind) for kind in ("folds", "final"))
    predictions = final.predict(TEST)
    np.testing.assert_array_equal(
        predictions["prediction"], outputs(house_run, "final", folds.features(TEST)).clip(min=1)
    )
    assert predictions["spread"].isna().all()
    of_folds = folds.predict(TEST)
    ratios = [table["upper"] / table["lower"] for table in (predictions, of_folds)]
    np.testing.assert_allclose(*ratios)


def test_each_fold_takes_the_features_of_its_own_statistics(run_of_own_statistics: Path) -> None:
    houses = KaggleHouse(statistics="train")
    houses.setup()
    rows, _ = k_fold(houses.num_train, 2)
    each = [
        outputs(run_of_own_statistics, f"fold_{i + 1}", houses.features(rows[i])[houses.num_train :])
        for i in range(2)
    ]
    predictor = PricePredictor.load(run_of_own_statistics)
    expected = np.exp(np.log(each).mean(axis=0))
    np.testing.assert_allclose(predictor.predict(TEST)["prediction"], expected, rtol=1e-6)
    with pytest.raises(InputError, match="no common input to export"):
        predictor.mean_of_models()


def test_a_table_with_types_has_the_predictions_of_the_file(house_run: Path) -> None:
    predictor = PricePredictor.load(house_run)
    typed = pd.read_csv(TEST, keep_default_na=False, na_values=MISSING)
    typed = typed.astype({"MSZoning": "category", "LotArea": "Int64"}).set_index(typed.index + 7000)
    predictions = predictor.predict(typed)
    assert predictions.index.equals(typed.index)
    assert predictions[ID].tolist() == typed[ID].tolist()
    expected = predictor.predict(read_table(TEST))
    np.testing.assert_array_equal(predictions[COLUMNS], expected[COLUMNS])


def test_a_row_is_predicted_the_same_in_any_order_and_alone(house_run: Path) -> None:
    predictor = PricePredictor.load(house_run)
    table = read_table(TEST)
    all_rows = predictor.predict(table)
    some = predictor.predict(table[list(reversed(table.columns))].iloc[[40, 3]])
    np.testing.assert_allclose(some[COLUMNS], all_rows[COLUMNS].iloc[[40, 3]], rtol=1e-6)


def test_intervals_cover_the_share_of_held_out_rows(house_run: Path) -> None:
    held_out = pd.read_csv(house_run / "oof_predictions.csv")
    for coverage in (0.5, 0.9):
        quantile = PricePredictor.load(house_run, coverage=coverage).quantile
        assert quantile is not None
        within = (np.log(held_out[PRICE] / held_out["prediction"]).abs() <= quantile.item()).mean()
        assert coverage <= within <= coverage + 2 / len(held_out)


def test_new_categories_and_other_columns_are_noted(house_run: Path) -> None:
    predictor = PricePredictor.load(house_run)
    table = read_table(TRAIN).iloc[:5].copy()
    table["Street"] = ["Dirt", "Pave", None, "Mud", "Grvl"]
    table.loc[table.index[0], "MSZoning"] = "Moon"
    predictor.predict(table.assign(colour="red"))
    assert predictor.notes == [
        f"{TRAIN} has columns that are not used: colour.",
        "2 of 5 rows have a category in the column Street that is not known.",
        "1 of 5 rows have a category in the column MSZoning that is not known.",
    ]
    predictor.predict(TEST)
    assert predictor.notes == []


def test_columns_that_the_run_left_out_are_not_noted(copied: Path) -> None:
    for fold in (1, 2, 3):
        spoiled(lambda c: c["encoding"].update(unused=["colour"]), f"fold_{fold}")(copied)
    predictor = PricePredictor.load(copied)
    predictor.predict(read_table(TEST).iloc[:5].assign(colour="red", size="1"))
    assert predictor.notes == [f"{TEST} has columns that are not used: size."]


def test_a_table_must_be_a_dataframe_or_a_file(house_run: Path) -> None:
    with pytest.raises(InputError, match=r"^give a pandas\.DataFrame or the path of a CSV file, not a dict$"):
        PricePredictor.load(house_run).predict({"LotArea": [1]})  # type: ignore[arg-type]


def test_an_unknown_category_counts_as_a_missing_one_where_training_had_some(house_run: Path) -> None:
    predictor = PricePredictor.load(house_run)
    table = read_table(TEST).iloc[:1]
    unknown, missing = (predictor.predict(table.assign(Alley=alley)) for alley in ("Lane", None))
    pd.testing.assert_frame_equal(unknown, missing)


@pytest.fixture
def copied(house_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(house_run, tmp_path / "copy"))


def test_without_out_of_fold_predictions_there_are_no_intervals(copied: Path) -> None:
    expected = PricePredictor.load(copied).predict(TEST)
    (copied / "oof_predictions.csv").unlink()
    predictor = PricePredictor.load(copied)
    predictions = predictor.predict(read_table(TEST).drop(columns=ID))
    assert predictor.notes == ["There are no intervals: the run has no oof_predictions.csv."]
    assert predictions[["lower", "upper"]].isna().all(axis=None)
    np.testing.assert_array_equal(predictions[COLUMNS[:2]], expected[COLUMNS[:2]])


def test_a_coverage_that_needs_more_rows_gives_no_intervals(house_run: Path) -> None:
    predictor = PricePredictor.load(house_run, coverage=0.9999)
    assert predictor.quantile is None
    assert predictor.notes == [
        "There are no intervals: a coverage of 0.9999 needs 9999 rows, and the run has 1460."
    ]


def test_other_metrics_average_predictions_and_have_symmetric_intervals(copied: Path) -> None:
    for fold in (1, 2, 3):
        spoiled(lambda c: c["encoding"]["target"].update(log=False), f"fold_{fold}")(copied)
    predictor = PricePredictor.load(copied, coverage=0.8)
    X = predictor.features(TEST)
    each = np.stack([outputs(copied, f"fold_{fold}", X) for fold in (1, 2, 3)])
    held_out = pd.read_csv(copied / "oof_predictions.csv")
    size = np.sort((held_out[PRICE] - held_out["prediction"]).abs())[math.ceil(1461 * 0.8) - 1]
    mean = each.mean(axis=0)
    expected = np.stack([mean, each.std(axis=0, ddof=1), mean - size, mean + size], axis=1)
    np.testing.assert_allclose(predictor.predict(TEST)[COLUMNS], expected, rtol=1e-9)


def test_repeats_and_seeds_are_models_of_their_kind(copied: Path) -> None:
    files = copied / "checkpoints"
    for old, new in (("fold_1", "fold_1_repeat_2"), ("fold_2", "fold_1_repeat_10"), ("fold_3", "final_12")):
        (files / f"{old}.ckpt").rename(files / f"{new}.ckpt")
    (files / "final.ckpt").rename(files / "final_2.ckpt")
    names = {kind: list(TablePredictor.load(copied, kind).models) for kind in ("folds", "final", None)}
    assert names["folds"] == names[None] == ["fold_1_repeat_2", "fold_1_repeat_10"]
    assert names["final"] == ["final_2", "final_12"]


def write_run(folder: Path, model: Any, encoder: TableEncoder, target: Target) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"results": {}}))
    model.encoding = saved_encoding(encoder, target)
    save_checkpoint(model, folder / "checkpoints" / "corrected.ckpt")
    return folder


def test_classes_have_probabilities(tmp_path: Path) -> None:
    table = pd.DataFrame({"size": ["1", "2", "6"]})
    encoder = TableEncoder(Columns({"size": "number"})).fit(table)
    model = SoftmaxRegression(1, 3)
    run = write_run(tmp_path / "run", model, encoder, Target("kind", classes=["a", "b", "c"]))
    predictor = TablePredictor.load(run)
    assert isinstance(predictor, ClassPredictor)
    predictions = predictor.predict(table)
    with torch.no_grad():
        expected = model(encoder.transform(table)).softmax(dim=1).numpy()
    assert list(predictions) == ["prediction", "probability_a", "probability_b", "probability_c"]
    np.testing.assert_allclose(predictions.iloc[:, 1:].astype(float), expected, rtol=1e-5)
    assert predictions["prediction"].tolist() == ["abc"[i] for i in expected.argmax(axis=1)]


def test_standardised_labels_get_their_unit_back(tmp_path: Path) -> None:
    table = pd.DataFrame({"size": ["1", "2", "6"]})
    encoder = TableEncoder(Columns({"size": "number"})).fit(table)
    model = LinearRegression(1)
    run = write_run(tmp_path / "run", model, encoder, Target("price", scale=[50.0, 4.0]))
    with torch.no_grad():
        expected = model(encoder.transform(table)) * 4 + 50
    predicted = TablePredictor.load(run).predict(table)["prediction"]
    np.testing.assert_allclose(predicted, expected.numpy(), rtol=1e-6)


def spoiled(change: Callable[[dict[str, Any]], Any], name: str = "fold_1") -> Callable[[Path], None]:
    """Return a function that changes a checkpoint of a run."""

    def spoil(run: Path) -> None:
        file = run / "checkpoints" / f"{name}.ckpt"
        checkpoint = torch.load(file, weights_only=True)
        change(checkpoint)
        torch.save(checkpoint, file)

    return spoil


def cut(file: str) -> Callable[[Path], None]:
    return lambda run: (run / file).write_bytes((run / file).read_bytes()[:-2000])


FIRST = "checkpoints/fold_1.ckpt"
AGAIN = "run the experiment again, and predict from the new run"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: shutil.rmtree(run), "cannot read the folder"),
        (lambda run: (run / "results.json").unlink(), "is not the folder of a finished run"),
        (lambda run: (run / "results.json").write_text("{"), "cannot read"),
        (lambda run: (run / "results.json").write_text("[]"), "results.json is not that of a run"),
        (lambda run: shutil.rmtree(run / "checkpoints"), f"has no models; {AGAIN}"),
        (spoiled(lambda c: c.pop("encoding")), f"fold_1.ckpt does not say what it predicts.* {AGAIN}"),
        (spoiled(lambda c: c.update(class_name="Forest")), "of the class Forest, which this version"),
        (spoiled(lambda c: c.update(class_name="KaggleHouse")), "of the class KaggleHouse, which"),
        (spoiled(lambda c: c.update(class_name="Path")), "of the class Path, which"),
        (spoiled(lambda c: c["hyper_parameters"].update(depth=3)), "does not suit the class PriceReg"),
        (spoiled(lambda c: c["state_dict"].popitem()), "does not suit the class PriceRegressor"),
        (spoiled(lambda c: c["encoding"].update(format=99)), "ckpt: .* saved by a newer version"),
        (
            spoiled(lambda c: c["encoding"]["target"].update(unit="$")),
            "the encoder in .*fold_1.ckpt is incomplete",
        ),
        (spoiled(lambda c: c["encoding"].pop("gaps")), "the encoder in .*fold_1.ckpt is incomplete"),
        (cut(FIRST), "fold_1.ckpt is damaged or not a checkpoint"),
        (lambda run: (run / FIRST).write_bytes(b""), "fold_1.ckpt is damaged or not a checkpoint"),
        (lambda run: (run / FIRST).write_bytes(b"no checkpoint"), "is damaged or not a checkpoint"),
        (lambda run: torch.save([1], run / FIRST), "fold_1.ckpt is not a checkpoint"),
        (
            lambda run: (run / "oof_predictions.csv").write_text("Id,price\n1,2\n"),
            "oof_predictions.csv is not that of a run",
        ),
        (
            lambda run: (run / "oof_predictions.csv").write_text("Id,fold,price,prediction\n1,2,,3\n"),
            "oof_predictions.csv, line 2: price is missing",
        ),
        (
            lambda run: (run / "oof_predictions.csv").write_text("Id,fold,price,prediction\n1,2,x,3\n"),
            "oof_predictions.csv, line 2: price 'x' is not a number",
        ),
    ],
)
def test_a_run_that_cannot_be_used_is_an_error_of_one_line(
    spoil: Callable[[Path], Any], message: str, copied: Path
) -> None:
    spoil(copied)
    with pytest.raises(InputError, match=message) as error:
        TablePredictor.load(copied)
    assert len(str(error.value).splitlines()) == 1
    assert str(copied) in str(error.value)


class Command:
    """An object that writes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_a_checkpoint_cannot_run_code(copied: Path, tmp_path: Path) -> None:
    spoiled(lambda checkpoint: checkpoint.update(more=Command(tmp_path / "written")))(copied)
    with pytest.raises(InputError, match="is damaged or not a checkpoint"):
        TablePredictor.load(copied)
    assert not (tmp_path / "written").exists()


def test_a_missing_kind_of_model_is_an_error_that_names_the_other(copied: Path) -> None:
    (copied / "checkpoints" / "final.ckpt").unlink()
    with pytest.raises(InputError, match="has no model of all rows; give --model folds"):
        TablePredictor.load(copied, "final")
    for file in (copied / "checkpoints").iterdir():
        file.rename(file.with_name(f"other_{file.name}"))
    with pytest.raises(
        InputError, match="has no model of a table; its checkpoints are other_fold_1, other_f"
    ):
        TablePredictor.load(copied)


@pytest.mark.parametrize("coverage", [0, 1, 1.5, math.nan])
def test_a_coverage_out_of_range_is_an_error(coverage: float, house_run: Path) -> None:
    with pytest.raises(InputError, match="coverage must be between 0 and 1"):
        PricePredictor.load(house_run, coverage=coverage)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="LotArea"), "test.csv.gz lacks the column 'LotArea'"),
        (
            lambda t: t.rename(columns={"LotArea": "lotarea"}),
            r"lacks the column 'LotArea' \(its column 'lotarea' differs only by case",
        ),
        (lambda t: t.assign(LotArea="big"), "test.csv.gz, line 2: LotArea 'big' is not a number"),
        (lambda t: t.iloc[:0], "test.csv.gz has a header but no rows"),
        (lambda t: t.assign(Id="7"), "test.csv.gz, line 3: Id '7' is not unique"),
        (lambda t: t.assign(Id=None), "test.csv.gz, line 2: Id is missing"),
    ],
)
def test_a_table_of_another_kind_is_an_error(
    change: Callable[[pd.DataFrame], pd.DataFrame], message: str, house_run: Path
) -> None:
    table = change(read_table(TEST))
    with pytest.raises(InputError, match=message):
        PricePredictor.load(house_run).predict(table)


def test_the_random_numbers_of_the_user_stay_as_they_are(house_run: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    PricePredictor.load(house_run).predict(TEST)
    assert torch.equal(torch.rand(2), expected)


def test_predictions_below_the_least_label_or_1_are_raised_to_it(copied: Path) -> None:
    for fold in (1, 2, 3):
        spoiled(lambda c: c["state_dict"]["net.0.bias"].fill_(-1e4), f"fold_{fold}")(copied)
    assert (PricePredictor.load(copied).predict(TEST)["prediction"] == 1).all()
    for fold in (1, 2, 3):
        spoiled(lambda c: c["encoding"]["target"].update(floor=0.25), f"fold_{fold}")(copied)
    assert (PricePredictor.load(copied).predict(TEST)["prediction"] == 0.25).all()
