"""A search as a study in an SQLite file: what is taken, tried again, pruned, and what is refused."""

import math
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import optuna
import pytest
from hypothesis import example, given, settings
from hypothesis.strategies import floats, lists
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState, create_trial

from d2l_lightning.errors import InputError
from d2l_lightning.search import storage as storage_module
from d2l_lightning.search.decisions import make_pruner, to_prune
from d2l_lightning.search.space import parse_space
from d2l_lightning.search.storage import MAX_RETRY, Heartbeats, open_storage, patiently, sqlite_url
from d2l_lightning.search.study import SearchStudy, TrialToDo

SPACE = parse_space(
    {
        "lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1},
        "width": {"values": [[], [8], [8, 4]]},
        "epochs": {"value": 3},
    }
)
FINITE = parse_space({"depth": {"min": 1, "max": 3}, "bias": {"values": [True, False]}})
Open = Callable[..., SearchStudy]


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database with tables and no study: to create them takes longer than a test."""
    path = tmp_path_factory.mktemp("search") / "empty.db"
    open_storage(sqlite_url(path), 20).engine.dispose()
    return path


@pytest.fixture(name="open_study")
def open_study_fixture(empty: Path, tmp_path: Path) -> Iterable[Open]:
    """Yield a function that opens a study in a new database, as a worker of some name."""
    shutil.copy(empty, tmp_path / "study.db")
    opened = []

    def open_study(worker: str = "a", trials: int = 6, space: Any = SPACE, **settings: Any) -> SearchStudy:
        settings = {"max_epochs": 100, "fingerprint": {"k": 5}, "name": "houses", **settings}
        url = sqlite_url(tmp_path / "study.db")
        opened.append(SearchStudy(url, settings.pop("name"), space, trials, worker=worker, **settings))
        return opened[-1].open()

    yield open_study
    for study in opened:
        if hasattr(study, "_heartbeats"):
            study.close()


def kill(study: SearchStudy) -> None:
    """Do to a study what SIGKILL does to its worker, and let an hour pass."""
    study._heartbeats.stop()
    with sqlite3.connect(study._database.engine.url.database) as database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-1 hour')")
    database.close()


def values_of(trials: Iterable[TrialToDo]) -> dict[int, float]:
    return {trial.number: trial.settings["lr"] for trial in trials}


def finish(study: SearchStudy, trials: Iterable[TrialToDo]) -> None:
    for trial in trials:
        assert study.complete(trial.number, 1.0)


def test_workers_share_the_trials_of_a_study(open_study: Open) -> None:
    a, b = open_study("a"), open_study("b")
    first, second = a.take(4), b.take(4)
    assert [trial.index for trial in first + second] == [0, 1, 2, 3, 4, 5]
    assert [trial.root for trial in first] == [trial.number for trial in first]
    assert all(trial.settings == SPACE.settings(trial.params) for trial in first + second)
    assert len({trial.settings["lr"] for trial in first + second}) == 6
    assert a.take(1) == b.take(1) == []
    assert a.unfinished == b.unfinished == 6
    finish(a, first)
    assert b.unfinished == 2
    b.complete(second[0].number, 0.5, folds=[0.4, 0.6])
    b.prune(second[1].number, epochs=5)
    assert a.unfinished == 0
    assert [trial.user_attrs["index"] for trial in a.counted()] == list(range(6))
    assert a.best is not None
    assert (a.best.value, a.best.user_attrs["folds"]) == (0.5, [0.4, 0.6])
    assert a.counted()[5].state == TrialState.PRUNED


def test_a_worker_that_starts_again_gets_its_trials_with_their_settings(open_study: Open) -> None:
    before = open_study("a")
    trials = before.take(3)
    kill(before)
    again = open_study("a")
    assert again.take(4)[:3] == trials
    finish(again, trials)  # they are still its own


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_was_killed_chooses_the_same_settings(open_study: Open, sampler: str) -> None:
    found = []
    for name, killed in (("whole", False), ("killed", True)):
        study = open_study("a", 24, name=name, sampler=sampler, pruner="none")
        chosen: dict[int, Any] = {}
        while study.unfinished:
            trials = study.take(6)
            if killed and len(chosen) == 12:
                kill(study)
                study = open_study("b", 24, name=name, sampler=sampler, pruner="none")
                trials = study.take(6)
                killed = False
                assert [trial.root for trial in trials] != [trial.number for trial in trials]
            chosen |= {trial.index: trial.settings for trial in trials}
            for number, value in values_of(trials).items():
                study.complete(number, abs(math.log(value / 0.01)))
        found.append(chosen)
    assert found[0] == found[1]


def test_tpe_learns_from_trials(open_study: Open) -> None:
    study = open_study("a", 60, pruner="none", sampler="tpe")
    distances = []
    for _ in range(6):
        values = {number: abs(math.log10(lr / 0.09)) for number, lr in values_of(study.take(10)).items()}
        distances.append(sum(values.values()) / 10)
        for number, value in values.items():
            study.complete(number, value)
    assert distances[-1] < distances[0] / 2


def test_trials_of_a_dead_worker_are_tried_again_and_it_cannot_finish_them(open_study: Open) -> None:
    dead, alive = open_study("dead"), open_study("alive")
    lost = dead.take(2)
    assert dead.report(values_of(lost), 5) < {trial.number for trial in lost}
    kill(dead)
    again = [trial for trial in alive.take(6) if trial.index in (0, 1)]
    assert [(trial.index, trial.root, trial.settings) for trial in again] == [
        (trial.index, trial.number, trial.settings) for trial in lost
    ]
    assert dead.report(values_of(lost), 15) == {trial.number for trial in lost}
    assert not dead.complete(lost[0].number, 0.1)
    assert not dead.prune(lost[1].number)
    finish(alive, again)
    assert alive.unfinished == 4
    # What was reported before counts until it is reported again.
    assert set(alive.counted()[0].intermediate_values) == {5}


def test_a_trial_that_kills_its_workers_is_given_up(open_study: Open) -> None:
    for attempt in range(MAX_RETRY + 1):
        study = open_study(f"worker {attempt}", 1)
        assert len(study.take(1)) == 1
        kill(study)
    study = open_study("last", 1)
    assert study.take(1) == []
    assert study.unfinished == 0
    assert (study.counted(), study.best) == ([], None)
    assert [trial.user_attrs["index"] for trial in study.given_up()] == [0]


def test_a_trial_that_fails_is_tried_again(open_study: Open) -> None:
    study = open_study("a", 1)
    for _ in range(MAX_RETRY + 1):
        (trial,) = study.take(1)
        study.fail(trial.number, "out of memory")
        assert all("worker" not in waiting.user_attrs for waiting in study._trials().values())
    assert study.take(1) == []
    assert study.given_up()[0].user_attrs["reason"] == "out of memory"


def test_a_trial_taken_in_the_moment_of_a_kill_is_not_lost(open_study: Open) -> None:
    study = open_study("a", 1)
    # Killed between the start and the name of the worker.
    trial = study._trials()[0]
    study._storage.set_trial_user_attr = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        study._start(trial)
    kill(study)
    (again,) = open_study("b", 1).take(1)
    assert again.root == trial.number


def test_trials_that_a_killed_worker_did_not_enqueue_are_enqueued(
    open_study: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue = SearchStudy._enqueue
    monkeypatch.setattr(SearchStudy, "_enqueue", lambda self, indices: enqueue(self, list(indices)[:4]))
    first = open_study("first")
    assert len(first.take(9)) == 4
    monkeypatch.undo()
    assert first.unfinished == 6
    # Another worker waits a little: the first one may still be at it.
    other = open_study("other")
    assert other.take(9) == []
    monkeypatch.setattr(SearchStudy, "patience", 0)
    assert [trial.index for trial in other.take(9)] == [4, 5]
    assert other.take(9) == []


def test_a_worker_that_was_killed_as_it_enqueued_goes_on_at_once(
    open_study: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue = SearchStudy._enqueue
    monkeypatch.setattr(SearchStudy, "_enqueue", lambda self, indices: enqueue(self, list(indices)[:4]))
    open_study("a")
    monkeypatch.undo()
    assert [trial.index for trial in open_study("a").take(9)] == list(range(6))


def test_a_retry_that_was_not_enqueued_is_enqueued(open_study: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study("a", 1)
    (trial,) = study.take(1)
    study._storage.set_trial_state_values(study._running[trial.number]._trial_id, TrialState.FAIL)
    other = open_study("b", 1)
    monkeypatch.setattr(SearchStudy, "patience", 0)
    assert other.take(1) == []
    assert [again.root for again in other.take(1)] == [trial.number]


def test_of_two_trials_with_one_index_the_first_counts(open_study: Open) -> None:
    study = open_study("a", 3)
    study._enqueue([0, 2])
    trials = study.take(9)
    assert [trial.index for trial in trials] == [0, 1, 2]
    finish(study, trials)
    assert len(study.counted()) == 3
    assert {trial.state for trial in study._study.trials} == {TrialState.COMPLETE, TrialState.FAIL}


def test_a_worker_can_ask_for_more_trials_and_not_for_fewer(open_study: Open) -> None:
    study = open_study("a", 3)
    assert open_study("b", 5).trials == 5
    assert open_study("c", 2).trials == 5
    assert [trial.index for trial in study.take(9)] == [0, 1, 2, 3, 4]
    assert study.unfinished == 5


def test_a_worker_goes_on_to_the_end_if_another_one_asks_for_more(open_study: Open) -> None:
    study = open_study("a", 3)
    finish(study, study.take(3))
    assert study.unfinished == 0
    open_study("b", 5)
    assert study.unfinished == 2
    # Two workers that ask for more at once: the last one to write the number may be that of fewer.
    study._study.set_user_attr("trials", 4)
    joined = open_study("c", 3)
    assert joined.unfinished == 2
    finish(joined, joined.take(9))
    assert study.unfinished == joined.unfinished == 0


def test_a_finite_space_is_tried_once_also_if_more_is_asked_for_later(open_study: Open) -> None:
    for name, then in (("taken", True), ("waiting", False)):
        study = open_study("a", 3, FINITE, sampler="tpe", name=name)
        if then:
            finish(study, study.take(3))
        other = open_study("b", 6, FINITE, sampler="tpe", name=name)
        finish(other, other.take(9))
        settings = {tuple(sorted(trial.params.items())) for trial in other.counted()}
        assert len(settings) == len(other.counted()) == 6


def test_settings_of_a_finite_space_that_were_not_enqueued_are_those_that_are_left(
    open_study: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = optuna.Study.add_trial

    def killed(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if trial.user_attrs.get("index", 0) == 4:
            raise MemoryError
        add(study, trial)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "add_trial", killed)
        with pytest.raises(MemoryError):
            open_study("a", 6, FINITE, sampler="tpe")
    study = open_study("a", 6, FINITE, sampler="tpe")
    last = [each for each in study._trials().values() if each.user_attrs["index"] >= 4]
    assert len(last) == 2
    # The lost ones are taken while the others wait.
    settings = []
    for trial in last:
        assert study._start(trial)
        study._running[trial.number] = trial
        study._choose([trial], study._trials())
        settings.append(tuple(sorted(trial.params.items())))
        study.complete(trial.number, 1.0)
    finish(study, study.take(9))
    assert len({tuple(sorted(trial.params.items())) for trial in study.counted()}) == 6


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
@pytest.mark.parametrize("trials", [4, 6, 9])
def test_settings_of_a_finite_space_are_tried_once(open_study: Open, sampler: str, trials: int) -> None:
    study = open_study("a", trials, FINITE, sampler=sampler)
    assert study.limited == (trials == 9)
    assert study.trials == min(trials, 6)
    settings = []
    while study.unfinished:
        taken = study.take(2)
        settings += [tuple(trial.settings.items()) for trial in taken]
        finish(study, taken)
    assert len(settings) == len(set(settings)) == min(trials, 6)


def test_tpe_draws_a_setting_again_that_another_trial_has(open_study: Open) -> None:
    study = open_study("a", 5, FINITE, sampler="tpe")
    taken = study.take(2) + study.take(3)
    assert len({tuple(trial.settings.items()) for trial in taken}) == 5


@pytest.mark.parametrize("pruner", ["halving", "hyperband"])
def test_a_third_of_a_pack_goes_on_at_each_rung_and_the_best_always(open_study: Open, pruner: str) -> None:
    study = open_study("a", 54, pruner=pruner)
    left = values_of(study.take(54))
    assert study.rungs() == [5, 15, 45, 100]
    best = min(left, key=lambda number: left[number])
    sizes = [len(left)]
    for rung in study.rungs()[:-1]:
        ended = study.report(left, rung)
        # Whether it is asked again, or after a kill, the answer is the same.
        assert study.report(dict(reversed(left.items())), rung) == ended
        for number in ended:
            assert study.prune(number)
            left.pop(number)
        sizes.append(len(left))
    assert best in left
    if pruner == "halving":
        assert sizes == [54, 18, 6, 2]
    else:  # a part of the trials is in a bracket that begins at a later rung
        assert sizes[0] > sizes[1] > sizes[2] > sizes[3] >= 3
        assert sizes[1] > 18


def test_no_rung_before_the_present_epoch_ends_no_trial(open_study: Open) -> None:
    study = open_study("a")
    numbers = [trial.number for trial in study.take(6)]
    assert study.report({number: float(number) for number in numbers}, 3) == set()


@given(values=lists(lists(floats(allow_nan=False), min_size=1, max_size=6), min_size=1, max_size=5))
@example(values=[[math.inf, 1.0], [1.0, 1.0]])
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("pruner", ["halving", "hyperband"])
def test_the_best_trial_at_a_rung_is_never_pruned(
    pruner: Literal["halving", "hyperband"], values: list[list[float]]
) -> None:
    rungs, trials = [5, 15, 45], dict[int, FrozenTrial]()
    # Packs come one after the other; each trial has the values of its pack in some order at each rung.
    for pack in values:
        alive = {len(trials) + i: value for i, value in enumerate(pack)}
        for at, rung in enumerate(rungs):
            for place, index in enumerate(alive):
                alive[index] = pack[(place + at) % len(pack)]
                trial = trials.setdefault(index, create_trial(value=0.0))
                trial.intermediate_values[rung] = alive[index]
            everyone = [t.intermediate_values[rung] for t in trials.values() if rung in t.intermediate_values]
            best = {index for index, value in alive.items() if value == min(everyone)}
            chosen = make_pruner(pruner, 5, 3, 100)
            pruned = to_prune(chosen, trials, alive, rungs[: at + 1])
            assert pruned <= alive.keys()
            assert not pruned & best
            assert to_prune(chosen, trials, reversed(list(alive)), rungs[: at + 1]) == pruned
            alive = {index: value for index, value in alive.items() if index not in pruned}


def test_halving_keeps_the_best_of_a_pack(open_study: Open) -> None:
    study = open_study("a", 27)
    values = values_of(study.take(27))
    ended = study.report(values, 5)
    assert {values[number] for number in values.keys() - ended} == set(sorted(values.values())[:9])
    # The pack of another worker competes with the first one.
    for number in ended:
        study.prune(number)
    other = open_study("b", 45)
    pack = dict.fromkeys(values_of(other.take(18)), 1.0)
    assert other.report(pack, 5) == pack.keys()


def test_values_that_are_not_finite_end_a_trial(open_study: Open) -> None:
    study = open_study("a", 9)
    numbers = [trial.number for trial in study.take(9)]
    values = dict(
        zip(numbers, [math.nan, math.inf, -math.inf, 1, math.nan, 2, math.nan, math.nan, 3], strict=True)
    )
    ended = study.report(values, 5)
    # They count among the nine of which three go on.
    assert numbers[3] not in ended
    assert {number for number in ended if not math.isfinite(values[number])} == {
        number for number in numbers if not math.isfinite(values[number])
    }
    assert len(ended) == 6
    for number in ended:
        study.prune(number)
    study.complete(numbers[3], math.nan)
    study.complete(numbers[5], 2.0)
    assert study.best is not None
    assert study.best.number == numbers[5]
    assert study.counted()[3].state == TrialState.PRUNED


def test_without_a_pruner_no_trial_ends_early(open_study: Open) -> None:
    study = open_study("a", pruner="none")
    assert study.rungs() == [100]
    values = values_of(study.take(6))
    assert study.report(values, 50) == set()


def test_a_study_with_other_settings_is_refused(open_study: Open) -> None:
    open_study("a")
    space = parse_space({"lr": {"min": 0.1, "max": 1.0}})
    for changed, named in (
        ({"space": space}, "another parameter lr: "),
        ({"fingerprint": {"k": 4}}, "another k: 5, not 4;"),
        ({"fingerprint": {"k": 5, "data": "x"}}, "another data: null, not x"),
        ({"fingerprint": {}}, "another k: 5, not null"),
        ({"seed": 1}, "another seed: 0, not 1"),
        ({"max_epochs": 50}, "another max_epochs"),
        ({"sampler": "random"}, "another sampler: tpe, not random"),
        ({"reduction": 4}, "another reduction"),
    ):
        with pytest.raises(InputError, match=f"^the study houses in this storage has {named}"):
            open_study("b", **changed)
    open_study("b", name="other", space=space)


def test_a_study_of_another_program_is_refused(open_study: Open) -> None:
    study = open_study("a", name="other")
    url = study.url
    foreign = optuna.create_study(storage=url, study_name="foreign")
    foreign.ask()
    optuna.create_study(storage=url, study_name="up", direction="maximize")
    for name in ("foreign", "up"):
        with pytest.raises(InputError, match=f"the study {name} in this storage is no search"):
            open_study("a", name=name)


def test_a_study_whose_creator_was_killed_at_once_is_created_again(
    open_study: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study("a", name="other")
    optuna.create_study(storage=study.url, study_name="houses")
    monkeypatch.setattr(SearchStudy, "patience", 0.1)
    assert len(open_study("b").take(9)) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trials": 0}, "trials must be positive"),
        ({"reduction": 1}, "reduction must be 2 or more, not 1"),
        ({"first_rung": 0}, "first_rung must be positive"),
        ({"pruner": "median"}, "pruner must be one of halving, hyperband, none"),
        ({"sampler": "cma"}, "sampler must be one of tpe, random, grid"),
        ({"sampler": "grid"}, "not finite: lr"),
        ({"name": ""}, "a study must have a name"),
    ],
)
def test_wrong_arguments_are_refused(open_study: Open, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_study(**arguments)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("houses.db", "cannot be used .*sqlite:///FILE or postgresql"),
        ("sqlite:///{folder}/none/study.db", "cannot be reached: unable to open database file"),
        ("sqlite:///{folder}/text.db", "cannot be reached: file is not a database"),
        ("mongodb://me:s3cret@localhost/x", "mongodb://me@localhost/x cannot be used"),
        ("mysql+nodriver://me:s3cret@localhost/x", "cannot be used"),
        ("mysql://me:s3cret@localhost/x", "cannot be used .*MySQLdb"),
        ("postgresql+psycopg://me:s3{cret@127.0.0.1:1/x", "me@127.0.0.1:1/x cannot be reached: .*refused"),
        ("postgresql+psycopg://me:s3cret@127.0.0.1:port/x", "cannot be used"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line(tmp_path: Path, url: str, message: str) -> None:
    (tmp_path / "text.db").write_text("no database " * 100)
    url = url.replace("{folder}", str(tmp_path))
    with pytest.raises(InputError, match=message) as raised:
        SearchStudy(url, "x", SPACE, 3, max_epochs=9, worker="a", fingerprint={}).open()
    assert "\n" not in str(raised.value)
    assert "cret" not in str(raised.value)
    assert (tmp_path / "text.db").read_text() == "no database " * 100


def test_a_file_with_a_question_mark_in_its_path_is_a_storage(tmp_path: Path) -> None:
    folder = tmp_path / "what? 100%"
    folder.mkdir()
    open_storage(sqlite_url(folder / "study.db"), 20).engine.dispose()
    assert (folder / "study.db").exists()


def test_commits_to_a_file_do_not_wait_for_the_disk(open_study: Open) -> None:
    # 64 trials are 500 commits, of 15 ms each otherwise.
    with open_study()._database.engine.connect() as connection:
        modes = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
        ]
    assert modes == ["wal", 1]


def test_an_outage_is_waited_for_and_then_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    left = [5]

    def call() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise StorageInternalError("gone") from OSError("no route to a://u:p@h")
        return "answer"

    assert patiently(call, "a://u:p@h") == "answer"
    left[0] = 1000
    start = clock[0]
    with pytest.raises(InputError) as raised:
        patiently(call, "a://u:p@h", "3 of 9 trials are finished; ")
    assert 50 < clock[0] - start <= storage_module.OUTAGE
    assert str(raised.value) == (
        "--storage a://u@h does not answer any more (no route to a://u@h); 3 of 9 trials are finished; "
        "the search can be resumed when it does"
    )


def test_a_worker_goes_on_after_an_outage(open_study: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    study = open_study("a", 3)
    trials = study.take(3)
    real = study._storage.set_trial_state_values
    calls = []

    def broken(*arguments: Any) -> bool:
        calls.append(arguments)
        if len(calls) == 1:
            raise StorageInternalError("gone before it was written")
        done = real(*arguments)
        if len(calls) == 2:
            raise StorageInternalError("gone after it was written")
        return done

    monkeypatch.setattr(study._storage, "set_trial_state_values", broken)
    assert study.complete(trials[0].number, 1.0)
    assert len(calls) == 3
    assert study.counted()[0].value == 1.0


def test_heartbeats_go_on_after_an_error_and_end_with_the_study(capfd: pytest.CaptureFixture[str]) -> None:
    beats: list[int] = []
    done = threading.Event()

    class Storage:
        heartbeat_interval = 0.001

        def record_heartbeat(self, trial: int) -> None:
            beats.append(trial)
            if len(beats) == 1:
                raise StorageInternalError("away")
            if len(beats) > 4:
                done.set()

        def remove_session(self) -> None:
            pass

    heartbeats = Heartbeats(Storage(), lambda: [7, 8])  # type: ignore[arg-type]
    assert done.wait(60)
    heartbeats.stop()
    assert not heartbeats._thread.is_alive()
    assert heartbeats._thread.daemon
    assert beats[:4] == [7, 7, 8, 7]
    assert capfd.readouterr().err == ""


def test_the_trials_of_a_worker_have_heartbeats(open_study: Open) -> None:
    study = open_study("a", 3, heartbeat=1)
    taken = study.take(2)
    kill(study)  # an hour passes
    study._heartbeats = Heartbeats(study._database, lambda: [t._trial_id for t in study._running.values()])
    database = sqlite3.connect(study._database.engine.url.database)
    late = "SELECT count(*) FROM trial_heartbeats WHERE heartbeat < datetime('now', '-30 minutes')"
    end = time.monotonic() + 60
    while database.execute(late).fetchone() != (0,):
        assert time.monotonic() < end
        time.sleep(0.05)
    database.close()
    assert open_study("b", 3, heartbeat=1).take(9)[0].index == 2
    finish(study, taken)


@pytest.mark.filterwarnings("error")
def test_optuna_prints_nothing(open_study: Open, capfd: pytest.CaptureFixture[str]) -> None:
    study = open_study("a", 12)
    while study.unfinished:
        finish(study, study.take(6))
    study.close()
    assert capfd.readouterr() == ("", "")
