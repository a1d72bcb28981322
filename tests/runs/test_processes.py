"""Several processes of one run: the results of one, one voice, and one end."""

import csv
import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only

from d2l_lightning.data import fashion_mnist
from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.distributed.group import process
from d2l_lightning.errors import InputError
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.runs import processes, watch
from d2l_lightning.runs.journal import Journal
from d2l_lightning.runs.place import Place, one_voice, place_of
from d2l_lightning.runs.processes import Processes
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.signals import StopSignals
from d2l_lightning.runs.watch import Watch
from tests.conftest import ROOT, run_results
from tests.data.test_fashion_mnist import write as write_images
from tests.tools.forked import fork_experiment, free_port

TWO = ("--devices", "2")
# A run of many short epochs that saves its state after each of them.
EPOCHS = ("--max_epochs", "12", "--checkpoint_every", "0", "--enable_progress_bar", "false")


def resume(run: Path) -> tuple[str, ...]:
    return ("--run_dir", str(run), "--resume", "true")


def printed_by(text: str) -> list[str]:
    """Return the lines of stderr that begin with the name of the experiment."""
    return [line for line in text.splitlines() if line.startswith(("linear_regression: ", "search_house: "))]


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in nested results, by name."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numbers(item, f"{name}/{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from numbers(item, f"{name}/{index}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


def results_of(folder: Path) -> dict[str, float]:
    report = json.loads((folder / "results.json").read_text())
    return dict(numbers(report["results"]))


def assert_close(found: dict[str, float], expected: dict[str, float], least: float = 1e-5) -> None:
    """Check that values are equal within 1e-4 of their size, or of the least size that matters."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if math.isfinite(value):
            assert abs(found[name] - value) <= 1e-4 * max(abs(value), least), name


def metrics_of(folder: Path) -> dict[str, list[float]]:
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}


def saved(folder: Path) -> Callable[[], bool]:
    return lambda: any((folder / "state").glob("[0-9]*.ckpt"))


def when(ready: Callable[[], bool], *signals: tuple[int, int]) -> Callable[[Sequence[BaseProcess]], None]:
    """Return a function that sends signals to processes, given as number and signal, when it is time."""

    def send(processes: Sequence[BaseProcess]) -> None:
        end = time.monotonic() + 60
        while not ready() and time.monotonic() < end:
            time.sleep(0.02)
        for number, signum in signals:
            os.kill(processes[number].pid or 0, signum)

    return send


def test_only_the_first_process_writes_and_prints(tmp_path: Path) -> None:
    expected = run_results("linear_regression", tmp_path / "alone")
    first, second = fork_experiment("linear_regression", tmp_path, [*TWO, "--run_dir", str(tmp_path / "two")])
    assert (first.status, second.status) == (0, 0)
    assert "truth minus estimate" in first.out
    assert (second.out, second.err) == ("", "")
    assert_close(results_of(tmp_path / "two"), dict(numbers(expected)))
    names = [
        {str(p.relative_to(tmp_path / run)) for p in (tmp_path / run).rglob("*")} for run in ("alone", "two")
    ]
    assert names[0] == names[1]
    found, alone = (metrics_of(tmp_path / run) for run in ("two", "alone"))
    assert found.keys() == alone.keys()
    for name, values in alone.items():
        assert found[name] == pytest.approx(values, rel=1e-4)
    environment = json.loads((tmp_path / "two" / "results.json").read_text())["environment"]
    assert environment["processes"] == 2


@pytest.fixture(scope="module")
def many_epochs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Return the results of one process after the epochs that the runs below stop in."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    return dict(numbers(run_results("linear_regression", folder, *EPOCHS)))


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_process_ends_the_other_and_one_process_goes_on(
    tmp_path: Path, number: int, many_epochs: dict[str, float]
) -> None:
    run = tmp_path / "run"
    kill = when(saved(run), (number, signal.SIGKILL))
    ended = fork_experiment(
        "linear_regression", tmp_path, [*TWO, *EPOCHS, "--run_dir", str(run)], during=kill, seconds=30
    )
    assert [ended[number].status, ended[1 - number].status] == [-signal.SIGKILL, 2]
    # Stack traces of C++ are hidden where the variable for this is set before PyTorch is loaded.
    (line,) = printed_by(ended[1 - number].err)
    assert "another process of the run ended; to go on: " in line
    (resumed,) = fork_experiment("linear_regression", tmp_path, [*EPOCHS, *resume(run)], 1)
    assert resumed.status == 0
    assert "processes 2 -> 1" in resumed.err
    assert_close(results_of(run), many_epochs)


def test_two_processes_go_on_with_a_run_of_one(tmp_path: Path, many_epochs: dict[str, float]) -> None:
    run = tmp_path / "run"
    kill = when(saved(run), (0, signal.SIGKILL))
    fork_experiment("linear_regression", tmp_path, [*EPOCHS, "--run_dir", str(run)], 1, during=kill)
    first, second = fork_experiment("linear_regression", tmp_path, [*TWO, *EPOCHS, *resume(run)])
    assert (first.status, second.status, second.err) == (0, 0, "")
    assert_close(results_of(run), many_epochs)


@pytest.mark.parametrize(
    ("signals", "status"),
    [
        ([(0, signal.SIGTERM)], 143),
        ([(1, signal.SIGTERM)], 143),
        ([(0, signal.SIGINT), (1, signal.SIGINT)], 130),
    ],
    ids=["first process", "second process", "both"],
)
def test_a_signal_to_one_process_stops_all_after_the_state_is_saved(
    tmp_path: Path, signals: list[tuple[int, int]], status: int, ctrl_c: None
) -> None:
    run = tmp_path / "run"
    flags = [*TWO, "--max_epochs", "1000000", "--checkpoint_every", "0", "--run_dir", str(run)]
    first, second = fork_experiment(
        "linear_regression", tmp_path, flags, during=when(saved(run), *signals), seconds=60
    )
    assert (first.status, second.status) == (status, status)
    (line,) = printed_by(first.err)
    assert "after epoch " in line
    assert line.endswith("--resume true")
    assert second.err.strip() == ""
    epoch = int(line.partition("after epoch ")[2].split()[0])
    state = torch.load(run / "state" / "01_scratch.ckpt", weights_only=True)
    assert state["epoch"] == epoch


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr", "1e30"], "the training loss became"),
        (["--lrr", "1"], "--lrr is no flag of this experiment; did you mean --lr"),
        (["--seed", "-1"], "--seed must be from 0"),
        (["--devices", "3"], "--devices 3 is more than the CPUs of this machine (2)"),
        (["--batch_size", "1"], "batch_size"),
        (["--profiler", "simple"], "--profiler is for one process"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_in_all_processes_is_printed_once(
    tmp_path: Path, flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    ended = fork_experiment(
        "linear_regression", tmp_path, [*TWO, "--run_dir", str(tmp_path / "run"), *flags], seconds=60
    )
    assert [each.status for each in ended] == [2, 2]
    (line,) = [line for each in ended for line in printed_by(each.err)]
    assert message in line
    assert "Traceback" not in ended[0].err + ended[1].err


def test_an_error_in_one_process_ends_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        if process() == 1:
            raise InputError("the disk of this node is full")

    monkeypatch.setattr(Journal, "log_metrics", fail)
    first, second = fork_experiment(
        "linear_regression", tmp_path, [*TWO, "--run_dir", str(tmp_path / "run")], seconds=60
    )
    assert (first.status, second.status) == (2, 2), second.err
    assert printed_by(first.err) == []
    assert printed_by(second.err) == ["linear_regression: the disk of this node is full"]


def test_processes_resume_a_finished_run_without_a_word_but_one(tmp_path: Path) -> None:
    run_results("linear_regression", tmp_path / "run", "--max_epochs", "1")
    flags = [*TWO, "--max_epochs", "1", "--run_dir", str(tmp_path / "run")]
    first, second = fork_experiment("linear_regression", tmp_path, [*flags, "--resume", "true"])
    assert (first.status, second.status, second.out) == (0, 0, "")
    assert "there is nothing to resume" in first.out
    first, second = fork_experiment("linear_regression", tmp_path, flags)
    assert (first.status, second.status, second.err) == (2, 2, "")
    assert "holds a finished run" in first.err


# The experiments that train, but for those that need files of their own.
TRAINING = {
    "weight_decay": ["--max_epochs", "2"],
    "polynomial_regression": ["--max_epochs", "3", "--degrees", "3", "--epochs", "20"],
    "softmax_regression": ["--max_epochs", "1"],
    "mlp": ["--max_epochs", "1"],
    "dropout": ["--max_epochs", "1", "--num_masks", "2"],
    "kaggle_house": ["--max_epochs", "10", "--k", "3"],
    "backpropagation": ["--max_epochs", "1"],
    "initialization": ["--max_epochs", "1", "--depths", "2"],
    "covariate_shift_houses": ["--steps", "30", "--domain_steps", "30"],
    "concept_shift": ["--num_rows", "400"],
}


@pytest.fixture
def few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a small Fashion-MNIST into the place of the real one."""
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", write_images(tmp_path / "images", (400, 100)))


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures", "few_images")
@pytest.mark.parametrize("name", TRAINING)
def test_two_processes_give_the_results_of_one(name: str, tmp_path: Path) -> None:
    flags = [*TRAINING[name], "--enable_progress_bar", "false"]
    expected = run_results(name, tmp_path / "alone", *flags)
    ended = fork_experiment(name, tmp_path, [*TWO, *flags, "--run_dir", str(tmp_path / "two")])
    assert [each.status for each in ended] == [0, 0], ended[0].err + ended[1].err
    assert_close(results_of(tmp_path / "two"), dict(numbers(expected)))


def test_a_search_is_refused(tmp_path: Path) -> None:
    flags = [*TWO, "--trials", "2", "--max_epochs", "1", "--run_dir", str(tmp_path / "run")]
    ended = fork_experiment("search_house", tmp_path, flags)
    assert [each.status for each in ended] == [2, 2]
    assert [line for each in ended for line in printed_by(each.err)] == [
        "search_house: each worker of a search trains on one device; take --workers instead of --devices"
    ]


@pytest.mark.slow
def test_the_script_starts_the_other_process_itself(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "experiments" / "linear_regression.py"),
        "--accelerator",
        "cpu",
        *TWO,
    ]
    variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--max_epochs", "1", "--run_dir", str(tmp_path / "run"), "--enable_progress_bar", "false"],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("truth minus estimate") == 1
    environment = json.loads((tmp_path / "run" / "results.json").read_text())["environment"]
    assert environment["processes"] == 2


class Store(dict[str, bytes]):
    """A store in memory."""

    def set(self, key: str, value: str) -> None:
        self[key] = value.encode()

    def check(self, keys: Sequence[str]) -> bool:
        return all(key in self for key in keys)


def test_a_process_that_gives_no_sign_of_life_is_lost() -> None:
    store, lost = Store(), Queue[int]()
    one = Watch(lambda: store, 0, 3, lost.put, interval=0.01, seconds=0.3)
    other = Watch(lambda: store, 1, 3, lambda _: None, interval=0.01, seconds=60)
    one.start()
    other.start()
    assert lost.get(timeout=30) == 2
    one.stop()
    other.stop()


def test_without_the_store_process_0_is_lost() -> None:
    def fail() -> Store:
        raise RuntimeError("no network")

    lost = Queue[int]()
    Watch(fail, 2, 3, lost.put, interval=0.01, seconds=0.1).start()
    assert lost.get(timeout=30) == 0


def test_a_process_that_hangs_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "INTERVAL", 0.1)
    monkeypatch.setattr(watch, "LOST", 3.0)
    run = tmp_path / "run"

    def stop(processes: Sequence[BaseProcess]) -> None:
        when(saved(run), (1, signal.SIGSTOP))(processes)
        processes[0].join(30)
        os.kill(processes[1].pid or 0, signal.SIGKILL)

    first, _ = fork_experiment(
        "linear_regression", tmp_path, [*TWO, *EPOCHS, "--run_dir", str(run)], during=stop
    )
    assert first.status == 2
    (line,) = printed_by(first.err)
    assert "process 1 of the run is lost; to go on: " in line


def test_processes_that_do_not_come_are_counted() -> None:
    place = Place(size=3, num_nodes=3, started=True, port=free_port())
    with pytest.raises(InputError, match=r"1 of 3 processes came to 127.0.0.1 within 0.2 s \(--join_timeout"):
        Processes(place, "", 0.2, lambda _: None).join()


def test_process_0_that_does_not_answer_is_named() -> None:
    place = Place(size=2, rank=1, num_nodes=2, node=1, started=True, port=free_port())
    with pytest.raises(InputError, match=f"process 0 did not answer at 127.0.0.1:{place.port} within 0.2 s"):
        Processes(place, "", 0.2, lambda _: None).join()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_port_that_another_program_uses_is_named(rank: int) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        place = Place(size=2, rank=rank, started=True, port=server.getsockname()[1])
        with pytest.raises(InputError, match="set MASTER_"):
            Processes(place, "", 0.5, lambda _: None).join()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Remove the variables of those who start processes."""
    for name in (*os.environ,):
        if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    return monkeypatch


SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
BY_HAND = {"LOCAL_RANK": "0", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"MASTER_PORT": "x"}, "MASTER_PORT must be a number from 1 to 65535, not 'x'"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT must be a number from 1 to 65535, not '99999'"),
        ({"NODE_RANK": "x"}, "NODE_RANK must be a number from 0 on, not 'x'"),
        ({"NODE_RANK": "1"}, "process 0 of node 1, but --num_nodes is 1"),
        ({**BY_HAND, "LOCAL_RANK": "2"}, "process 2 of node 0, but --num_nodes is 1 and --devices 2"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK is set, .* but MASTER_PORT is not"),
        ({**SLURM, "SLURM_PROCID": "5"}, "this is process 5, process 0 of node 0"),
        ({**SLURM, "SLURM_PROCID": "x"}, "SLURM_PROCID must be a number from 0 on"),
        ({**SLURM, "SLURM_LOCALID": "x"}, "SLURM_LOCALID must be a number from 0 on"),
        ({**SLURM, "SLURM_JOB_ID": "x"}, "SLURM_JOB_ID must be a number from 1 on"),
        ({**SLURM, "SLURM_NTASKS": "x"}, "SLURM_NTASKS must be a number from 1 on"),
        (
            {**SLURM, "SLURM_NTASKS": "3", "SLURM_NNODES": "2"},
            "3 processes on 2 nodes; start as many on each",
        ),
        (
            {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"},
            "SLURM_LOCALID is not set; start the processes with srun",
        ),
        ({**SLURM, "SLURM_NTASKS": "1"}, "SLURM started 1 process on 1 node, but .* ask for 2 processes"),
    ],
    ids=lambda value: " ".join(map("=".join, value.items())) if isinstance(value, dict) else "",
)
def test_wrong_variables_are_named(
    variables: dict[str, str], message: str, alone: pytest.MonkeyPatch
) -> None:
    for name, value in {"SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "2", **variables}.items():
        alone.setenv(name, value)
    with pytest.raises(InputError, match=message):
        place_of({"devices": 2, "accelerator": "cpu"})


@pytest.mark.parametrize(
    ("variables", "error"),
    [
        ({"LOCAL_RANK": "1"}, InputError),
        ({"SLURM_LOCALID": "1"}, InputError),
        ({**BY_HAND, "LOCAL_RANK": "1"}, SystemExit),
        ({**SLURM, "SLURM_LOCALID": "1"}, SystemExit),
        (BY_HAND, InputError),
    ],
)
def test_a_process_is_silent_only_where_another_one_prints(
    variables: dict[str, str], error: type[BaseException], alone: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        alone.setenv(name, value)
    with pytest.raises(error), one_voice():
        raise InputError("wrong")


def test_a_run_of_one_process_logs_where_a_variable_of_another_program_is_set(
    tmp_path: Path, alone: pytest.MonkeyPatch
) -> None:
    alone.setenv("LOCAL_RANK", "1")
    alone.setattr(rank_zero_only, "rank", 1)  # as Lightning sets it when it is imported
    settings: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False}
    with Run("own", run_dir=tmp_path / "run", **settings) as run:
        run.fit("fit", LinearRegression(2), SyntheticRegressionData(num_train=8, num_val=8))
        run.finish({})
    assert (tmp_path / "run" / "metrics.csv").exists()


class JoinedError(Exception):
    """The processes would have joined."""


def test_a_run_that_has_files_joins_before_its_first_fit(tmp_path: Path, alone: pytest.MonkeyPatch) -> None:
    def join(_: Processes) -> None:
        raise JoinedError

    alone.setattr(Processes, "join", join)
    data = SyntheticRegressionData(num_train=8, num_val=8)
    with Run("own", run_dir=tmp_path / "run", devices=2, accelerator="cpu") as run:
        run.start()
        with pytest.raises(JoinedError):
            run.fit("fit", LinearRegression(2), data)


def test_a_process_that_was_started_for_a_run_ends_with_it(tmp_path: Path, alone: pytest.MonkeyPatch) -> None:
    alone.setenv(processes._STARTER, "7")
    alone.setattr(Processes, "join", lambda _: None)
    settings: dict[str, Any] = {"devices": 2, "accelerator": "cpu", "enable_progress_bar": False}
    with pytest.raises(SystemExit) as exit_, Run("own", run_dir=tmp_path / "run", **settings):
        pass
    assert exit_.value.code == 0


def test_a_second_run_that_would_start_processes_is_refused(alone: pytest.MonkeyPatch) -> None:
    alone.setattr(Processes, "_has_started", True)
    with pytest.raises(InputError, match="a program can train on several devices in one run only"):
        Processes(Place(size=2), "", 1, lambda _: None)


def test_a_process_whose_starter_ended_says_so(alone: pytest.MonkeyPatch) -> None:
    alone.setenv(processes._STARTER, str(os.getpid()))  # that of the parent is another
    place = Place(size=2, rank=1, local_size=2, local_rank=1, started=True, port=free_port())
    orphan = Processes(place, "", 60, lambda _: None)
    with pytest.raises(InputError, match="the process that started this one ended"):
        orphan.join()
    assert orphan.may_print_error()


def test_processes_that_wait_for_a_run_that_ends_are_killed_at_once() -> None:
    run = Processes(Place(size=2), "", 60, lambda _: None)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    run._children.append(child)
    began = time.monotonic()
    run.close(failed=True)
    assert child.returncode == -signal.SIGKILL
    assert time.monotonic() - began < processes._GRACE


def test_an_address_of_no_machine_is_named(alone: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    alone.setattr(socket, "getaddrinfo", fail)
    place = Place(size=2, started=True, address="nowhere", port=free_port())
    with pytest.raises(InputError, match=r"nowhere is no address of a machine \(Name or service not known\)"):
        Processes(place, "", 1, lambda _: None).join()


def join_twice(rank: int, port: int, sums: Any) -> None:
    for run in (1, 2):
        place = Place(size=2, rank=rank, local_size=2, local_rank=rank, started=True, port=port)
        group = Processes(place, "", 20, lambda _: None)
        group.join()
        sums.put(group.most(10 * run + rank)[0])
        assert group.wait()
        group.close()


def test_processes_that_another_program_started_can_have_two_runs() -> None:
    context = multiprocessing.get_context("fork")
    port, sums = free_port(), context.SimpleQueue()
    both = [context.Process(target=join_twice, args=(rank, port, sums)) for rank in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join(60)
        each.kill()
    assert [each.exitcode for each in both] == [0, 0]
    assert sorted(sums.get() for _ in range(4)) == [11, 11, 21, 21]


def test_processes_that_were_all_stopped_for_a_while_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    began, shift = time.monotonic(), [0.0]

    def clock() -> float:
        return began + shift[0]

    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=clock))
    lost = Queue[int]()
    one = Watch(lambda: Store(), 0, 2, lost.put, interval=0.01, seconds=20)
    threads = threading.active_count()
    one.start()
    shift[0] = 1000.0
    time.sleep(0.1)
    one.stop()
    while threading.active_count() > threads:
        time.sleep(0.01)
    assert lost.empty()


def test_signals_after_the_end_began_are_ignored(ctrl_c: None) -> None:
    with StopSignals() as signals:
        signals.ignore()
        signal.raise_signal(signal.SIGTERM)
        assert signals.received is None


@pytest.mark.parametrize("rank", [0, 1])
def test_only_process_0_may_end_without_the_others(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "barrier", fail)
    run = Processes(Place(size=2, rank=rank, local_size=2, local_rank=rank), "", 1, lambda _: None)
    run.joined = True
    assert run.wait() is (rank == 0)


def test_a_second_signal_stops_all_at_once_with_one_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = [*TWO, "--max_epochs", "1000000", "--checkpoint_every", "0", "--run_dir", str(run)]
    twice = when(saved(run), (0, signal.SIGTERM), (0, signal.SIGINT))
    first, second = fork_experiment("linear_regression", tmp_path, flags, during=twice, seconds=60)
    assert first.status in (130, 143)  # they may arrive in either order
    assert second.status != 0
    (line,) = printed_by(first.err + second.err)
    assert line.endswith("--resume true")
    assert "Traceback" not in first.err + second.err
