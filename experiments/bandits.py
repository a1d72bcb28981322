"""Multi-armed bandits: the regret of epsilon-greedy and of upper confidence bounds (4.9.4)."""

from collections.abc import Sequence
from functools import partial

from d2l_lightning.data.batches import data_generator
from d2l_lightning.errors import InputError, require_positive
from d2l_lightning.functional import bandits
from d2l_lightning.functional.dropout import require_probability
from d2l_lightning.plots.shift import regret_curves
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import refuse_flags

import torch


def main(
    run: Run,
    arms: Sequence[float] = (0.2, 0.35, 0.5, 0.55, 0.65),
    epsilons: Sequence[float] = (0.0, 0.01, 0.1, 1.0),
    steps: int = 5000,
    repeats: int = 200,
) -> None:
    """Play multi-armed bandits by several strategies and compare their regret (4.9.4).

    The regret is the expected payment of always pulling the best arm minus that of the arms pulled.

    Args:
        run: The run.
        arms: The probability that each arm pays 1 instead of 0.
        epsilons: Probabilities of pulling a random arm. Each makes a strategy: with 0, the arm with the
            highest mean so far is always pulled; with 1, always a random one.
        steps: Pulls of each bandit.
        repeats: Bandits that each strategy plays side by side.
    """
    refuse_flags(run.trainer_flags, "nothing is trained")
    require_positive(steps=steps, repeats=repeats)
    for arm in arms:
        require_probability(arms=arm)
    for epsilon in epsilons:
        require_probability(epsilons=epsilon)
    if len(arms) < 2:
        raise InputError(f"arms must be at least two, not {list(arms)}")
    if len(set(epsilons)) < len(epsilons):
        raise InputError(f"epsilons must differ from each other; they are {list(epsilons)}")
    run.start()
    probabilities = torch.tensor(arms, dtype=torch.float64)
    strategies = {f"epsilon_{epsilon:g}": greedy(epsilon) for epsilon in epsilons}
    regret = {}
    for name, strategy in {**strategies, "ucb": bandits.upper_confidence_bound}.items():
        pulls = run.track(range(1, steps + 1), title_of(name))
        regret[name] = bandits.cumulative_regret(
            strategy, probabilities, repeats, pulls, data_generator(run.seed)
        )
    bound = bandits.ucb_bound(probabilities, steps)
    means = {name: values.mean(dim=1)[-1].item() for name, values in regret.items()}
    random_regret = steps * (probabilities.max() - probabilities.mean()).item()
    note = (
        f"Epsilon is the probability of a random arm; with 0, a bandit may stay with a worse arm for good. "
        f"Random arms have an expected regret of {random_regret:.1f}. The proven bound for the expected "
        f"regret of upper confidence bounds is {bound:.1f}."
    )
    named = {title_of(name): values for name, values in regret.items()}
    rows = [
        (name, *(f"{value:.1f}" for value in (last.mean(), last.quantile(0.05), last.quantile(0.95))))
        for name, (*_, last) in named.items()
    ]
    columns = ("strategy", "mean", "5th percentile", "95th percentile")
    run.finish(
        {"regret": means, "ucb_bound": bound},
        figures={"regret": partial(regret_curves, named)},
        tables=[Table(f"regret after {steps} pulls, of {repeats} bandits", columns, rows, note)],
    )


def title_of(name: str) -> str:
    """Return the name of a strategy for tables and figures."""
    return "upper confidence bounds" if name == "ucb" else name.replace("_", " ")


def greedy(epsilon: float) -> bandits.Strategy:
    """Return the strategy of ``epsilon_greedy``."""
    return lambda totals, counts, step, generator: bandits.epsilon_greedy(totals, counts, epsilon, generator)


if __name__ == "__main__":
    run_experiment(main)
