"""The load of the machine is measured, and busy processes end in every case."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from d2l_lightning.benchmarks import load
from d2l_lightning.benchmarks.load import Load, busy_cores, machine_load
from tests.conftest import ROOT

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")


def test_the_share_of_cpu_time_is_that_of_a_sample(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    # user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice
    stat.write_text("cpu  1000 10 200 5000 300 1 2 3 400 5\ncpu0 0 0 0 0 0 0 0 0 0 0\n")
    monkeypatch.setattr(load, "STAT", stat)
    after = "cpu  1020 11 204 5050 318 2 4 7 410 7\ncpu0 9 9 9 9 9 9 9 9 9 9\n"
    monkeypatch.setattr(time, "sleep", lambda seconds: stat.write_text(after))
    monkeypatch.setattr(os, "getloadavg", lambda: (6.0, 1.0, 1.0), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    measured = machine_load()
    assert measured == Load(average_per_cpu=1.5, cpu_share=0.32)  # 32 of 100 ticks were not idle
    assert str(measured) == "load of the machine: load average 1.50 per CPU, 32% of CPU time in use"


@pytest.mark.parametrize("text", [None, "", "intr 1 2\n", "cpu  1 2 3 4 5 6 7 8\n"])
def test_what_the_system_does_not_report_is_unknown(
    text: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_average() -> None:
        raise OSError

    if text is not None:
        (tmp_path / "stat").write_text(text)
    monkeypatch.setattr(load, "STAT", tmp_path / "stat")
    monkeypatch.setattr(load, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(os, "getloadavg", no_average, raising=False)
    measured = machine_load()
    assert measured == Load(None, None)
    assert measured.idle is None
    assert "no load average on this system, CPU time in use unknown on this system" in str(measured)


@pytest.mark.parametrize(
    ("average", "share", "idle"),
    [(0.9, 0.05, True), (0.0, 0.5, False), (0.05, None, True), (0.5, None, False)],
)
def test_the_average_of_a_minute_counts_only_where_the_share_is_unknown(
    average: float, share: float | None, idle: bool
) -> None:
    assert Load(average, share).idle is idle


def state_of(pid: int) -> str:
    """Return the letter of a process's state: Z if it has ended and nobody has asked, X if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"


def cpu_ticks(pid: int) -> int:
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


@needs_proc
def test_a_process_for_each_core_uses_cpu_time_until_the_context_ends() -> None:
    with busy_cores() as processes:
        assert len(processes) == len(os.sched_getaffinity(0))
        for process in processes:
            before = cpu_ticks(process.pid)
            while cpu_ticks(process.pid) < before + 5:
                assert process.poll() is None
                time.sleep(0.01)
    assert all(process.returncode == -signal.SIGKILL for process in processes)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_busy_processes_end_after_an_error(error: type[BaseException]) -> None:
    with pytest.raises(error), busy_cores() as processes:
        raise error
    assert processes
    assert all(process.returncode is not None for process in processes)


def test_busy_processes_end_if_one_of_them_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def start_one(*args: object, **flags: object) -> subprocess.Popen[bytes]:
        if started:
            raise OSError("no more processes")
        started.append(start(*args, **flags))  # type: ignore[call-overload]
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", start_one)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    with pytest.raises(OSError, match="no more"), busy_cores():
        raise AssertionError
    assert [process.returncode is not None for process in started] == [True]


@needs_proc
def test_busy_processes_end_if_their_parent_is_killed() -> None:
    code = (
        "from d2l_lightning.benchmarks.load import busy_cores\n"
        "with busy_cores() as processes: print(*(p.pid for p in processes), flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, **pipes) as parent:  # type: ignore[call-overload]
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert pids
        assert all(state_of(pid) not in "XZ" for pid in pids)
        parent.kill()
    deadline = time.monotonic() + 60
    while any(state_of(pid) not in "XZ" for pid in pids):
        assert time.monotonic() < deadline, "a busy process has outlived its parent"
        time.sleep(0.01)
