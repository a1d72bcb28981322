"""The experiment that predicts: its files, and one line for each bad input."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from d2l_lightning.data.tables.reading import read_table
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.tabular.predictor import TablePredictor
from tests.conftest import load_experiment, run_results
from tests.experiments.test_correct_shift import BRIEF, write_tables
from tests.tools.house_runs import TEST, write_house_run


@pytest.fixture(scope="module")
def house_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_house_run(tmp_path_factory.mktemp("runs") / "houses", k=2)


@pytest.mark.figures
def test_new_houses_are_priced(house_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = read_table(TEST).iloc[:30].assign(colour="red")
    new.to_csv(tmp_path / "new.csv", index=False)
    flags = ["--run", str(house_run), "--data", str(tmp_path / "new.csv"), "--coverage", "0.8"]
    results = run_results("predict", tmp_path / "run", *flags, "--export", "torch")
    assert results == {
        **{"run": str(house_run), "label": "SalePrice", "models": ["fold_1", "fold_2"]},
        **{"rows": 30, "features": 331, "exported": "model.pt2"},
    }
    written = pd.read_csv(tmp_path / "run" / "predictions.csv", dtype={"Id": str})
    expected = TablePredictor.load(house_run, coverage=0.8).predict(new).reset_index(drop=True)
    assert list(written) == ["Id", "prediction", "spread", "lower", "upper"]
    pd.testing.assert_frame_equal(written, expected, check_dtype=False)
    for name in ("model.pt2", "figures/predictions.png", "config.yaml"):
        assert (tmp_path / "run" / name).is_file()
    printed = capsys.readouterr().out
    assert f"{expected['prediction'][0]:,.0f}" in printed
    assert "80% of new rows" in printed
    assert "new.csv has columns that are not used: colour." in printed


@pytest.mark.figures
@pytest.mark.parametrize("label", ["price", "kind"])
def test_a_run_of_correct_shift_predicts_its_target_again(label: str, tmp_path: Path) -> None:
    tables = write_tables(tmp_path, n=100, label=label)
    run_results("correct_shift", tmp_path / "corrector", *tables["flags"], *BRIEF)
    flags = ["--run", str(tmp_path / "corrector"), "--data", str(tmp_path / "target.csv")]
    results = run_results("predict", tmp_path / "run", *flags)
    assert (results["label"], results["models"]) == (label, ["corrected"])
    expected = pd.read_csv(tmp_path / "corrector" / "predictions.csv")
    found = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert found["line"].tolist() == expected["line"].tolist()
    if label == "price":
        np.testing.assert_allclose(found["prediction"], expected["corrected"], rtol=1e-6)
        assert found["lower"].isna().all()
    else:
        assert found["prediction"].tolist() == expected["corrected"].tolist()
        np.testing.assert_allclose(found["probability_True"] + found["probability_False"], 1)
    assert (tmp_path / "run" / "figures" / "predictions.png").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "gone.csv"], "cannot read {}/gone.csv: No such file or directory"),
        (["--data", "empty.csv"], "empty.csv is empty"),
        (["--data", "rows.csv"], "rows.csv has a header but no rows"),
        (["--data", "other.csv"], "other.csv lacks the column 'MSSubClass' (and 78 more)"),
        (["--data", "text.csv"], "text.csv, line 2: LotArea 'big' is not a number"),
        (["--run", "gone"], "cannot read the folder {}/gone: No such file or directory"),
        (["--run", "unfinished"], "{}/unfinished is not the folder of a finished run"),
        (["--model", "best"], "model: "),
        (["--coverage", "90"], "coverage must be between 0 and 1, not 90"),
        (["--export", "pickle"], "export: "),
        (["--max_epochs", "3"], "--max_epochs 3 has no effect: nothing is trained"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_writes_nothing(
    flags: list[str],
    message: str,
    house_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(house_run, "unfinished")
    Path("unfinished/results.json").unlink()
    table = read_table(TEST).iloc[:2]
    for name, each in {
        "rows": table.iloc[:0],
        "other": table[["Id"]],
        "text": table.assign(LotArea="big"),
    }.items():
        each.to_csv(f"{name}.csv", index=False)
    Path("empty.csv").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        run_experiment(
            load_experiment("predict").main, ["--run", str(house_run), "--data", str(TEST), *flags]
        )
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message.format(tmp_path) in error
    assert len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_config_of_a_run_repeats_it(house_run: Path, tmp_path: Path) -> None:
    flags = ["--run", str(house_run), "--data", str(TEST), "--model", "final"]
    first = run_results("predict", tmp_path / "1", *flags)
    again = run_results("predict", tmp_path / "2", "--config", str(tmp_path / "1" / "config.yaml"))
    assert again == first
    files = [(tmp_path / run / "predictions.csv").read_bytes() for run in "12"]
    assert files[0] == files[1]
