"""What ``configure_optimizers`` of K members returns, as one configuration for all of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from d2l_lightning.errors import InputError
from d2l_lightning.optim.stacked import stacked_optimizer

# Optimizers whose step for an element depends on other elements of the parameter.
_MIXING = (torch.optim.LBFGS, torch.optim.Adafactor, torch.optim.Muon)


def stacked_configuration(configured: Sequence[Any]) -> Any:
    """Return the optimizers of K members as one, with the schedulers of the first.

    Args:
        configured: What ``configure_optimizers`` returned for each member, over the same stacked parameters.

    Raises:
        InputError: If an optimizer mixes the elements of a parameter, or members differ in more than
            ``lr`` and ``weight_decay``, or in these with a scheduler.
    """
    of_members = [list(_optimizers(each)) for each in configured]
    replaced: dict[int, Optimizer] = {}
    for optimizers in zip(*of_members, strict=True):
        if isinstance(optimizers[0], _MIXING):
            raise InputError(
                f"{type(optimizers[0]).__name__} mixes the elements of a parameter, so members would not "
                "train as they do alone"
            )
        replaced[id(optimizers[0])] = stacked_optimizer(optimizers)
    return _replace(configured[0], replaced)


def _optimizers(configured: Any) -> Iterator[Optimizer]:
    """Yield the optimizers in any of the forms that ``configure_optimizers`` may return."""
    if isinstance(configured, Optimizer):
        yield configured
    if isinstance(configured, Mapping):
        configured = list(configured.values())
    if isinstance(configured, (list, tuple)):
        for part in configured:
            yield from _optimizers(part)


def _replace(configured: Any, replaced: Mapping[int, Optimizer]) -> Any:
    """Return a configuration in which optimizers are replaced by others."""
    if isinstance(configured, Mapping):
        return {name: _replace(part, replaced) for name, part in configured.items()}
    if isinstance(configured, (list, tuple)):
        return type(configured)([_replace(part, replaced) for part in configured])
    if isinstance(configured, LRScheduler | ReduceLROnPlateau):
        for scheduler in (configured, *vars(configured).get("_schedulers", ())):
            optimizer = replaced.get(id(scheduler.optimizer), scheduler.optimizer)
            if len(optimizer.param_groups) != len(scheduler.optimizer.param_groups):
                raise InputError(
                    f"members with a {type(scheduler).__name__} must have the same lr and weight_decay"
                )
            scheduler.optimizer = optimizer
    return replaced.get(id(configured), configured)
