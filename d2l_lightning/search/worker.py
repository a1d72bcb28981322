"""The workers of a search: each takes trials from the study and trains them in packs until all are done."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from d2l_lightning.errors import InputError
from d2l_lightning.runs.cli import exit_statuses
from d2l_lightning.runs.folder import STATE, whole_file
from d2l_lightning.runs.report import print_warning
from d2l_lightning.runs.run import Run
from d2l_lightning.search.outputs import logged_table
from d2l_lightning.search.pack import PackFit, PackStates, available_memory, make_packs
from d2l_lightning.search.progress import TrialsBar
from d2l_lightning.search.settings import SearchSettings
from d2l_lightning.search.space import SearchSpace
from d2l_lightning.search.study import SearchStudy, TrialToDo
from d2l_lightning.search.task import SearchTask
from d2l_lightning.search.trials import from_optuna

# The file with the name of a worker in its run folder.
NAME = f"{STATE}worker"
# Seconds between two looks at the study while other workers have all trials that are left.
WAIT = 1.0


@dataclass(frozen=True)
class Search:
    """What the workers of a search have in common.

    Attributes:
        task: What is trained.
        space: The settings to choose from.
        url: The storage of the study.
        study: The name of the study.
        settings: How the search is done.
        max_epochs: Epochs of each setting, if the space has none.
        states: The folder of the states of packs.
    """

    task: SearchTask
    space: SearchSpace
    url: str = field(repr=False)
    study: str
    settings: SearchSettings = field(repr=False)  # the URL may have a password
    max_epochs: int
    states: Path

    def open(self, worker: str) -> SearchStudy:
        """Return the study of a worker, a context in which it is open; it is created if there is none.

        Raises:
            InputError: If the storage cannot be used, or has another study of that name.
        """
        return SearchStudy(
            self.url,
            self.study,
            self.space,
            self.settings.trials,
            seed=self.task.seed,
            sampler=self.settings.sampler,
            pruner=self.settings.pruner,
            first_rung=self.settings.first_rung,
            reduction=self.settings.reduction,
            max_epochs=self.max_epochs,
            heartbeat=self.settings.heartbeat,
            worker=worker,
            fingerprint={**self.task.describe(), "max_epochs": self.max_epochs},
        )


def work(run: Run, search: Search, study: SearchStudy) -> None:
    """Train trials of a study in packs until all trials are done, also those of other workers.

    Args:
        run: The run of the worker.
        search: The search.
        study: The open study.
    """
    states, device = PackStates(search.states), run.device

    def refuse(trial: TrialToDo, reason: str) -> None:
        study.prune(trial.number, epochs=0, reason=reason)

    run.prefer_threads(1)  # workers use the other cores, and results do not depend on the size of a stack
    parent = multiprocessing.parent_process()
    with TrialsBar(study, run) as bar:
        while study.unfinished:
            if parent is not None and not parent.is_alive():
                raise InputError("the process that started this worker has ended")
            trials = study.take(search.settings.pack)
            if not trials:
                _wait(run)
            budget = available_memory(device) // 2
            for pack in make_packs(search.task, trials, search.max_epochs, states, budget, refuse):
                PackFit(pack, search.task, study, states, run, bar.update).train()
            bar.update()


def _wait(run: Run) -> None:
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        run.check_signals()
        time.sleep(0.05)


def worker_name(run: Run) -> str:
    """Return the name of a worker: that of the run if it is resumed, or a new one."""
    file = run.folder / NAME
    return file.read_text(encoding="utf-8") if run.resuming and file.exists() else uuid4().hex


def save_worker_name(run: Run, name: str) -> None:
    """Write the name of a worker into the state of its run."""
    with whole_file(run.record(STATE) / Path(NAME).name) as partial:
        partial.write_text(name, encoding="utf-8")


def finish_worker(run: Run, study: SearchStudy, name: str) -> None:
    """End the run of a worker: write and log the trials that it finished."""
    trials = from_optuna(study.counted(), lambda trial: study.space.settings(trial.params))
    own = [trial for trial in trials if trial.worker == name]
    run.finish({"trials": len(own)}, tables=[logged_table(own)])


@contextmanager
def other_workers(run: Run, search: Search, count: int) -> Iterator[None]:
    """A context in which other processes work on the search too, each in a run of its own.

    Their folders are ``workers/worker_2`` and so on in the run folder. They end with the study. If the
    context ends by an error, they are stopped.

    Args:
        run: The run of this process, the first worker.
        search: The search.
        count: The number of workers with this one.
    """
    arguments = run.arguments()
    context = multiprocessing.get_context("spawn")
    folder = run.record("workers/")
    processes: list[BaseProcess] = []
    try:
        with _without_interrupts():
            for number in range(2, count + 1):
                own = {**arguments, "run_dir": folder / f"worker_{number}", "resume": True}
                own |= {"devices": device_of(number - 1, arguments), "enable_progress_bar": False}
                process: BaseProcess = context.Process(
                    target=_worker, args=(own, search), name=f"worker_{number}"
                )
                process.start()
                processes.append(process)
        yield
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join()
            if process.exitcode:
                print_warning(f"{process.name} ended with exit status {process.exitcode}")


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let the processes that start in this context ignore Ctrl-C: this process stops them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def device_of(place: int, flags: Mapping[str, Any]) -> Any:
    """Return the flag ``devices`` of the worker at a place: the workers share the GPUs of the machine."""
    devices = flags.get("devices", 1)
    gpus = torch.cuda.device_count() if flags.get("accelerator", "auto") in ("auto", "gpu", "cuda") else 0
    return [place % gpus] if devices in (1, "1", "auto") and gpus > 1 else devices


def _worker(arguments: Mapping[str, Any], search: Search) -> None:
    """Work on a search in a process that another worker started, without printing results."""
    run = Run(**arguments)
    if run.finished:
        return
    with (
        exit_statuses(f"{run.experiment}, {run.folder.name}"),
        Path(os.devnull).open("w") as nothing,
        redirect_stdout(nothing),
        run,
    ):
        run.group, name = search.study, worker_name(run)
        with search.open(name) as study:
            save_worker_name(run, name)
            work(run, search, study)
            finish_worker(run, study, name)
