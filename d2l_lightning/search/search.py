"""A hyperparameter search: settings that are cross-validated side by side, by one worker or many."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.runs.folder import STATE
from d2l_lightning.runs.report import print_line
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import refuse_flags
from d2l_lightning.search.checks import check_space, most_epochs
from d2l_lightning.search.settings import SearchSettings
from d2l_lightning.search.space import SearchSpace
from d2l_lightning.search.storage import sqlite_url
from d2l_lightning.search.task import FoldData, SearchTask, derived_seed
from d2l_lightning.search.trials import SearchResult, from_optuna, ranked
from d2l_lightning.search.worker import (
    Search,
    other_workers,
    save_worker_name,
    work,
    worker_name,
)

# The file of the study in the run folder, if there is no other storage, and those that SQLite has beside it.
DATABASE = ("study.db", "study.db-wal", "study.db-shm")

# Flags of the Trainer that would end a fit at another epoch, or validate it at other times.
UNUSABLE = (
    *("max_steps", "max_time", "min_epochs", "min_steps", "fast_dev_run", "limit_val_batches"),
    *("val_check_interval", "num_sanity_val_steps", "limit_test_batches"),
)


def run_search(run: Run, task: SearchTask, space: SearchSpace, settings: SearchSettings) -> SearchResult:
    """Search for the setting with the least validation metric.

    The study is in ``study.db`` in the run folder, unless the settings name a storage. A setting is trained
    on all folds, with the flags of the run.

    Args:
        run: The run.
        task: What is trained.
        space: The settings to choose from.
        settings: How the search is done.

    Raises:
        InputError: If the space does not suit the task, the storage cannot be used or has another study of
            that name, a flag of the run has no effect here, or all trials failed.
        StoppedError: If the user stops the run.
    """
    if run.num_processes > 1:
        raise InputError("each worker of a search trains on one device; take --workers instead of --devices")
    refuse_flags(run.trainer_flags, "a search trains each setting to its last epoch or a rung", UNUSABLE)
    max_epochs = run.trainer_flags.get("max_epochs")
    if max_epochs is None or max_epochs < 1:
        raise InputError("a search needs --max_epochs, the number of epochs of a setting that is not pruned")
    check_space(task, space)
    _ = run.device  # the Trainer refuses flags that do not suit the machine
    plan = Search(
        task=task,
        space=space,
        url=settings.storage or "",
        study=settings.study or run.experiment,
        settings=settings,
        max_epochs=most_epochs(space, max_epochs),
        states=run.folder / STATE / "packs",
    )
    run.group = plan.study
    name = worker_name(run)
    plan.open(name)  # its checks come before anything is written
    if not plan.url:
        files = [run.record(file) for file in DATABASE]
        plan = replace(plan, url=sqlite_url(files[0]))
    with plan.open(name) as study:
        save_worker_name(run, name)
        if study.limited:
            print_line(f"the space has {study.trials} settings; the search ends when all are tried")
        with other_workers(run, plan, settings.workers):
            work(run, plan, study)
        frozen = [*study.counted(), *study.given_up()]
    trials = from_optuna(frozen, lambda trial: space.settings(trial.params))
    complete = [trial for trial in ranked(trials) if trial.state == "complete"]
    if not complete:
        reasons = [trial.reason for trial in trials if trial.reason]
        raise InputError(f"no setting could be trained to the end: {(reasons or ['unknown'])[0]}")
    best = complete[0]
    epochs = best.settings.get("max_epochs", max_epochs)
    confirmed = cross_validate_again(run, task, best.settings, settings.confirm, epochs)
    return SearchResult(plan.study, trials, frozen, best, confirmed, epochs)


def cross_validate_again(
    run: Run, task: SearchTask, setting: Mapping[str, Any], repeats: int, max_epochs: int
) -> list[list[float]]:
    """Cross-validate a setting on other folds and with other seeds, all side by side.

    Args:
        run: The run.
        task: What was searched.
        setting: The setting.
        repeats: Number of repetitions.
        max_epochs: Number of epochs.

    Returns:
        The metric of each fold, for each repetition.
    """
    if not repeats:
        return []
    members: dict[str, SupervisedModule] = {}
    parts: list[FoldData] = []
    for repeat in range(1, repeats + 1):
        other = task.with_seeds(derived_seed(task.seed, 4, repeat))
        parts.append(other.data(setting))
        made = other.members(setting, parts[-1])
        members |= {f"repeat_{repeat}_fold_{fold}": member for fold, member in enumerate(made, start=1)}
    rows = {
        "train": [rows for part in parts for rows in part.train_rows],
        "val": [rows for part in parts for rows in part.val_rows],
    }
    X, y = parts[0].X, parts[0].y
    if parts[0].per_fold:
        X = torch.cat([part.X for part in parts])
        y = y.expand(len(X), -1)
    seed = derived_seed(task.seed, 5)
    data = StackedData(X, y, rows, parts[0].batch_size, seed, drop_last=parts[0].drop_last)
    stack = StackedModule(list(members.values()), list(members))
    torch.manual_seed(seed)  # of dropout: the generator's state is another one if the search was resumed
    title = "best setting on other folds"
    fit = run.fit("confirm", stack, data, title=title, max_epochs=max_epochs, num_validations=1)
    values = fit.validate()[f"val/{task.metric}"]
    return values.view(repeats, -1).tolist()
