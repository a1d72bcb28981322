"""What ``configure_optimizers`` of K members returns, as one configuration for all of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from d2l_lightning.errors import InputError
from d2l_lightning.optim.schedulers import schedules, stacked_scheduler
from d2l_lightning.optim.stacked import StackedOptimizer
from d2l_lightning.optim.stacking import stacked_optimizer

# Optimizers whose step for an element depends on other elements of the parameter.
_MIXING = (torch.optim.LBFGS, torch.optim.Adafactor, torch.optim.Muon)


def stacked_configuration(configured: Sequence[Any], apart: bool = False) -> Any:
    """Return the optimizers and schedulers of K members as one.

    Args:
        configured: What ``configure_optimizers`` returned for each member, over the same stacked parameters.
            Neighbours with the same settings and schedules have the same object.
        apart: Whether neighbours with different objects have groups of their own, even with equal settings.

    Raises:
        InputError: If an optimizer mixes the elements of a parameter, or members differ in more than
            the settings that ``stacked_optimizer`` allows and their schedules, or in these with a
            ``ReduceLROnPlateau``.
    """
    of_members = [list(_optimizers(each)) for each in configured]
    keys = [id(each) for each in configured] if apart or any(schedules(configured[0])) else None
    replaced: dict[int, Optimizer] = {}
    for optimizers in zip(*of_members, strict=True):
        if isinstance(optimizers[0], _MIXING):
            raise InputError(
                f"{type(optimizers[0]).__name__} mixes the elements of a parameter, so members would not "
                "train as they do alone"
            )
        replaced[id(optimizers[0])] = stacked_optimizer(optimizers, keys)
    return _merged(configured, replaced)


def _optimizers(configured: Any) -> Iterator[Optimizer]:
    """Yield the optimizers in any of the forms that ``configure_optimizers`` may return."""
    if isinstance(configured, Optimizer):
        yield configured
    if isinstance(configured, Mapping):
        configured = list(configured.values())
    if isinstance(configured, (list, tuple)):
        for part in configured:
            yield from _optimizers(part)


def _merged(parts: Sequence[Any], replaced: Mapping[int, Optimizer], interval: str = "epoch") -> Any:
    """Return what is the same part of the members' configurations as one, with the replaced optimizers."""
    first = parts[0]
    if isinstance(first, Mapping):
        interval = first.get("interval", "epoch")
        return {name: _merged([part[name] for part in parts], replaced, interval) for name in first}
    if isinstance(first, (list, tuple)):
        return type(first)([_merged(each, replaced, interval) for each in zip(*parts, strict=True)])
    if isinstance(first, LRScheduler | ReduceLROnPlateau):
        optimizer = replaced.get(id(first.optimizer), first.optimizer)
        # Also if all members have the same: a state must not depend on the members that are left.
        if isinstance(optimizer, StackedOptimizer) and not isinstance(first, ReduceLROnPlateau):
            return stacked_scheduler(parts, optimizer, interval)
        if len(optimizer.param_groups) != len(first.optimizer.param_groups):
            raise InputError(
                f"members with a {type(first).__name__} must have the same lr and weight_decay, and take as "
                "many steps"
            )
        for scheduler in (first, *vars(first).get("_schedulers", ())):
            scheduler.optimizer = optimizer
    return replaced.get(id(first), first)
