"""Workers on a PostgreSQL server: one is killed, and no trial is lost."""

import multiprocessing
import os
import signal
import time
from collections import Counter
from multiprocessing.synchronize import Event
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from d2l_lightning.errors import InputError
from d2l_lightning.search.space import parse_space
from d2l_lightning.search.study import SearchStudy
from tests.tools.postgres import PASSWORD

SPACE = parse_space({"lr": {"min": 0.1, "max": 1.0}, "depth": {"values": [[], [8]]}})


def study(url: str, worker: str, trials: int = 14, name: str = "houses") -> SearchStudy:
    return SearchStudy(
        url,
        name,
        SPACE,
        trials,
        max_epochs=20,
        first_rung=5,
        heartbeat=1,
        worker=worker,
        fingerprint={"k": 3},
    )


def work(url: str, worker: str, hangs: bool, hung: Event) -> None:
    """Train trials until all are finished; or hang with the first ones, as a machine that is switched off."""
    with study(url, worker) as search:
        while search.unfinished:
            trials = {trial.number: trial.settings["lr"] for trial in search.take(3)}
            if not trials:
                time.sleep(0.2)
            if hangs and trials:
                search._heartbeats.stop()
                hung.set()
                signal.pause()
            for rung in search.rungs()[:-1]:
                for number in search.report(trials, rung):
                    search.prune(number)
                    trials.pop(number)
            for number, lr in trials.items():
                search.complete(number, lr, worker_of=worker)


def trials_of(url: str) -> list[FrozenTrial]:
    return optuna.load_study(study_name="houses", storage=url).trials


def test_a_study_on_postgres_survives_a_killed_worker(postgres: str) -> None:
    context: Any = multiprocessing.get_context("fork")
    hung = context.Event()
    workers = [context.Process(target=work, args=(postgres, "killed", True, hung))]
    workers[0].start()
    assert hung.wait(60)
    workers += [context.Process(target=work, args=(postgres, name, False, hung)) for name in "ab"]
    for worker in workers[1:]:
        worker.start()
    os.kill(workers[0].pid, signal.SIGKILL)
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [-signal.SIGKILL, 0, 0]

    trials = trials_of(postgres)
    counted = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert sorted(trial.user_attrs["index"] for trial in counted) == list(range(14))
    assert {trial.user_attrs["worker"] for trial in counted} <= {"a", "b"}
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert len(trials) == 14 + len(failed)
    assert {trial.user_attrs["worker"] for trial in failed} == {"killed"}
    again = Counter(trial.system_attrs.get("failed_trial") for trial in counted)
    assert {number for number in again if number is not None} == {trial.number for trial in failed}
    assert len(failed) == 3
    best = min(trial.params["lr"] for trial in counted)
    assert [t.value for t in counted if t.params["lr"] == best] == [best]


def test_a_wrong_password_and_a_missing_server_are_one_line(postgres: str) -> None:
    for url in (postgres.replace(PASSWORD, "s3cret"), postgres.replace("host=/", "host=/nowhere/")):
        with pytest.raises(InputError, match="--storage postgresql") as raised:
            study(url, "a").open()
        assert "\n" not in str(raised.value)
        assert "s3cret" not in str(raised.value)
        assert PASSWORD not in str(raised.value)
