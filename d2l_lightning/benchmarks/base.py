"""What benchmark jobs share: one piece of work, done by several implementations that are timed in turn."""

import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import Sampler

from d2l_lightning.benchmarks import ENVIRONMENT
from d2l_lightning.data.batches import ShuffledBatches, StackedBatches
from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import LEAN

# PyTorch's own number of threads. Each implementation begins with it; a run chooses another for small models.
THREADS = torch.get_num_threads()

# An implementation does the work and returns metrics, which show that all implementations did the same.
Metrics = dict[str, float]
Implementation = Callable[[], Metrics]


class Job:
    """One piece of work, done by several implementations on the CPU or, if the job can, on a GPU.

    They start from the same weights and take the same batches, in a run that has been started. ``scripts`` is
    the folder of the experiments.

    Attributes:
        title: What is timed.
        implementations: The implementations by name, this project's first.
        baselines: The implementations that this project's is compared with, by the name of the ratio.
        steps: The number of steps of each implementation, if times are shown per step.
        default_epochs: Epochs of each fit if the user chooses none.
        warm_up: Whether each implementation is called once before it is timed: imports are not timed then.
        on_gpu: Whether the job can be timed on a GPU.
        device: Where it is timed.

    Raises:
        InputError: If the run has another accelerator than the CPU, and the job cannot be timed there.
    """

    title: str
    implementations: dict[str, Implementation]
    baselines: ClassVar[dict[str, str]] = {}
    steps: int | None = None
    default_epochs = 100
    warm_up = True
    on_gpu = False

    def __init__(self, run: Run, epochs: int, scripts: Path) -> None:
        self.run, self.epochs, self.seed, self.scripts = run, epochs, run.seed, scripts
        self.device = self.device_of(run)

    @classmethod
    def device_of(cls, run: Run) -> torch.device:
        """Return the device on which the job is timed: the CPU, unless the run's flags say another."""
        accelerator = run.trainer_flags.get("accelerator") or "auto"
        device = torch.device("cpu") if accelerator == "auto" else run.device
        if device.type != "cpu" and not cls.on_gpu:
            raise InputError(f"--accelerator {accelerator}: this job is timed on the CPU")
        return device

    @property
    def accelerator(self) -> str:
        """The device as a flag of the Trainer."""
        return {"cuda": "gpu"}.get(self.device.type, self.device.type)

    def ratios(self, medians: Mapping[str, float]) -> dict[str, float]:
        """Return ratios of median seconds, by name: this project's divided by each baseline's."""
        timed = {name: other for name, other in self.baselines.items() if other in medians}
        return {name: medians["this project"] / medians[other] for name, other in timed.items()}

    def clock(self, name: str) -> Callable[[], float]:
        """Return the clock of an implementation, in seconds."""
        return time.perf_counter

    def surroundings(self, name: str) -> AbstractContextManager[Any]:
        """Return the context in which an implementation is timed."""
        return nullcontext()

    def other_seconds(self, repeats: int) -> dict[str, float]:
        """Return times beside those of the implementations, by name: medians in seconds."""
        return {}

    def fit_in_run(
        self, name: str, model: SupervisedModule, data: LightningDataModule, *callbacks: Callback
    ) -> None:
        """Train a model in a run of its own, with the defaults of this project's experiments."""
        folder = self.run.folder / "metrics" / name
        flags: dict[str, Any] = {"accelerator": self.accelerator, "enable_progress_bar": False}
        flags["overwrite"] = True
        with Run(name, seed=self.seed, run_dir=folder, max_epochs=self.epochs, **flags) as run:
            run.fit(name, model, data, callbacks=callbacks)

    def trainer(self, name: str, **flags: Any) -> Trainer:
        """Return a plain Trainer that logs to ``metrics/NAME`` in the run folder."""
        logger = CSVLogger(self.run.folder / "metrics", name=name, version="")
        quiet = dict.fromkeys(("enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
        flags = {"accelerator": self.accelerator, "devices": 1, **quiet, **flags}
        return Trainer(max_epochs=self.epochs, logger=logger, **flags)

    def lean_trainer(self, name: str, **flags: Any) -> Trainer:
        """Return a Trainer with the defaults of this project's runs."""
        return self.trainer(name, **LEAN, **flags)


class GivenOrder(Sampler[int]):
    """Yields rows one by one, in the order that is given for each epoch, shape ``(n,)``."""

    def __init__(self, orders: Sequence[Tensor]) -> None:
        self.orders, self.epoch = orders, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.orders[self.epoch])

    def __iter__(self) -> Iterator[int]:
        return iter(self.orders[self.epoch].tolist())


def epochs_of(batches: ShuffledBatches | StackedBatches, epochs: int) -> Iterator[list[Any]]:
    """Yield the batches of each epoch."""
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        yield list(batches)


@contextmanager
def without_lightning() -> Iterator[None]:
    """Undo within the context what Lightning sets on import and plain PyTorch does not have.

    With this variable, PyTorch asks the driver in every step of Adam whether there is a GPU: 0.1 ms a step.
    """
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    value = os.environ.pop(name, None)
    if name in ENVIRONMENT:
        os.environ[name] = ENVIRONMENT[name]
    try:
        yield
    finally:
        if value is not None:
            os.environ[name] = value


def output_of(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run Python with the words of a command line and return what it prints.

    Raises:
        InputError: If its exit status is not 0.
    """
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        *_, last = ["", *done.stderr.strip().splitlines()]
        raise InputError(f"{shlex.join(command)} ended with exit status {done.returncode}: {last}")
    return done.stdout


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_in_turn(job: Job, turns: Iterable[int]) -> tuple[dict[str, list[float]], dict[str, Metrics]]:
    """Call all implementations once a turn; return the seconds of each call and the last metrics, by name."""
    seconds: dict[str, list[float]] = {name: [] for name in job.implementations}
    metrics: dict[str, Metrics] = {}
    for turn in turns:
        # Every other turn goes backwards, so that none always follows the same other.
        for name in list(job.implementations)[:: -1 if turn % 2 else 1]:
            torch.set_num_threads(THREADS)
            clock = job.clock(name)
            with job.surroundings(name):
                wait_for(job.device)
                start = clock()
                metrics[name] = job.implementations[name]()
                wait_for(job.device)
                seconds[name].append(clock() - start)
    return seconds, metrics


def mean_metrics(pairs: Iterable[Sequence[float]]) -> Metrics:
    """Return the means of pairs of a training and a validation metric."""
    train, val = zip(*pairs, strict=True)
    return {"train": statistics.fmean(train), "val": statistics.fmean(val)}
