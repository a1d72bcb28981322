"""The load of the machine: measured before a benchmark, and made by busy processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Above this share of CPU time in use, timings are those of a shared machine.
IDLE_SHARE = 0.1
SAMPLE_SECONDS = 0.5
# Linux's counters of CPU time since the start.
STAT = Path("/proc/stat")
# Counts until it is killed, or its parent is gone.
BUSY = """
import os
parent = os.getppid()
print(flush=True)
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""


@dataclass(frozen=True)
class Load:
    """The load of the machine; None where the system does not report it.

    Attributes:
        average_per_cpu: Processes that ran or waited for a CPU in the last minute, on average, for each CPU.
        cpu_share: The share of CPU time in use, from 0 to 1, over a short sample.
    """

    average_per_cpu: float | None
    cpu_share: float | None

    @property
    def idle(self) -> bool | None:
        """Whether the machine is idle; None if that is not known."""
        # The average is that of the last minute: it is high after a benchmark that has ended.
        load = self.average_per_cpu if self.cpu_share is None else self.cpu_share
        return None if load is None else load <= IDLE_SHARE

    def __str__(self) -> str:
        average, share = self.average_per_cpu, self.cpu_share
        texts = (
            "no load average on this system" if average is None else f"load average {average:.2f} per CPU",
            "CPU time in use unknown on this system" if share is None else f"{share:.0%} of CPU time in use",
        )
        return f"load of the machine: {', '.join(texts)}"


def machine_load() -> Load:
    """Return the load of the machine, which takes a sample of half a second."""
    before = _cpu_seconds()
    time.sleep(SAMPLE_SECONDS)
    used, total = (late - early for early, late in zip(before, _cpu_seconds(), strict=True))
    try:
        average = os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):  # Windows
        average = None
    return Load(average, used / total if total else None)


def _cpu_seconds() -> tuple[float, float]:
    """Return the CPU time in use and in all since the start, in ticks of a clock; zeros if unknown."""
    try:
        # user, nice, system, idle, iowait, irq, softirq, steal; guests are in user and nice already.
        ticks = [float(word) for word in STAT.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return 0.0, 0.0
    return sum(ticks) - sum(ticks[3:5]), sum(ticks)


@contextmanager
def busy_cores() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep every core that this process may use busy within the context; yield the process for each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(cores):
            command = [sys.executable, "-c", BUSY]
            none = subprocess.DEVNULL
            processes.append(subprocess.Popen(command, stdin=none, stdout=subprocess.PIPE, stderr=none))
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # it is busy from now on
        yield processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()
