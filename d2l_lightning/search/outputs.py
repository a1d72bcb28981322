"""What a search leaves in its run folder, and what it prints: config file, tables, results."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from d2l_lightning.errors import printable
from d2l_lightning.plots.search import label_of
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.search.figures import search_figures
from d2l_lightning.search.trials import (
    SearchResult,
    TrialResult,
    best_trial,
    counted_trials,
    parameter_names,
    ranked,
    standard_error,
    varying_parameters,
    yaml_text,
)

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 10  # trials in the table of the best
MOST_COLUMNS = 5  # of parameters in it
# The metric of each fold, for each repetition of the cross-validation with the best settings.
Folds = Sequence[Sequence[float]]


def best_config(
    study: str,
    trials: Sequence[TrialResult],
    base: Mapping[str, Any],
    metric: str,
    again: Folds = (),
) -> str:
    """Return the text of best.yaml: the best settings, and those that were the same for all trials.

    Args:
        study: The name of the study.
        trials: The trials.
        base: The settings that the search was run with, by the names of their flags.
        metric: The name of the metric.
        again: The metric of each fold when the best settings were cross-validated again.
    """
    best = best_trial(trials)
    value = _plus_minus(best.value, best.standard_error)
    number = len(counted_trials(trials))
    lines = [f"# The best of {number} settings: trial {best.number} of study {printable(study)}."]
    lines += [f"# {metric}, mean and standard error over {len(best.folds)} folds: {value}."]
    if again:
        lines += [
            f"# Cross-validated again with other folds and seeds: {_plus_minus(*_mean_and_error(again))}."
        ]
    settings = {**base, **best.settings}
    return "\n".join([*lines, "", *(yaml_text({name: value}) for name, value in settings.items()), ""])


def trials_table(trials: Sequence[TrialResult]) -> "pd.DataFrame":
    """Return the table of trials.csv, in the order of the settings.

    Its columns are ``trial``, ``setting``, ``state``, ``value``, ``standard_error``, ``fold_1`` to
    ``fold_K``, ``epochs``, one for each parameter, ``worker``, ``seconds`` and ``reason``. Lists are YAML.
    """
    import pandas as pd

    k = max((len(trial.folds) for trial in trials), default=0)
    rows = []
    for trial in sorted(trials, key=lambda trial: (trial.index, trial.number)):
        folds = dict(zip([f"fold_{i}" for i in range(1, k + 1)], [*trial.folds, *[None] * k], strict=False))
        rows.append(
            {
                "trial": trial.number,
                "setting": trial.index,
                "state": trial.state,
                "value": trial.value,
                "standard_error": trial.standard_error,
                **folds,
                "epochs": trial.epochs,
                **{name: _cell(trial.settings.get(name)) for name in parameter_names(trials)},
                "worker": trial.worker,
                "seconds": trial.seconds,
                "reason": trial.reason,
            }
        )
    return pd.DataFrame(rows)


def logged_table(trials: Sequence[TrialResult]) -> Table:
    """Return the table of ``trials_table`` for trackers; it is not printed."""
    frame = trials_table(trials)
    rows = frame.astype(object).where(frame.notna(), "").to_numpy().tolist()
    return Table("Trials", [str(column) for column in frame], rows, printed=False)


def finish_search(run: Run, found: SearchResult, base: Mapping[str, Any], metric: str) -> None:
    """End the run of a search: write what it found, then show it.

    Args:
        run: The run.
        found: What was found.
        base: The settings that the search was run with, by the names of their flags.
        metric: The name of the metric.
    """
    trials, again = found.trials, found.confirmed
    with run.file("best.yaml") as path:
        path.write_text(best_config(found.study, trials, base, metric, again), encoding="utf-8")
    tables = [best_table(trials, metric), *([winner_table(trials, again, metric)] if again else [])]
    run.finish(
        search_results(trials, metric, found.max_epochs, again),
        products={"trials.csv": trials_table(trials)},
        tables=[*tables, logged_table(trials)],
        figures=search_figures(trials, found.frozen, metric),
        notes=[summary(trials, found.max_epochs)],
    )


def best_table(trials: Sequence[TrialResult], metric: str) -> Table:
    """Return the table of the ten best completed trials, the best first, with the parameters that vary."""
    completed = [trial for trial in ranked(trials) if trial.state == "complete"][:SHOWN]
    names = varying_parameters(trials)
    # More columns than these would be cut off at the edge of a terminal.
    wide = len(names) > MOST_COLUMNS
    rows = []
    for trial in completed:
        cells = {name: label_of(trial.settings.get(name), 3) for name in names}
        settings = ["; ".join(map(" ".join, cells.items()))] if wide else cells.values()
        rows.append((str(trial.number), _digits(trial.value), _digits(trial.standard_error), *settings))
    title = (
        f"Best settings: {len(rows)} of {len(counted_trials(trials))}, by the mean {metric} over the folds"
    )
    columns = ["settings"] if wide else [name.replace("_", " ") for name in names]
    return Table(title, ("trial", "mean", "standard error", *columns), rows)


def winner_table(trials: Sequence[TrialResult], again: Folds, metric: str) -> Table:
    """Return the table of the best trial's value in the search, and of its cross-validation again."""
    best = best_trial(trials)
    mean, error = _mean_and_error(again)
    times = f", {len(again)} times" if len(again) > 1 else ""
    rows = [
        ("in the search", _digits(best.value), _digits(best.standard_error)),
        (f"again, on other folds and seeds{times}", _digits(mean), _digits(error)),
    ]
    note = (
        f"The first value is the lowest of {len(counted_trials(trials))}, in part by chance, so on average "
        "it is too low. The second one was measured after the choice, so it is not."
    )
    title = f"Winner: {metric} of trial {best.number}"
    return Table(title, ("cross-validation", "mean", "standard error"), rows, note)


def summary(trials: Sequence[TrialResult], max_epochs: int) -> str:
    """Return a sentence on how the trials ended, and on the epochs that pruning saved.

    Args:
        trials: The trials.
        max_epochs: The epochs of a trial that is not pruned.
    """
    counted = counted_trials(trials)
    pruned = Counter(trial.epochs for trial in counted if trial.state == "pruned")
    at = ", ".join(f"{number} at epoch {epoch}" for epoch, number in sorted(pruned.items()))
    completed = sum(trial.state == "complete" for trial in counted)
    failed = sum(trial.state == "failed" for trial in counted)
    retried = sum(trial.state == "failed" for trial in trials) - failed
    parts = [f"{completed} completed"]
    parts += [f"{pruned.total()} pruned ({at})"] if pruned else []
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{retried} failed and retried"] if retried else []
    saved = f" Pruning saved {_saved(trials, max_epochs):.0%} of the epochs." if pruned else ""
    return f"{len(counted)} settings: {', '.join(parts)}.{saved}"


def search_results(
    trials: Sequence[TrialResult], metric: str, max_epochs: int, again: Folds = ()
) -> dict[str, Any]:
    """Return the figures of results.json.

    Args:
        trials: The trials.
        metric: The name of the metric.
        max_epochs: The epochs of a trial that is not pruned.
        again: The metric of each fold when the best settings were cross-validated again.
    """
    best, counted = best_trial(trials), counted_trials(trials)
    states = Counter(trial.state for trial in counted)
    results: dict[str, Any] = {
        "metric": metric,
        "settings": len(counted),
        "trials": {state: states[state] for state in ("complete", "pruned", "failed")},
        "retried": len(trials) - len(counted),
        "saved": _saved(trials, max_epochs),
        "best": {
            "trial": best.number,
            "value": best.value,
            "standard_error": best.standard_error,
            "folds": list(best.folds),
            "settings": best.settings,
        },
    }
    if again:
        mean, error = _mean_and_error(again)
        folds = [list(each) for each in again]
        finite = all(math.isfinite(value) for each in folds for value in each)
        results["again"] = {"value": mean, "standard_error": error, "folds": folds} if finite else None
    return results


def _saved(trials: Sequence[TrialResult], max_epochs: int) -> float:
    counted = [trial for trial in counted_trials(trials) if trial.state != "failed"]
    whole = [trial.settings.get("max_epochs", max_epochs) for trial in counted]
    trained = [
        trial.epochs if trial.state == "pruned" else epochs
        for trial, epochs in zip(counted, whole, strict=True)
    ]
    return 1 - sum(trained) / max(1, sum(whole))


def _mean_and_error(again: Folds) -> tuple[float, float | None]:
    """Return the mean, and the standard error over the folds of one repetition: all have the same rows."""
    errors = [error for error in map(standard_error, again) if error is not None]
    return fmean(fmean(folds) for folds in again), fmean(errors) if errors else None


def _cell(value: Any) -> Any:
    return yaml_text(value) if isinstance(value, list | tuple | dict) else value


def _digits(value: float | None) -> str:
    """Return a number with four significant digits, or as a whole number."""
    if value is None or not math.isfinite(value) or not 1e-4 <= abs(value) < 1e9:
        return "" if value is None else f"{value:.4g}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"


def _plus_minus(value: float | None, error: float | None) -> str:
    return _digits(value) + (f" ± {_digits(error)}" if error is not None else "")
