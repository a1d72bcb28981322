"""What benchmark jobs share: one piece of work, done by several implementations that are timed in turn."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import Sampler

from d2l_lightning.data.batches import ShuffledBatches, StackedBatches
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import LEAN

# An implementation does the work and returns metrics, which show that all implementations did the same.
Metrics = dict[str, float]
Implementation = Callable[[], Metrics]


class Job:
    """One piece of work, done by several implementations on the CPU.

    They start from the same weights and take the same batches, in a run that has been started. ``scripts`` is
    the folder of the experiments.

    Attributes:
        title: What is timed.
        implementations: The implementations by name, this project's first.
        baselines: The implementations that this project's is compared with, by the name of the ratio.
        steps: The number of steps of each implementation, if times are shown per step.
        default_epochs: Epochs of each fit if the user chooses none.
    """

    title: str
    implementations: dict[str, Implementation]
    baselines: ClassVar[dict[str, str]] = {}
    steps: int | None = None
    default_epochs = 100

    def __init__(self, run: Run, epochs: int, scripts: Path) -> None:
        self.run, self.epochs, self.seed, self.scripts = run, epochs, run.seed, scripts

    def ratios(self, medians: Mapping[str, float]) -> dict[str, float]:
        """Return ratios of median seconds, by name: this project's divided by each baseline's."""
        return {name: medians["this project"] / medians[other] for name, other in self.baselines.items()}

    def other_seconds(self, repeats: int) -> dict[str, float]:
        """Return times beside those of the implementations, by name: medians in seconds."""
        return {}

    def trainer(self, name: str, **flags: Any) -> Trainer:
        """Return a plain Trainer that logs to ``metrics/NAME`` in the run folder."""
        logger = CSVLogger(self.run.folder / "metrics", name=name, version="")
        quiet = dict.fromkeys(("enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
        return Trainer(accelerator="cpu", max_epochs=self.epochs, logger=logger, **{**quiet, **flags})

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


def time_in_turn(
    implementations: Mapping[str, Implementation], turns: Iterable[int]
) -> tuple[dict[str, list[float]], dict[str, Metrics]]:
    """Call all implementations once a turn; return the seconds of each call and the last metrics, by name."""
    seconds: dict[str, list[float]] = {name: [] for name in implementations}
    metrics: dict[str, Metrics] = {}
    for turn in turns:
        # Every other turn goes backwards, so that none always follows the same other.
        for name in list(implementations)[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            metrics[name] = implementations[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds, metrics


def mean_metrics(pairs: Iterable[Sequence[float]]) -> Metrics:
    """Return the means of pairs of a training and a validation metric."""
    train, val = zip(*pairs, strict=True)
    return {"train": statistics.fmean(train), "val": statistics.fmean(val)}
