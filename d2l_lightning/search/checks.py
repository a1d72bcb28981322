"""Checks of a search space and its task, before anything is trained or written."""

import random
from collections.abc import Mapping
from typing import Any

import torch

from d2l_lightning.errors import InputError, require_positive
from d2l_lightning.plots.search import label_of
from d2l_lightning.search.space import SearchSpace
from d2l_lightning.search.task import SearchTask


def most_epochs(space: SearchSpace, max_epochs: int) -> int:
    """Return the most epochs of a setting: those that a search space has, or else a number of epochs."""
    if "max_epochs" in space.distributions:
        return int(max(_ends(space.distributions["max_epochs"])))
    return int(space.constants.get("max_epochs", max_epochs))


def check_space(task: SearchTask, space: SearchSpace, tries: int = 8) -> None:
    """Raise an InputError if the task refuses an end of a range, or a choice, whatever the others are.

    Args:
        task: The task.
        space: The search space.
        tries: Number of settings that are tried with each value.
    """
    if space.metric not in (None, task.metric, f"val/{task.metric}"):
        raise InputError(
            f"the search space is for the metric {space.metric}, but the search minimizes val/{task.metric}"
        )
    generator = random.Random(task.seed)
    ends = {name: _ends(distribution) for name, distribution in space.distributions.items()}
    draws = [{name: generator.choice(values) for name, values in ends.items()} for _ in range(tries)]
    if (
        len(always := {_refusal(task, space.settings(params)) for params in draws}) == 1
        and None not in always
    ):
        raise InputError(always.pop())  # whatever the values are
    for name, end in ((name, end) for name, values in ends.items() for end in values):
        settings = [space.settings({**params, name: end}) for params in draws]
        refusal = _refusal(task, settings[0])
        if refusal is not None and all(_refusal(task, setting) is not None for setting in settings[1:]):
            raise InputError(f"the search space has {name} {label_of(settings[0][name])}: {refusal}")

    accepted = next((each for each in map(space.settings, draws) if _refusal(task, each) is None), None)
    if accepted is not None:
        _check_metric(task, accepted)


def _check_metric(task: SearchTask, setting: Mapping[str, Any]) -> None:
    """Raise an InputError if the models of a task have no validation metric of the task's name."""
    data = task.data(setting)
    member = task.members(setting, data)[0].eval()
    rows = data.val_rows[0][:2]
    X, y = ((data.X[0] if data.per_fold else data.X)[rows], data.y[rows])
    with torch.no_grad():
        values = member.example_metrics(X.to(member.dtype), y)
    known = member.epoch_metrics({name: each.mean() for name, each in values.items()})
    if task.metric not in known:
        raise InputError(f"the model has no metric {task.metric}; known are {', '.join(known)}")


def _refusal(task: SearchTask, setting: Mapping[str, Any]) -> str | None:
    """Return why a task refuses a setting; None if it does not."""
    try:
        require_positive(max_epochs=setting.get("max_epochs", 1))
        task.make_model(setting, task.data(setting))
    except InputError as error:
        return str(error)
    return None


def _ends(distribution: Any) -> list[Any]:
    """Return the choices, or the ends of the range, of a distribution."""
    choices = getattr(distribution, "choices", None)
    return [distribution.low, distribution.high] if choices is None else list(choices)
