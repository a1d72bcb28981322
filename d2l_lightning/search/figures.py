"""The figures of a search."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from d2l_lightning.plots.search import (
    Kind,
    history_figure,
    parameter_importance_figure,
    parameters_figure,
    rungs_figure,
)
from d2l_lightning.search.trials import TrialResult, counted_trials, ranked, varying_parameters

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna.trial import FrozenTrial

LEAST_TRIALS = 20  # from which the importance of parameters is computed


def search_figures(
    trials: Sequence[TrialResult], frozen: "Sequence[FrozenTrial]", metric: str
) -> "dict[str, Callable[[], Figure]]":
    """Return functions that draw the figures of a search, by their name.

    Args:
        trials: The trials.
        frozen: The trials of the study, which have the distributions of the parameters.
        metric: The name of the metric.
    """
    shown = [
        trial for trial in counted_trials(trials) if trial.value is not None and math.isfinite(trial.value)
    ]
    shown = sorted((trial for trial in shown if trial.state != "failed"), key=lambda trial: trial.number)
    if not shown:
        return {}
    best = shown.index(next(trial for trial in ranked(shown)))
    values, pruned = [trial.value or 0.0 for trial in shown], [trial.state == "pruned" for trial in shown]
    curves = [{e: v for e, v in trial.intermediate.items() if math.isfinite(v)} for trial in shown]
    names, importances = varying_parameters(shown), parameter_importances(trials, frozen)
    figures: dict[str, Callable[[], Figure]] = {
        "history": partial(history_figure, [trial.number for trial in shown], values, pruned, metric)
    }
    if any(len(curve) > 1 for curve in curves):
        figures["rungs"] = partial(rungs_figure, curves, pruned, best, metric)
    if names:
        parameters = {name: [trial.settings.get(name) for trial in shown] for name in names}
        kinds = _kinds(frozen)
        of_names: dict[str, Kind] = {name: kinds.get(name, "category") for name in names}
        drawn = parameters, of_names, values, pruned, best, metric
        figures["parameters"] = partial(parameters_figure, *drawn)
    if importances:
        number = len(ranked(trials))
        figures["parameter_importance"] = partial(parameter_importance_figure, importances, number)
    return figures


def parameter_importances(trials: Sequence[TrialResult], frozen: "Sequence[FrozenTrial]") -> dict[str, float]:
    """Return the importance of each parameter for being in the best tenth, the largest first.

    Optuna's PED-ANOVA compares the values of a parameter in the best tenth with those in all trials. It needs
    no more than the order of the trials, so pruned trials count too. The dictionary is empty with fewer than
    20 trials or two parameters.
    """
    import optuna

    with_params = {trial.number: trial for trial in frozen}
    order = [with_params[t.number] for t in ranked(trials) if t.number in with_params]
    names = {name: None for trial in order for name in trial.params}
    varying = [name for name in names if len({trial.params.get(name) for trial in order}) > 1]
    if len(order) < LEAST_TRIALS or len(varying) < 2:
        return {}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it would print a line for the new study
    try:
        study = optuna.create_study()
        for place, trial in enumerate(order):
            params: Any = {"params": trial.params, "distributions": trial.distributions}
            study.add_trial(optuna.trial.create_trial(value=float(place), **params))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varying)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return found if all(math.isfinite(share) for share in found.values()) else {}


def _kinds(frozen: "Sequence[FrozenTrial]") -> dict[str, Kind]:
    """Return the kind of axis that suits each parameter."""
    from optuna.distributions import CategoricalDistribution

    kinds: dict[str, Kind] = {}
    for trial in frozen:
        for name, distribution in trial.distributions.items():
            if isinstance(distribution, CategoricalDistribution):
                kinds[name] = "category"
            else:
                kinds[name] = "log" if getattr(distribution, "log", False) else "linear"
    return kinds
