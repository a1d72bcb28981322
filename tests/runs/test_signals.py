"""Signals stop a run after its state is saved, and the exit status names them."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.runs import signals
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.signals import StoppedError, StopSignals
from tests.runs.test_run import FLAGS, small_data

STOPPING = ["SIGINT", "SIGTERM", "SIGHUP"]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Set the usual handlers, which a background process does not have; check that runs leave them."""
    usual = {getattr(signal, name): signal.SIG_DFL for name in (*STOPPING, "SIGUSR1")}
    usual = {**usual, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    after = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert after == usual


class Send(Callback):
    """Sends signals to the process at a hook, each at a call of its own."""

    def __init__(self, hook: str, *numbers: int | None) -> None:
        self.numbers = list(numbers)
        self.calls = 0
        setattr(self, hook, self.send)

    def send(self, *_: Any) -> None:
        self.calls += 1
        if self.numbers and (number := self.numbers.pop(0)) is not None:
            os.kill(os.getpid(), number)


def main_with(callback: Callback, epochs: int = 5) -> Callable[[Run], None]:
    def main(run: Run) -> None:
        run.fit("line", LinearRegression(2), small_data(), callbacks=[callback], max_epochs=epochs)
        run.finish({"value": 1.0})

    return main


def status_of(main: Callable[[Run], None], folder: Path, *flags: str) -> int:
    try:
        run_experiment(main, ["--accelerator=cpu", "--run_dir", str(folder), *flags])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize("name", STOPPING)
def test_a_signal_stops_at_the_end_of_the_epoch_with_its_status(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    number = getattr(signal, name)
    callback = Send("on_train_batch_start", None, number)
    assert status_of(main_with(callback), tmp_path) == 128 + number
    by = "" if name == "SIGINT" else f" by {name}"
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("test_signals: ")]
    assert line.startswith(f"test_signals: stopped{by} after epoch 1 of 5 of the line; to go on: python ")
    assert line.endswith(f"--run_dir {tmp_path} --resume true")
    assert (tmp_path / "state/01_line.ckpt").exists()
    assert not list(tmp_path.rglob(".*"))
    rest = Send("on_train_epoch_end")
    assert status_of(main_with(rest), tmp_path, "--resume", "true") == 0
    assert rest.calls == 4


def test_a_signal_in_the_last_epoch_keeps_the_whole_fit(tmp_path: Path) -> None:
    assert status_of(main_with(Send("on_train_epoch_end", signal.SIGTERM), 1), tmp_path) == 143
    rest = Send("on_train_epoch_start")
    assert status_of(main_with(rest, 1), tmp_path, "--resume", "true") == 0
    assert rest.calls == 0


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    callback = Send("on_train_batch_start", signal.SIGTERM, signal.SIGTERM)
    assert status_of(main_with(callback), tmp_path) == 143
    assert callback.calls == 2
    assert not (tmp_path / "state").exists()  # there is nothing before the end of the first epoch
    assert not list(tmp_path.rglob(".*"))


def test_an_epoch_that_takes_long_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Send):
        def send(self, *_: Any) -> None:
            super().send()
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:  # pure Python, in which a signal is seen
                time.sleep(0.01)

    monkeypatch.setattr(signals, "GRACE", 0.2)
    began = time.monotonic()
    assert status_of(main_with(Slow("on_train_batch_start", signal.SIGTERM)), tmp_path) == 143
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_signal_outside_of_training_stops_at_once(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(run: Run) -> None:
        if place == "after":
            run.start()
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")

    folder = tmp_path / "run"
    assert status_of(main, folder) == 143
    line = capsys.readouterr().err.splitlines()[-1]
    if place == "before":
        assert line.endswith(f": stopped by SIGTERM before training; nothing was written to {folder}")
        assert not folder.exists()
    else:
        assert "stopped by SIGTERM outside of training; to go on: " in line


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.received is None
    signal.signal(signal.SIGHUP, before)


def test_sigusr1_stops_in_a_slurm_job_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopSignals():
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    stop = StopSignals()
    with stop, pytest.raises(StoppedError, match="stopped by SIGUSR1 there"), stop.stopping(lambda: "there"):
        os.kill(os.getpid(), signal.SIGUSR1)


def test_in_a_thread_no_handler_is_set(tmp_path: Path) -> None:
    import threading

    done: list[float] = []

    def work() -> None:
        with Run("test", run_dir=str(tmp_path), **FLAGS) as run:
            run.fit("line", LinearRegression(2), small_data(), max_epochs=1)
            run.finish({"value": 1.0})
        done.append(1.0)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
