"""Several workers share a search: on one machine, and on a PostgreSQL server, where one of them is killed."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from d2l_lightning.search.study import SearchStudy, TrialToDo
from d2l_lightning.search.trials import SearchResult
from d2l_lightning.search.worker import device_of
from tests.search.test_pack import run_search, values


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return run_search(tmp_path_factory.mktemp("alone") / "run", pruner="none", trials=12)


def test_two_workers_of_one_run_find_what_one_finds(
    alone: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = SearchStudy.take

    def take_turns(study: SearchStudy, count: int) -> list[TrialToDo]:
        # The other worker needs seconds to start: leave it a trial.
        end = time.monotonic() + 120
        while len(study.counted()) == 1 and time.monotonic() < end:
            time.sleep(0.05)
        return take(study, count)

    monkeypatch.setattr(SearchStudy, "take", take_turns)
    found = run_search(tmp_path / "run", pruner="none", trials=12, pack=1, workers=2)
    assert values(found) == values(alone)
    assert len({trial.worker for trial in found.trials}) == 2
    worker = tmp_path / "run" / "workers" / "worker_2"
    assert (worker / "results.json").exists()
    assert not (worker / "state").exists()
    assert sorted(path.name for path in (tmp_path / "run" / "workers").iterdir()) == ["worker_2"]


def test_workers_share_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [device_of(place, {"accelerator": "gpu", "devices": 1}) for place in range(3)] == [[0], [1], [0]]
    assert device_of(1, {"accelerator": "auto"}) == [1]
    assert device_of(1, {"accelerator": "gpu", "devices": [1]}) == [1]
    assert device_of(1, {"accelerator": "cpu", "devices": 1}) == 1


def _search(folder: Path, url: str, slow: float) -> None:
    """Search in a process of its own, which takes its time at each rung."""
    from d2l_lightning.search.pack import PackFit

    report = PackFit._report
    PackFit._report = lambda *arguments: (time.sleep(slow), report(*arguments))[1]  # type: ignore[method-assign]
    run_search(folder, storage=url, study="shared", trials=24, pack=2, heartbeat=1)


def test_a_killed_worker_is_replaced_by_the_others(tmp_path: Path, postgres: str) -> None:
    import optuna

    context = multiprocessing.get_context("fork")
    workers = []
    for number in range(3):
        # The first one is killed in its first pack, which it would not finish in the time of the test.
        slow = 30.0 if number == 0 else 0.05
        process = context.Process(target=_search, args=(tmp_path / f"run_{number}", postgres, slow))
        process.start()
        workers.append(process)
        while number == 0 and not (tmp_path / "run_0" / "state" / "worker").exists():
            time.sleep(0.05)
    while not _running(postgres, tmp_path / "run_0"):
        time.sleep(0.1)
    assert workers[0].pid is not None
    os.kill(workers[0].pid, signal.SIGKILL)
    for process in workers:
        process.join(60)
    assert [process.exitcode for process in workers] == [-signal.SIGKILL, 0, 0]
    study = optuna.load_study(study_name="shared", storage=postgres)
    counted = [t for t in study.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert sorted(trial.user_attrs["index"] for trial in counted) == list(range(24))
    failed = [trial for trial in study.trials if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert {trial.state for trial in failed} == {TrialState.FAIL}
    assert len(failed) == 2  # the pack of the killed worker
    for number in (1, 2):
        assert (tmp_path / f"run_{number}" / "results.json").exists()


def _running(url: str, folder: Path) -> bool:
    import optuna

    name = (folder / "state" / "worker").read_text()
    study = optuna.load_study(study_name="shared", storage=url)
    running = study.get_trials(states=(TrialState.RUNNING,))
    return sum(trial.user_attrs.get("worker") == name for trial in running) == 2
