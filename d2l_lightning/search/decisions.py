"""What Optuna's samplers and pruners decide, computed in memory from the trials of a study.

The trials are those of each index, in the order of the index. So a decision depends neither on the numbers of
trials that were tried again nor on the order in which a storage registers what trials report.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from d2l_lightning.search.space import SearchSpace

SamplerName = Literal["tpe", "random", "grid"]
PrunerName = Literal["halving", "hyperband", "none"]
# How often a setting of a finite space that another trial has is drawn again.
DRAWS = 10


def suggest(
    space: SearchSpace, trials: Iterable[FrozenTrial], indices: Sequence[int], sampler: SamplerName, seed: int
) -> list[dict[str, Any]]:
    """Return the parameters of new trials.

    Args:
        space: The search space.
        trials: The trials that have parameters already, in a fixed order.
        indices: The indices of the new trials; with the seed, they seed the sampler.
        sampler: How parameters are chosen.
        seed: The seed of the search.
    """
    memory = _study(NopPruner())
    for known in trials:
        memory.add_trial(known)
    finite = space.size is not None
    taken = {_key(trial.params) for trial in memory.get_trials(deepcopy=False)} if finite else set()
    suggested = []
    for index in indices:
        for draw in range(DRAWS):
            memory.sampler = _sampler(sampler, [seed, index, draw])
            trial = memory.ask(dict(space.distributions))
            params = trial.params
            if not finite or _key(params) not in taken:
                break
            memory.tell(trial, state=TrialState.FAIL)
        else:
            unused = (each for each in space.combinations(seed) if _key(each) not in taken)
            params = next(unused, params)
            memory.enqueue_trial(params)
            memory.ask(dict(space.distributions))
        if finite:
            taken.add(_key(params))
        suggested.append(params)
    return suggested


def _key(params: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(params.items()))


def _sampler(name: SamplerName, entropy: Sequence[int]) -> BaseSampler:
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    return TPESampler(seed=seed) if name == "tpe" else RandomSampler(seed)


def make_pruner(name: PrunerName, first_rung: int, reduction: int, max_epochs: int) -> BasePruner:
    """Return Optuna's pruner of a name."""
    if name == "halving":
        return SuccessiveHalvingPruner(min_resource=first_rung, reduction_factor=reduction)
    if name == "hyperband":
        return HyperbandPruner(min_resource=first_rung, max_resource=max_epochs, reduction_factor=reduction)
    return NopPruner()


def to_prune(
    pruner: BasePruner, trials: Mapping[int, FrozenTrial], indices: Iterable[int], rungs: Iterable[int]
) -> set[int]:
    """Return the indices of the trials that a pruner ends at the last of some rungs.

    Optuna registers the value of a trial when it is asked about this trial, and compares it with those that
    are registered. So all values are registered before a decision is made.

    Args:
        pruner: The pruner.
        trials: The trials by index, with what they reported.
        indices: The indices of the trials to decide about.
        rungs: The rungs up to the present one.
    """
    memory = _study(pruner)
    asked = [memory.ask() for _ in range(max(trials) + 1)]
    before: list[FrozenTrial] = []
    for rung in rungs:
        present = {index: trial for index, trial in trials.items() if rung in trial.intermediate_values}
        for index, trial in present.items():
            asked[index].report(trial.intermediate_values[rung], rung)
        before = memory.get_trials(deepcopy=False)  # the storage replaces trials, and changes none
        for index in present:
            asked[index].should_prune()
    return {index for index in indices if before and pruner.prune(memory, before[index])}


def _study(pruner: BasePruner) -> optuna.Study:
    # Hyperband chooses the bracket of a trial by the study's name and the trial's number.
    storage = InMemoryStorage()
    return optuna.create_study(storage=storage, study_name="search", sampler=RandomSampler(0), pruner=pruner)
