"""The benchmark compares like with like."""

import json
import math
from pathlib import Path

import pytest

from d2l_lightning.run import run_experiment
from tests.conftest import load_experiment, needs_fashion_mnist

main = load_experiment("benchmark").main


@pytest.mark.parametrize(
    ("job", "ratios", "same"),
    [
        ("kaggle_house", {"bare_loop", "trainer_per_fold"}, 3),
        ("linear_regression", {"overhead", "bare_loop", "board"}, 3),
        ("weight_decay", {"fits_in_turn"}, 2),
        pytest.param("fashion_mnist", {"bare_loop", "torchvision_pipeline"}, 3, marks=needs_fashion_mnist),
    ],
)
def test_all_ways_end_at_the_same_figures(
    job: str, ratios: set[str], same: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    epochs, repeats = (1, 1) if job == "fashion_mnist" else (3, 2)
    words = [job, "--epochs", str(epochs), "--repeats", str(repeats)]
    run_experiment(main, [*words, "--run_dir", str(tmp_path / "run")])
    results = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    assert set(results["ratios"]) == ratios
    assert all(math.isfinite(ratio) for ratio in results["ratios"].values())
    assert all(len(times) == repeats and min(times) > 0 for times in results["seconds"].values())
    ours, *others = [found for found in results["figures"].values() if found]
    assert len(others) == same - 1
    for other in others:
        assert other == pytest.approx(ours, rel=1e-4)
    if job == "fashion_mnist":
        assert results["startup_seconds"] > 0
    assert "this project" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kaggle_house", "--repeats", "0"], "must be positive"),
        (["abacus"], "job: "),
        ([], "job"),
    ],
)
def test_bad_input(
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run_experiment(main, words)
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
