"""The jobs compare the same work, also where the benchmark's table cannot show it."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from d2l_lightning.benchmarks import ENVIRONMENT, whole_job
from d2l_lightning.benchmarks.base import time_in_turn
from d2l_lightning.benchmarks.kaggle_house_mlp import PerceptronFolds
from d2l_lightning.benchmarks.many_folds import FiftyFolds
from d2l_lightning.benchmarks.search import OURS, PRUNED, TWO_WORKERS, HouseSearch
from d2l_lightning.benchmarks.shared_machine import SharedMachine
from d2l_lightning.benchmarks.whole_job import CPU, WholeJob
from d2l_lightning.errors import InputError
from d2l_lightning.runs.run import Run
from tests.conftest import ROOT

SCRIPTS = ROOT / "experiments"


@pytest.fixture(name="run")
def run_fixture(tmp_path: Path) -> Run:
    return Run("test", run_dir=tmp_path / "run")


def test_the_plain_script_does_what_the_house_job_does(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # With all rows in a batch, the order of rows does not matter, and initial weights matter little.
    monkeypatch.setattr(WholeJob, "batch_size", 1460)
    monkeypatch.setitem(ENVIRONMENT, "D2L_LIGHTNING_LR", "1")  # neither script must see it
    job = WholeJob(run, 3, SCRIPTS)
    job.implementations = {name: call for name, call in job.implementations.items() if name.endswith(CPU)}
    seconds, metrics = time_in_turn(job, [0])
    ours, plain = metrics.values()
    assert plain["features"] == ours["features"] == 331
    assert plain == pytest.approx(ours, rel=1e-4)
    assert all(time > 0.5 for (time,) in seconds.values())  # the import of torch alone takes longer


def test_cpu_time_is_that_of_one_thread_and_the_plain_script_has_openmps_defaults(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Mapping[str, str]] = []

    def output(command: Sequence[str], environment: Mapping[str, str]) -> str:
        found.append(environment)
        folds = "features: 3\nfold 1: training 7.1\naverage: training 0.1, validation 0.2\n"
        return f"{folds}all rows: training 0.3\n"

    monkeypatch.setattr(whole_job, "output_of", output)
    monkeypatch.setitem(ENVIRONMENT, "OMP_NUM_THREADS", "2")
    monkeypatch.setitem(ENVIRONMENT, "GOMP_SPINCOUNT", "100")
    monkeypatch.setenv("SET_BY_A_LIBRARY", "1")
    job = WholeJob(run, 3, SCRIPTS)
    for kind in ("", CPU):
        metrics = job.implementations[f"plain script{kind}"]()
        assert metrics == {"train": 0.1, "val": 0.2, "all rows": 0.3, "features": 3}
    assert [environment["OMP_NUM_THREADS"] for environment in found] == ["2", "1"]
    for environment in found:
        assert "PATH" in environment
        assert not {"GOMP_SPINCOUNT", "SET_BY_A_LIBRARY"} & environment.keys()


def test_the_ratios_are_those_of_cpu_times_and_of_times_on_the_clock(run: Run) -> None:
    job = WholeJob(run, 3, SCRIPTS)
    medians = dict(zip(job.implementations, (6.0, 3.0, 5.0, 4.0), strict=True))
    assert job.ratios(medians) == {"plain_script_wall": 2.0, "plain_script_cpu": 1.25}
    with pytest.raises(InputError, match="CPU time of processes"):
        job.ratios({**medians, f"plain script{CPU}": 0.0})


def test_the_perceptrons_loop_is_the_stacked_fit_without_dropout_and_has_dropout(
    run: Run, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    config = tmp_path / "configs" / "kaggle_house_mlp.yaml"
    text = config.read_text()
    assert "dropout: 0.3" in text
    config.write_text(text.replace("dropout: 0.3", "dropout: 0.0"))
    run.start()
    plain = PerceptronFolds(run, 3, tmp_path / "experiments")
    without = plain.pytorch_loop()
    assert plain.run_fit() == pytest.approx(without, rel=1e-4)
    config.write_text(text)
    with_dropout = PerceptronFolds(run, 3, tmp_path / "experiments").pytorch_loop()
    assert with_dropout != pytest.approx(without, rel=1e-2)


def test_fifty_folds_are_fifty_members_of_the_cross_validation(run: Run) -> None:
    job = FiftyFolds(run, 1, SCRIPTS)
    assert len(job.members) == 50
    assert {len(rows) for rows in job.rows["val"]} == {29, 30}


def test_the_baselines_of_a_search_reach_the_same_metrics_without_dropout(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"k": 2, "sample": 1, "model": {"hidden_sizes": (4,), "log_price": True}}.items():
        monkeypatch.setattr(HouseSearch, name, value)
    run.start()
    job = HouseSearch(run, 1, SCRIPTS)
    assert len({setting["lr"] for setting in job.drawn}) == 64
    job.drawn = [{**setting, "dropout": 0.0} for setting in job.drawn]
    assert job.fit_per_setting() == pytest.approx(job.optuna_trials(), rel=1e-4)


def test_the_ratios_of_a_search_count_the_baselines_for_all_settings_and_the_slower_worker() -> None:
    job = HouseSearch.__new__(HouseSearch)
    job.slowest = {OURS: [2.0, 4.0, 3.0], TWO_WORKERS: [1.0, 2.0, 1.5]}
    medians = {OURS: 8.0, PRUNED: 2.0, TWO_WORKERS: 9.0}
    medians |= {
        "Optuna, a Trainer for each fold": 5.0,
        "a stacked fit for each setting": 1.0,
    }  # of 4 of the 64 settings
    medians |= {f"{name}, validated once": 0.8 * medians[name] for name in list(medians)[3:]}
    assert job.ratios(medians) == {
        "optuna_trainer_per_fold": 0.1,
        "optuna_validated_once": 0.125,
        "stacked_fit_per_setting": 0.5,
        "stacked_fit_validated_once": 0.625,
        "pruning": 0.25,
        "two_workers": 0.5,
    }


def test_only_busy_implementations_are_timed_beside_a_process_on_each_core() -> None:
    job = SharedMachine.__new__(SharedMachine)
    with job.surroundings("houses, loop") as processes:
        assert processes is None
    with job.surroundings("houses, loop, busy") as processes:
        assert processes
        assert all(process.poll() is None for process in processes)


def test_the_ratios_of_a_shared_machine_are_of_busy_to_idle_and_of_busy_to_busy() -> None:
    names = ("houses", "houses, busy", "houses, loop, busy", "perceptron, busy", "perceptron, loop, busy")
    medians = dict(zip(names, (2.0, 6.0, 12.0, 1.0, 8.0), strict=True))
    assert SharedMachine.__new__(SharedMachine).ratios(medians) == {
        "house_busy_over_idle": 3.0,
        "house_over_bare_busy": 0.5,
        "fashion_mnist_over_bare_busy": 0.125,
    }
