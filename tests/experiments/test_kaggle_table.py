"""The job for any table: its files agree with its models, and predictions with its submission."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from d2l_lightning.data.tables.encoder import TableEncoder
from d2l_lightning.data.tables.reading import read_table
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.tabular.loading import load_model
from d2l_lightning.tabular.predictor import PricePredictor
from tests.conftest import load_experiment, run_results
from tests.tools.tables import write_tables

FLAGS = ["--label", "rent", "--k", "3", "--max_epochs", "2"]


def test_files_are_those_of_the_models(tmp_path: Path) -> None:
    train, test = write_tables(tmp_path)
    flags = ["--train", str(train), "--test", str(test), *FLAGS, "--ignore", "note", "street"]
    run = tmp_path / "run"
    results = run_results("kaggle_table", run, "--id", "id", "--metric", "log_rmse", *flags)
    table, new = read_table(train), read_table(test)

    held_out = pd.read_csv(run / "oof_predictions.csv")
    assert list(held_out) == ["id", "fold", "rent", "prediction"]
    assert held_out["id"].tolist() == table["id"].tolist()
    for fold in (1, 2, 3):
        model = load_model(run / "checkpoints" / f"fold_{fold}.ckpt")
        X = TableEncoder.from_state(model.encoding or {}).transform(table)
        rows = (held_out["fold"] == fold).to_numpy()
        with torch.no_grad():
            expected = model(X).numpy()[rows]
        np.testing.assert_allclose(held_out["prediction"][rows], expected, rtol=1e-5)
    errors = np.log(held_out["prediction"] / held_out["rent"])
    assert results["mean_pooled_val_log_rmse"] == pytest.approx((errors**2).mean() ** 0.5, rel=1e-4)

    submission = pd.read_csv(run / "submission.csv")
    assert submission["id"].tolist() == new["id"].tolist()
    predictor = PricePredictor.load(run, model="final")
    np.testing.assert_allclose(submission["rent"], predictor.predict(test)["prediction"], rtol=1e-5)
    assert predictor.notes == []


def test_neither_an_id_nor_a_test_file_is_needed(tmp_path: Path) -> None:
    train, _ = write_tables(tmp_path)
    pd.read_csv(train, dtype=str).drop(columns=["note", "street", "id"]).to_csv(train, index=False)
    run_results("kaggle_table", tmp_path / "run", "--train", str(train), *FLAGS)
    assert pd.read_csv(tmp_path / "run" / "oof_predictions.csv")["line"].tolist() == list(range(2, 62))
    assert not (tmp_path / "run" / "submission.csv").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "train.csv: the column 'note' has 60 different texts"),
        (["--id", "ID"], "train.csv lacks the column 'ID', the id (its column 'id' differs only by case"),
        (["--folds", "group:garden", "--ignore", "note"], "the number of groups, 2; it is 3"),
        (["--k", "61", "--ignore", "note", "id"], "the number of training rows, 60; it is 61"),
        (["--label", "town", "--ignore", "note"], "train.csv, line 2: town 'Bonn' is not a number"),
        (["--train", "gone.csv"], "cannot read {}/gone.csv: No such file or directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_writes_nothing(
    flags: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    train, _ = write_tables(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    known = ["--id", "id"] * ("id" not in flags)
    with pytest.raises(SystemExit) as stop:
        run_experiment(load_experiment("kaggle_table").main, ["--train", str(train), *FLAGS, *known, *flags])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message.format(tmp_path) in error
    assert len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
