"""The finished trials of a search as plain values."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import TYPE_CHECKING, Any, Literal

import yaml

from d2l_lightning.errors import InputError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class TrialResult:
    """A trial that has ended.

    Attributes:
        number: Its number in the study.
        index: The number of its setting; a trial that failed has the same index as the one that retried it.
        state: How it ended.
        value: The mean of the metric over the folds: at the end of training, or at the last rung of a pruned
            trial. None if it failed before.
        folds: The metric of each fold at its last report.
        epochs: The epochs that it was trained for, up to its last report.
        settings: The value of each parameter, as the model or data get it.
        params: The parameters as Optuna stores them, in which a list is a text.
        worker: The name of the worker that trained it.
        seconds: The time from its start to its end.
        reason: Why it failed or was pruned.
        ended: When it ended, as text that sorts by time.
        intermediate: The mean over the folds at each rung, by epoch.
    """

    number: int
    index: int
    state: State
    value: float | None
    folds: tuple[float, ...]
    epochs: int
    settings: dict[str, Any]
    params: dict[str, Any]
    worker: str
    seconds: float | None
    reason: str
    intermediate: dict[int, float]
    ended: str = ""

    @property
    def standard_error(self) -> float | None:
        """The standard error of the mean over the folds, if it is known."""
        return standard_error(self.folds)


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        study: The name of the study.
        trials: The trials, by setting.
        frozen: The same as Optuna has them.
        best: The best of them that was trained to the end.
        confirmed: The metric of each fold of the best setting, for each repetition on other folds and with
            other seeds.
        max_epochs: The epochs of the best setting.
    """

    study: str
    trials: list[TrialResult]
    frozen: "list[FrozenTrial]"
    best: TrialResult
    confirmed: list[list[float]]
    max_epochs: int


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean; None with fewer than two values, or if one is not finite."""
    known = len(values) > 1 and all(map(math.isfinite, values))
    return stdev(values) / len(values) ** 0.5 if known else None


def from_optuna(
    trials: "Iterable[FrozenTrial]", settings: "Callable[[FrozenTrial], dict[str, Any]] | None" = None
) -> list[TrialResult]:
    """Return the trials of a study that have ended, sorted by index and number.

    Args:
        trials: The trials of the study. Their user attributes ``index``, ``folds``, ``worker`` and ``reason``
            are used; those without an index get their number.
        settings: Returns the settings of a trial that has parameters; if not given, these.
    """
    from optuna.trial import TrialState

    states: dict[TrialState, State] = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
    }
    results = []
    for trial in trials:
        if trial.state in states:
            noted, reports = trial.user_attrs, dict(sorted(trial.intermediate_values.items()))
            last = max(reports, default=0)
            results.append(
                TrialResult(
                    number=trial.number,
                    index=noted.get("index", trial.number),
                    state=states[trial.state],
                    value=reports.get(last) if trial.value is None else trial.value,
                    folds=tuple(noted.get("folds", ())),
                    epochs=noted.get("epochs", last),
                    settings=settings(trial) if settings and trial.params else dict(trial.params),
                    params=dict(trial.params),
                    worker=noted.get("worker", ""),
                    seconds=None if trial.duration is None else trial.duration.total_seconds(),
                    reason=noted.get("reason", ""),
                    intermediate=reports,
                    ended="" if trial.datetime_complete is None else trial.datetime_complete.isoformat(),
                )
            )
    return sorted(results, key=lambda result: (result.index, result.number))


def ranked(trials: Iterable[TrialResult]) -> list[TrialResult]:
    """Return the trials with a value, the best first.

    Completed trials come first. A pruned trial was worse than those that went on, whatever its value: so the
    pruned ones follow, those that were trained longest first.
    """
    rated = [trial for trial in trials if trial.value is not None and trial.state != "failed"]
    return sorted(
        rated, key=lambda t: (t.state != "complete", 0 if t.state == "complete" else -t.epochs, t.value)
    )


def best_trial(trials: Sequence[TrialResult]) -> TrialResult:
    """Return the completed trial with the lowest value.

    Raises:
        InputError: If no trial was completed.
    """
    best = next(iter(ranked(trials)), None)
    if best is None or best.state != "complete" or best.value is None or not math.isfinite(best.value):
        raise InputError("no trial of the search was completed; see the reasons in trials.csv")
    return best


def counted_trials(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Return one trial for each setting: the one that ended well, or else the last."""
    last: dict[int, TrialResult] = {}
    for trial in sorted(trials, key=lambda trial: (trial.state != "failed", trial.number)):
        last[trial.index] = trial
    return [last[index] for index in sorted(last)]


def parameter_names(trials: Sequence[TrialResult]) -> list[str]:
    """Return the names of all parameters."""
    return list({name: None for trial in trials for name in trial.settings})


def varying_parameters(trials: Sequence[TrialResult]) -> list[str]:
    """Return the names of the parameters that differ between trials."""
    values = {name: {yaml_text(t.settings.get(name)) for t in trials} for name in parameter_names(trials)}
    return [name for name, different in values.items() if len(different) > 1]


class _Dumper(yaml.SafeDumper):
    """Writes lists in one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _one_line(dumper: yaml.SafeDumper, data: Sequence[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)


_Dumper.add_representer(list, _one_line)
_Dumper.add_representer(tuple, _one_line)


def yaml_text(value: Any) -> str:
    """Return a value as YAML, with lists in one line and floats that are read back to the bit."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=math.inf, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
