"""The benchmark compares like with like."""

import json
from pathlib import Path

import pytest

from d2l_lightning.run import run_experiment
from tests.conftest import load_experiment

main = load_experiment("benchmark").main


def test_all_ways_end_at_the_same_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_experiment(
        main, ["kaggle_house", "--epochs", "3", "--repeats", "2", "--run_dir", str(tmp_path / "run")]
    )
    results = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    assert set(results["ratios"]) == {"bare_loop", "trainer_per_fold"}
    assert all(len(times) == 2 and min(times) > 0 for times in results["seconds"].values())
    ours, *others = results["figures"].values()
    assert len(others) == 2
    for other in others:
        assert other == pytest.approx(ours, rel=1e-4)
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
