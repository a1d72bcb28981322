"""The queue of trials that the workers of a search share."""

import time
from collections.abc import Iterable, Mapping
from copy import copy, deepcopy
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState, create_trial

from d2l_lightning.search.decisions import SamplerName, suggest
from d2l_lightning.search.space import SearchSpace
from d2l_lightning.search.storage import MAX_RETRY, quietly, retry

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class TrialToDo:
    """A trial that a worker trains.

    Attributes:
        number: The number of the trial in the study.
        index: Which of the trials that were asked for it is, from 0.
        root: The number of the trial that was the first with this index; the same if it is not tried again.
        params: The parameters as Optuna has them.
        settings: The setting that they stand for, with constants.
    """

    number: int
    index: int
    root: int
    params: dict[str, Any]
    settings: dict[str, Any]


class TrialQueue:
    """Trials in a study that wait for a worker, and those that a worker trains.

    Args:
        space: The search space.
        trials: The number of trials.
        seed: The seed of the search.
        sampler: How settings are chosen.
        worker: The name of this worker.

    Attributes:
        patience: Seconds until a worker does what another one has begun and not finished, as if killed.
    """

    patience = 10.0
    _database: RDBStorage
    _storage: BaseStorage
    _study: optuna.Study

    def __init__(self, space: SearchSpace, trials: int, seed: int, sampler: SamplerName, worker: str) -> None:
        self.space, self.trials, self.seed, self.sampler, self.worker = space, trials, seed, sampler, worker
        # The trials that this worker trains, by number, and when it missed trials of an index first.
        self._running: dict[int, FrozenTrial] = {}
        self._missing: dict[int, float] = {}
        self._finished = 0
        self._failed: dict[int, FrozenTrial] = {}  # the last one of each index

    def _enqueue(self, indices: Iterable[int]) -> None:
        """Put trials into the queue, with parameters where these do not depend on other trials."""
        indices = list(indices)
        size = self.space.size
        planned: list[dict[str, Any]] = [{} for _ in indices]
        # TPE has no part in the choice where all settings are tried from the beginning.
        if size is not None and (self.sampler != "tpe" or len(indices) == size):
            combinations = list(islice(self.space.combinations(self.seed), self.trials))
            planned = [combinations[index] for index in indices]
        elif self.sampler == "random":
            planned = suggest(self.space, [], indices, "random", self.seed)
        for index, params in zip(indices, planned, strict=True):
            distributions = dict(self.space.distributions) if params else {}
            trial = create_trial(
                state=TrialState.WAITING,
                params=params,
                distributions=distributions,
                user_attrs={"index": index},
            )
            self._study.add_trial(trial)

    def _trials(self) -> dict[int, FrozenTrial]:
        """Return the trial of each index that counts: of those that did not fail, the first.

        Every call reads all trials that are not finished, and takes long where there are thousands.
        """
        trials: dict[int, FrozenTrial] = {}
        self._failed = {}
        for trial in self._study.get_trials(deepcopy=False):
            # Another worker may have asked for more.
            self.trials = max(self.trials, trial.user_attrs["index"] + 1)
            if trial.state == TrialState.FAIL:
                self._failed[trial.user_attrs["index"]] = trial
            else:
                first = trials.setdefault(trial.user_attrs["index"], trial)
                if first is not trial and trial.state == TrialState.WAITING:  # two workers enqueued it
                    self._finish(trial, TrialState.FAIL)
        self._finished = sum(trial.state in COUNTED for trial in trials.values())
        return {index: trials[index] for index in sorted(trials)}

    def _absent(self, trials: Mapping[int, FrozenTrial]) -> list[int]:
        """Return the indices without a trial that are to be tried."""
        given_up = self._given_up(trials)
        return [index for index in range(self.trials) if index not in trials and index not in given_up]

    def _given_up(self, trials: Mapping[int, FrozenTrial]) -> dict[int, FrozenTrial]:
        return {
            index: trial
            for index, trial in self._failed.items()
            if index not in trials and len(trial.system_attrs.get("retry_history", [])) >= MAX_RETRY
        }

    def _take(self, count: int) -> list[TrialToDo]:
        self.trials = max(self.trials, self._study.user_attrs["trials"])
        running = self._database.get_all_trials(
            self._study._study_id, deepcopy=False, states=(TrialState.RUNNING,)
        )
        taken = sorted(filter(self._mine, running), key=lambda trial: trial.user_attrs["index"])[:count]
        for trial in taken:
            self._database.record_heartbeat(trial._trial_id)
        with quietly():
            fail_stale_trials(self._study)
        trials = self._trials()
        if self._replace_lost(trials):
            trials = self._trials()
        # Not beside trials that go on: as without a stop, the next settings are chosen by their results.
        waiting = [] if taken else [each for each in trials.values() if each.state == TrialState.WAITING]
        for trial in waiting:
            if len(taken) < count and self._start(trial):
                taken.append(trial)
        self._running.update({trial.number: trial for trial in taken})
        self._choose(taken, trials)
        return [self._to_do(trial) for trial in taken]

    def _mine(self, trial: FrozenTrial) -> bool:
        return trial.number not in self._running and trial.user_attrs.get("worker") == self.worker

    def _start(self, trial: FrozenTrial) -> bool:
        """Take a trial from the queue; return False if another worker was faster."""
        # Optuna takes a trial without any heartbeat for alive, so the first one comes before the start.
        self._database.record_heartbeat(trial._trial_id)
        try:
            started = self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False
        if started:
            self._storage.set_trial_user_attr(trial._trial_id, "worker", self.worker)
        return started

    def _replace_lost(self, trials: Mapping[int, FrozenTrial]) -> bool:
        """Enqueue trials that a worker was to enqueue when it was killed; return whether there were any."""
        absent = self._absent(trials)
        now = time.monotonic()
        self._missing = {index: self._missing.get(index, now) for index in absent}
        lost = [index for index in absent if now - self._missing[index] > self.patience]
        for index in lost:
            if index in self._failed:
                retry(self._study, deepcopy(self._failed[index]))
        self._enqueue(index for index in lost if index not in self._failed)
        return bool(lost)

    def _choose(self, taken: Iterable[FrozenTrial], trials: Mapping[int, FrozenTrial]) -> None:
        """Choose the parameters of the trials that have none."""
        new = [trial for trial in taken if trial.params.keys() < self.space.distributions.keys()]
        if not new:
            return
        numbers = {trial.number for trial in new}
        others = [trial for trial in trials.values() if trial.number not in numbers]
        known = [_taken(t) for t in others if t.params.keys() == self.space.distributions.keys()]
        indices = [trial.user_attrs["index"] for trial in new]
        suggested = suggest(self.space, known, indices, self.sampler, self.seed)
        for trial, params in zip(new, suggested, strict=True):
            for name, distribution in self.space.distributions.items():
                if name not in trial.params:
                    value = distribution.to_internal_repr(params[name])
                    self._storage.set_trial_param(trial._trial_id, name, value, distribution)
                    trial.params = {**trial.params, name: params[name]}

    def _to_do(self, trial: FrozenTrial) -> TrialToDo:
        root = trial.system_attrs.get("failed_trial", trial.number)
        settings = self.space.settings(trial.params)
        return TrialToDo(trial.number, trial.user_attrs["index"], root, dict(trial.params), settings)

    def _finish(
        self,
        trial: FrozenTrial,
        state: TrialState,
        values: list[float] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> bool:
        try:
            for name, value in (attributes or {}).items():
                self._storage.set_trial_user_attr(trial._trial_id, name, value)
            self._storage.set_trial_state_values(trial._trial_id, state, values)
        except UpdateFinishedTrialError:
            # By this worker, if the database became unreachable before it answered.
            now = self._storage.get_trial(trial._trial_id)
            return now.state == state and now.user_attrs.get("worker") == self.worker
        return True


def _taken(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial whose setting is not to be chosen again; Optuna would offer one that waits itself."""
    if trial.state == TrialState.WAITING:
        trial = copy(trial)
        trial.state, trial.datetime_start = TrialState.RUNNING, datetime.now()
    return trial
