"""The schedulers of members that train side by side: each member's learning rate changes as it does alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from d2l_lightning.optim.stacked import StackedOptimizer, kept_run


class StackedScheduler(LRScheduler):
    """The schedulers of K members as one.

    Neighbouring members with the same schedule form a run, which has one scheduler and groups of its own in
    the optimizer. A scheduler of steps is not stepped while the members of its run are idle.

    Args:
        optimizer: The optimizer of all members.
        schedulers: The scheduler of each run, by the run's first member and the one after its last.
        by_step: Whether schedulers are stepped after each minibatch, not after each epoch.
    """

    def __init__(
        self, optimizer: StackedOptimizer, schedulers: Mapping[tuple[int, int], LRScheduler], by_step: bool
    ) -> None:
        # The constructor of the base class would take a first step, which the schedulers have taken.
        self.optimizer: StackedOptimizer = optimizer
        self.schedulers, self.by_step = dict(schedulers), by_step
        for scheduler in self.schedulers.values():
            scheduler.optimizer._opt_called = True  # type: ignore[attr-defined]  # it warns otherwise

    def step(self, epoch: int | None = None) -> None:
        """Step the schedulers of all runs, or of those that are active."""
        active = self.optimizer.active if self.by_step else None
        for run, scheduler in self.schedulers.items():
            if active is None or active[run[0]]:
                # The groups are others after the optimizer has loaded a state.
                groups = [group for group in self.optimizer.param_groups if tuple(group["members"]) == run]
                scheduler.optimizer.param_groups = groups
                scheduler.step()

    def keep(self, indices: Sequence[int]) -> None:
        """Drop the schedulers of runs that none of these members belongs to."""
        kept = [(kept_run(run, indices), scheduler) for run, scheduler in self.schedulers.items()]
        self.schedulers = {run: scheduler for run, scheduler in kept if run[0] < run[1]}

    def get_last_lr(self) -> list[Any]:
        """Return the learning rate of each group of the optimizer."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the schedulers, from the first run to the last."""
        return {"schedulers": [scheduler.state_dict() for scheduler in self.schedulers.values()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the states of the schedulers."""
        for scheduler, state in zip(self.schedulers.values(), state_dict["schedulers"], strict=True):
            scheduler.load_state_dict(state)


def schedules(configured: Any, interval: str = "epoch") -> Iterator[tuple[LRScheduler, str]]:
    """Yield each scheduler that ``configure_optimizers`` returned, with its interval: ``step`` or ``epoch``.

    ``ReduceLROnPlateau`` is left out: it depends on a metric of all members.
    """
    if isinstance(configured, Mapping):
        interval = configured.get("interval", "epoch")
        configured = list(configured.values())
    if isinstance(configured, (list, tuple)):
        for part in configured:
            yield from schedules(part, interval)
    elif isinstance(configured, LRScheduler) and not isinstance(configured, ReduceLROnPlateau):
        yield configured, interval


def depends_on_steps(configured: Any) -> bool:
    """Return whether a scheduler is stepped after each minibatch, so that the number of steps counts."""
    return any(interval == "step" for _, interval in schedules(configured))


def stacked_scheduler(
    schedulers: Sequence[LRScheduler], optimizer: StackedOptimizer, interval: str
) -> StackedScheduler:
    """Return the schedulers of K members as one; those of a run, and no others, are the same object."""
    starts = [k for k, each in enumerate(schedulers) if k == 0 or each is not schedulers[k - 1]]
    runs = zip(starts, [*starts[1:], len(schedulers)], strict=True)
    return StackedScheduler(optimizer, {run: schedulers[run[0]] for run in runs}, interval == "step")
