"""The benchmark compares implementations of the same work."""

import json
import math
from pathlib import Path

import pytest

from d2l_lightning.data import fashion_mnist
from d2l_lightning.runs.cli import run_experiment
from tests.conftest import load_experiment
from tests.data.test_fashion_mnist import write

main = load_experiment("benchmark").main


@pytest.mark.parametrize(
    ("job", "ratios", "num_compared"),
    [
        ("kaggle_house", {"bare_loop", "trainer_per_fold"}, 4),
        ("linear_regression", {"overhead", "bare_loop", "board"}, 3),
        ("weight_decay", {"fits_in_turn"}, 2),
        ("fashion_mnist", {"bare_loop", "torchvision_pipeline"}, 3),
    ],
)
def test_all_implementations_reach_the_same_metrics(
    job: str,
    ratios: set[str],
    num_compared: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = write(tmp_path / "data", (300, 40))
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", data)
    monkeypatch.setenv("D2L_LIGHTNING_CACHE", str(data))  # for the script that the benchmark starts
    folder = tmp_path / "run"
    repeats = 2 if job == "linear_regression" else 1
    flags = ["--epochs", "3", "--repeats", str(repeats), "--run_dir", str(folder)]
    run_experiment(main, [job, *flags])
    results = json.loads((folder / "results.json").read_text())["results"]
    assert set(results["ratios"]) == ratios
    assert all(math.isfinite(ratio) for ratio in results["ratios"].values())
    assert all(len(times) == repeats and min(times) > 0 for times in results["seconds"].values())
    ours, *others = [metrics for metrics in results["figures"].values() if metrics]
    assert len(others) == num_compared - 1
    for other in others:
        assert other == pytest.approx(ours, rel=1e-4)
    if job == "fashion_mnist":
        assert results["startup_seconds"] > 0
    assert "this project" in capsys.readouterr().out
    manifest = json.loads((folder / "manifest.json").read_text())
    written = {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert written <= {Path(name).parts[0] for name in manifest["files"]}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["kaggle_house", "--repeats", "0"], "must be positive"),
        (["abacus"], "job: "),
        ([], "job"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(
    flags: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run_experiment(main, flags)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
