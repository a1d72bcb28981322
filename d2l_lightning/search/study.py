"""A search as an Optuna study that any number of workers share."""

import json
import math
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from types import TracebackType
from typing import Any, TypeVar

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.storages import get_storage
from optuna.trial import FrozenTrial, TrialState

from d2l_lightning.errors import InputError, require_known, require_positive
from d2l_lightning.search.decisions import PrunerName, SamplerName, make_pruner, to_prune
from d2l_lightning.search.queue import COUNTED, TrialQueue
from d2l_lightning.search.queue import TrialToDo as TrialToDo
from d2l_lightning.search.space import SearchSpace
from d2l_lightning.search.storage import Heartbeats, open_storage, patiently, retry

SAMPLERS: dict[str | None, SamplerName] = {"bayes": "tpe", "random": "random", "grid": "grid", None: "tpe"}
Result = TypeVar("Result")


class SearchStudy(TrialQueue):
    """A study whose trials are taken, trained and finished by workers.

    The trials to do, ``index`` 0 to ``trials - 1``, are put into the queue when the study is created. Workers
    take them from there. The trials of a worker that missed three heartbeats are put into the queue again.
    As a context, the study is open, and the heartbeats of this worker are recorded.

    Args:
        url: The URL of the storage, see ``storage.sqlite_url``.
        name: The name of the study in the storage.
        space: The search space.
        trials: The number of trials.
        seed: The seed of the search.
        sampler: How settings are chosen; as the method of the search space if None, else by TPE.
        pruner: How trials are ended early.
        first_rung: The epoch of the first decision about ending trials.
        reduction: The factor between rungs, and between the numbers of trials before and after one.
        max_epochs: The epochs of a trial that is not ended early.
        heartbeat: Seconds between two heartbeats.
        worker: The name of this worker. A worker of the same name gets the trials that it was training.
        fingerprint: What must be the same for all workers, as JSON has it.

    Attributes:
        limited: Whether the space has fewer settings than the trials that were asked for.

    Raises:
        InputError: If an argument is out of range.
    """

    def __init__(
        self,
        url: str,
        name: str,
        space: SearchSpace,
        trials: int,
        *,
        seed: int = 0,
        sampler: SamplerName | None = None,
        pruner: PrunerName = "halving",
        first_rung: int = 5,
        reduction: int = 3,
        max_epochs: int,
        heartbeat: int = 20,
        worker: str,
        fingerprint: Mapping[str, Any],
    ) -> None:
        require_positive(trials=trials, first_rung=first_rung, max_epochs=max_epochs, heartbeat=heartbeat)
        if not 0 < len(name) <= 512:
            raise InputError("a study must have a name, of at most 512 characters")
        require_known("pruner", pruner, PrunerName)
        if reduction < 2:
            raise InputError(f"reduction must be 2 or more, not {reduction}")
        sampler = sampler or SAMPLERS[space.method]
        require_known("sampler", sampler, SamplerName)
        if sampler == "grid" and space.size is None:
            next(space.combinations())
        self.limited = space.size is not None and trials > space.size
        super().__init__(space, min(trials, space.size or trials), seed, sampler, worker)
        self.url, self.name = url, name
        self._max_epochs, self._first_rung, self._reduction = max_epochs, first_rung, reduction
        self._heartbeat, self._pruner = heartbeat, pruner
        settings = {"seed": seed, "sampler": sampler, "pruner": pruner, "max_epochs": max_epochs}
        rungs = {"first_rung": first_rung, "reduction": reduction}
        parameters = {f"parameter {name}": text for name, text in space.canonical().items()}
        self._fingerprint = json.loads(json.dumps({**parameters, **settings, **rungs, **fingerprint}))

    def open(self) -> "SearchStudy":
        """Create the study, or join it, and start the heartbeats.

        Raises:
            InputError: If the storage cannot be used, or has another study of this name.
        """
        self._database = open_storage(self.url, self._heartbeat)
        # Optuna's cache keeps finished trials in memory.
        self._storage = get_storage(self._database)
        self._call(self._create_or_join)
        self._heartbeats = Heartbeats(
            self._database, lambda: [trial._trial_id for trial in list(self._running.values())]
        )
        return self

    def close(self) -> None:
        """Stop the heartbeats, and close the connections. Trials that run are taken by others, or resumed."""
        self._heartbeats.stop()
        self._database.remove_session()
        self._database.engine.dispose()

    def __enter__(self) -> "SearchStudy":
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, call: Callable[[], Result]) -> Result:
        far = f"{self._finished} of {self.trials} trials are finished; "
        return patiently(call, self.url, far)

    def _create_or_join(self) -> None:
        common: dict[str, Any] = {"storage": self._storage, "sampler": RandomSampler(), "pruner": NopPruner()}
        try:
            self._study = optuna.create_study(study_name=self.name, direction="minimize", **common)
        except DuplicatedStudyError:
            self._study = optuna.load_study(study_name=self.name, **common)
            attributes = self._agreed()
            if attributes:
                self._require_same(attributes["fingerprint"])
                self._extend(attributes)
                return
        for name in ("worker", "trials", "_fingerprint"):
            self._study.set_user_attr(name.lstrip("_"), getattr(self, name))
        self._enqueue(range(self.trials))

    def _agreed(self) -> dict[str, Any]:
        """Return what the creator of the study wrote to it; nothing if it was killed before."""
        end = time.monotonic() + self.patience
        while "fingerprint" not in (attributes := self._study.user_attrs):
            if self._study.get_trials(deepcopy=False) or self._study.direction.name != "MINIMIZE":
                raise InputError(
                    f"the study {self.name} in this storage is no search; choose another --study"
                )
            if time.monotonic() > end:
                return {}
            time.sleep(0.2)
        return attributes

    def _require_same(self, there: Mapping[str, Any]) -> None:
        """Raise an InputError if the study was created with other settings."""
        here = self._fingerprint
        for name in [*here, *there]:
            if here.get(name) != there.get(name):
                found = (each.get(name) for each in (there, here))
                values = [value if isinstance(value, str) else json.dumps(value) for value in found]
                raise InputError(
                    f"the study {self.name} in this storage has another {name}: {values[0]}, not "
                    f"{values[1]}; choose another --study, or the same settings"
                )

    def _extend(self, attributes: Mapping[str, Any]) -> None:
        """Enqueue what this worker wants beyond the trials of the study, or what it left out when killed."""
        before, wanted = attributes["trials"], self.trials
        self.trials = max(before, wanted)
        if wanted > before:
            self._study.set_user_attr("trials", wanted)
            self._enqueue(range(before, wanted))
        elif attributes["worker"] == self.worker:
            self._enqueue(self._absent(self._trials()))

    def take(self, count: int) -> list[TrialToDo]:
        """Return up to ``count`` trials that this worker is to train, with a setting for each.

        First come trials that an earlier process of this worker was training, then those of the queue. An
        empty list means that there is nothing to do now; ``unfinished`` is 0 if nothing is left.

        Raises:
            InputError: If the storage does not answer.
        """
        return self._call(lambda: self._take(count))

    def rungs(self) -> list[int]:
        """Return the epochs at which trials report, and the last epoch."""
        rungs: list[int] = []
        rung = self._first_rung
        while self._pruner != "none" and rung < self._max_epochs:
            rungs.append(rung)
            rung *= self._reduction
        return [*rungs, self._max_epochs]

    def report(self, values: Mapping[int, float], epoch: int) -> set[int]:
        """Report the values of trials at a rung; return the numbers of those that end here.

        These are the trials that the pruner ends, those whose value is not finite, and those that another
        worker has taken over, because this one missed its heartbeats.

        Raises:
            InputError: If the storage does not answer.
        """
        return self._call(lambda: self._report(values, epoch))

    def _report(self, values: Mapping[int, float], epoch: int) -> set[int]:
        ended: set[int] = set()
        for number, value in values.items():
            trial = self._running.get(number)
            if trial is None:
                ended.add(number)
                continue
            value = float(value) if math.isfinite(value) else math.inf
            try:
                self._storage.set_trial_intermediate_value(trial._trial_id, epoch, value)
            except UpdateFinishedTrialError:
                self._running.pop(number)
            if number not in self._running or value == math.inf:
                ended.add(number)
        indices = {self._running[n].user_attrs["index"]: n for n in values if n not in ended}
        if indices and self._pruner != "none":
            pruner = make_pruner(self._pruner, self._first_rung, self._reduction, self._max_epochs)
            rungs = [rung for rung in self.rungs() if rung <= epoch]
            ended |= {indices[index] for index in to_prune(pruner, self._trials(), indices, rungs)}
        return ended

    def complete(self, number: int, value: float, **attributes: Any) -> bool:
        """Finish a trial with its value; a value that is not finite counts as pruned.

        Args:
            number: The number of the trial.
            value: What the search minimizes.
            attributes: What else is kept of the trial, as JSON has it.

        Returns:
            Whether the trial was this worker's: another one may have taken it over.
        """
        if not math.isfinite(value):
            return self.prune(number, **attributes)
        return self._end(number, TrialState.COMPLETE, [float(value)], attributes)

    def prune(self, number: int, **attributes: Any) -> bool:
        """Finish a trial that ends early; see ``complete``."""
        return self._end(number, TrialState.PRUNED, None, attributes)

    def fail(self, number: int, reason: str) -> None:
        """Give a trial up, for an error that may not happen again. It is tried again, three times at most."""
        trial = self._running.get(number)
        if self._end(number, TrialState.FAIL, None, {"reason": reason}) and trial is not None:
            self._call(lambda: retry(self._study, deepcopy(self._storage.get_trial(trial._trial_id))))

    def _end(
        self, number: int, state: TrialState, values: list[float] | None, attributes: Mapping[str, Any]
    ) -> bool:
        trial = self._running.get(number)
        ended = trial is not None and self._call(lambda: self._finish(trial, state, values, attributes))
        self._running.pop(number, None)
        return ended

    @property
    def unfinished(self) -> int:
        """The number of trials that are still to be finished, by any worker."""

        def count() -> int:
            trials = self._trials()
            return self.trials - self._finished - len(self._given_up(trials))

        return self._call(count)

    def counted(self) -> list[FrozenTrial]:
        """Return the trials that are complete or pruned, one of each index, in order of the index."""
        return self._call(lambda: [each for each in self._trials().values() if each.state in COUNTED])

    def given_up(self) -> list[FrozenTrial]:
        """Return the last trials of the indices that were tried too often, in order of the index."""
        given_up = self._call(lambda: self._given_up(self._trials()))
        return [given_up[index] for index in sorted(given_up)]

    @property
    def best(self) -> FrozenTrial | None:
        """The complete trial with the lowest value; None if there is none."""
        complete = [trial for trial in self.counted() if trial.state == TrialState.COMPLETE]
        return min(complete, key=lambda trial: trial.value or 0.0, default=None)
