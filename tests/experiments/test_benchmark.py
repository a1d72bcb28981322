"""The benchmark compares implementations of the same work."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from d2l_lightning.benchmarks import load
from d2l_lightning.benchmarks.base import Job
from d2l_lightning.data import fashion_mnist
from d2l_lightning.runs.cli import run_experiment
from tests.conftest import load_experiment
from tests.data.test_fashion_mnist import write

experiment = load_experiment("benchmark")
main = experiment.main


@pytest.mark.parametrize(
    ("job", "ratios", "alike"),
    [
        ("kaggle_house", {"bare_loop", "trainer_per_fold"}, [4]),
        ("kaggle_house_mlp", {"bare_loop"}, [1, 1]),  # other dropout masks
        ("many_folds", {"five_folds"}, [1, 1]),
        (
            "shared_machine",
            {"house_busy_over_idle", "house_over_bare_busy", "fashion_mnist_over_bare_busy"},
            [4, 4],
        ),
        ("linear_regression", {"overhead", "bare_loop", "board"}, [3]),
        ("weight_decay", {"fits_in_turn"}, [2]),
        ("fashion_mnist", {"bare_loop", "torchvision_pipeline"}, [3]),
    ],
)
def test_implementations_of_the_same_work_reach_the_same_metrics(
    job: str,
    ratios: set[str],
    alike: list[int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = write(tmp_path / "data", (300, 40))
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", data)
    monkeypatch.setattr(load, "SAMPLE_SECONDS", 0.05)
    monkeypatch.setenv("D2L_LIGHTNING_CACHE", str(data))  # for the script that the benchmark starts
    folder = tmp_path / "run"
    repeats = 2 if job == "linear_regression" else 1
    flags = ["--epochs", "3", "--repeats", str(repeats), "--run_dir", str(folder)]
    run_experiment(main, [job, *flags])
    results = json.loads((folder / "results.json").read_text())["results"]
    assert set(results["ratios"]) == ratios
    assert all(math.isfinite(ratio) for ratio in results["ratios"].values())
    assert all(len(times) == repeats and min(times) > 0 for times in results["seconds"].values())
    groups: list[list[dict[str, float]]] = []
    for metrics in filter(None, results["figures"].values()):
        group = next((group for group in groups if metrics == pytest.approx(group[0], rel=1e-4)), [])
        groups += [] if group else [group]
        group.append(metrics)
    assert [len(group) for group in groups] == alike
    if job == "fashion_mnist":
        assert results["startup_seconds"] > 0
    assert set(results["load"]) == {"average_per_cpu", "cpu_share"}
    printed = capsys.readouterr().out
    assert printed.startswith("load of the machine: ")
    assert next(iter(results["seconds"])) in printed
    manifest = json.loads((folder / "manifest.json").read_text())
    written = {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert written <= {Path(name).parts[0] for name in manifest["files"]}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the job `kaggle_house` by one that adds to a list."""
    added: list[float] = []

    class Counted(Job):
        title = "nothing"

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.implementations = {"this project": lambda: added.append(self.epochs) or {}}

    monkeypatch.setitem(experiment.JOBS, "kaggle_house", Counted)
    monkeypatch.setattr(experiment, "machine_load", lambda: load.Load(None, None))
    return added


@pytest.mark.parametrize("warm_up", [True, False])
def test_a_job_begins_with_a_call_that_is_not_timed_unless_it_starts_processes(
    warm_up: bool, calls: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment.JOBS["kaggle_house"], "warm_up", warm_up)
    assert not experiment.JOBS["whole_job"].warm_up
    run_experiment(main, ["kaggle_house", "--repeats", "3", "--run_dir", str(tmp_path / "run")])
    assert calls == [1] * warm_up + [100] * 3


@pytest.mark.parametrize(
    ("share", "warning"), [(0.5, "warning: the machine is not idle"), (0.0, ""), (None, "")]
)
def test_a_warning_is_printed_if_the_machine_is_not_idle(
    share: float | None,
    warning: str,
    calls: list[float],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(experiment, "machine_load", lambda: load.Load(None, share))
    run_experiment(main, ["kaggle_house", "--run_dir", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert warning in error
    assert ("warning" in error) == bool(warning)
    assert json.loads((tmp_path / "run/results.json").read_text())["results"]["load"]["cpu_share"] == share


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["kaggle_house", "--repeats", "0"], "must be positive"),
        (["whole_job", "--accelerator", "gpu"], "--accelerator gpu: "),
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
