"""How many threads a run computes with."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, LightningModule

from d2l_lightning.errors import InputError, require_positive
from d2l_lightning.runs.report import print_warning

# The least work of a step for each thread, see ``step_work``. With steps of 26 million, two threads need 0.7
# of the time of one on an idle machine, but 1.3 to 1.7 of it beside a busy process. Smaller steps gain less
# and lose more: docs/performance.md has the measurements.
WORK_PER_THREAD = 10_000_000
# OpenMP ends the process without a message if the system does not let it create its threads.
MOST_THREADS = 1024
# Users who set one of these have chosen the number.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Threads:
    """The number of PyTorch's threads in a run; the number from before the run is restored after it.

    Args:
        number: The number for the whole run. If not given, ``choose`` sets that of each fit.
        processes: The number of processes of the run on this machine, which share its CPUs.

    Raises:
        InputError: If the number is not positive or too large.
    """

    def __init__(self, number: int | None = None, processes: int = 1) -> None:
        if number is not None:
            require_positive(**{"--threads": number})
            if number > MOST_THREADS:
                raise InputError(f"--threads must be at most {MOST_THREADS}, not {number}")
        self._number, self._before, self._processes = number, torch.get_num_threads(), processes
        self._of_fits: list[int] = []

    def prefer(self, number: int) -> None:
        """Set the number for the whole run, unless the user chose one."""
        if self._number is None and not _chosen_by_user():
            self._number = number

    @property
    def number(self) -> int | None:
        """The number for the whole run; None if each fit has its own."""
        return self._number

    @property
    def most(self) -> int:
        """The most threads that a fit had; without a fit, the number of PyTorch's threads."""
        return max(self._of_fits, default=torch.get_num_threads())

    def __enter__(self) -> None:
        self._before, cpus = torch.get_num_threads(), allowed_cpus()
        if self._number is not None and self._number > cpus:
            print_warning(f"--threads {self._number} is more than the CPUs that the run may use ({cpus})")
        torch.set_num_threads(self._limit())

    def choose(self, model: LightningModule, data: LightningDataModule, device: torch.device) -> None:
        """Set the number of threads for a fit.

        It depends only on the arguments of the run, the machine, the model and the size of the batches, so
        that a resumed fit has the same number. The work of a fit on a GPU does not count.
        """
        number = self._limit()
        if self._number is None and device.type == "cpu" and not _chosen_by_user():
            number = max(1, min(number, step_work(model, data) // WORK_PER_THREAD))
        torch.set_num_threads(number)
        self._of_fits.append(number)

    def _limit(self) -> int:
        """Return the number that the user asks for, or PyTorch's within the CPUs that the run may use."""
        if self._number is not None:
            return self._number
        return self._before if _chosen_by_user() else max(min(self._before, self._cpus()), 1)

    def _cpus(self) -> int:
        """Return the CPUs that this process may use."""
        return allowed_cpus() // self._processes

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)


def _chosen_by_user() -> bool:
    return any(os.environ.get(name) for name in VARIABLES)


def step_work(model: LightningModule, data: LightningDataModule) -> int:
    """Return the work of a training step: the number of parameters times the rows of a batch.

    This is the number of multiplications in the forward pass of a perceptron, and of members side by side,
    each of which has rows of its own. Convolutions need more. Data without a ``batch_size`` count as batches
    of one row.
    """
    rows = getattr(data, "batch_size", None)
    return sum(p.numel() for p in model.parameters()) * (rows if isinstance(rows, int) else 1)


def allowed_cpus(root: Path = Path("/")) -> int:
    """Return how many CPUs the process may use: its affinity mask, within the CPU quota of its container.

    The quota is rounded down, because the kernel pauses all threads of a process that exceeds it.

    Args:
        root: The root of the file system.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min([cpus, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas, in CPUs, of the process's control groups and of all groups above them."""
    top = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 1 has a folder for the controller, and version 2 may stand beside it in "unified".
        mounts = (top / "cpu", top / controllers) if controllers else (top, top / "unified")
        # Within a container, the path may be the host's, and the container's own group is the top one.
        group = Path(path.lstrip("/"))
        for folder in (mount / part for mount in mounts for part in (group, *group.parents)):
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
            limits = [word for name in names for word in _read(folder / name).split()]
            if len(limits) == 2 and all(limit.isdecimal() and int(limit) for limit in limits):
                yield int(limits[0]) / int(limits[1])


def _read(path: Path) -> str:
    """Return the text of a file; none if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
