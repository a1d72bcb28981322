"""Multi-armed bandits: epsilon-greedy and upper confidence bounds, and what not knowing costs (4.9.4)."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from torch import Tensor

from d2l_lightning.batches import data_generator
from d2l_lightning.errors import InputError, require_positive
from d2l_lightning.figures import draw_curves, panels
from d2l_lightning.functional.bandits import epsilon_greedy, upper_confidence_bound
from d2l_lightning.functional.dropout import require_probability
from d2l_lightning.run import Run, run_experiment

# Totals, counts, the number of the pull and chance, to an arm for each bandit.
Strategy = Callable[[Tensor, Tensor, int, torch.Generator], Tensor]


def main(run: Run, arms: list[float], epsilons: list[float], steps: int, repeats: int) -> None:
    """Pull the arms of bandits by several strategies, and tell their regret (4.9.4).

    The regret is what always pulling the best arm would have paid beyond what was pulled, in expectation.

    Args:
        run: The run.
        arms: The probability that each arm pays 1, as in `--arms 0.2 0.5`; otherwise it pays 0.
        epsilons: Probabilities of an arm at random, each a strategy: 0 is greedy, 1 is blind.
        steps: Pulls of each bandit.
        repeats: Bandits that each strategy plays, side by side.
    """
    require_positive(steps=steps, repeats=repeats)
    for arm in arms:
        require_probability(arms=arm)
    for epsilon in epsilons:
        require_probability(epsilons=epsilon)
    if len(arms) < 2:
        raise InputError(f"arms must be at least two, not {arms}")
    if len(set(epsilons)) < len(epsilons):
        raise InputError(f"epsilons must each be another, not {epsilons}")
    strategies: dict[str, Strategy] = {
        **{f"epsilon_{epsilon:g}": _epsilon_greedy(epsilon) for epsilon in epsilons},
        "ucb": upper_confidence_bound,
    }
    run.start()
    pays = torch.tensor(arms, dtype=torch.float64)
    curves = {
        name: play(strategy, pays, steps, repeats, data_generator(run.seed), name)
        for name, strategy in strategies.items()
    }
    regret = {name: told.mean(dim=1)[-1].item() for name, told in curves.items()}
    bound = ucb_bound(pays, steps)
    rows = [
        (name, f"{regret[name]:.1f}", *(f"{curves[name][-1].quantile(q).item():.1f}" for q in (0.05, 0.95)))
        for name in strategies
    ]
    note = (
        f"In expectation an arm at random costs {steps * (pays.max() - pays.mean()).item():.1f}; "
        f"ucb costs at most {bound:.1f}.\n"
        "A greedy strategy may stay with a worse arm for ever: its regret is small or very large."
    )
    run.table(f"regret after {steps} pulls", ("", "mean", "5 %", "95 %"), rows, note)
    run.figure(draw(curves, repeats), "regret")
    run.finish({"regret": regret, "ucb_bound": bound})


def _epsilon_greedy(epsilon: float) -> Strategy:
    return lambda totals, counts, _, generator: epsilon_greedy(totals, counts, epsilon, generator)


def play(
    strategy: Strategy, pays: Tensor, steps: int, repeats: int, generator: torch.Generator, name: str
) -> Tensor:
    """Return the regret so far after each pull, ``(steps, repeats)``, of bandits with arms ``(K,)``."""
    totals = torch.zeros(repeats, len(pays), dtype=torch.float64)
    counts = torch.zeros_like(totals)
    gaps = pays.max() - pays
    lost = []
    for step in track(range(1, steps + 1), description=name, console=Console(stderr=True)):
        arm = strategy(totals, counts, step, generator)[:, None]
        paid = torch.rand(repeats, 1, dtype=torch.float64, generator=generator) < pays[arm]
        totals.scatter_add_(1, arm, paid.to(totals.dtype))
        counts.scatter_add_(1, arm, torch.ones_like(arm, dtype=counts.dtype))
        lost.append(gaps[arm.squeeze(1)])
    return torch.stack(lost).cumsum(dim=0)


def ucb_bound(pays: Tensor, steps: int) -> float:
    """Return what UCB1's regret is at most in expectation (Auer et al., 2002, theorem 1)."""
    gaps = pays.max() - pays
    gaps = gaps[gaps > 0]
    return (8 * math.log(steps) / gaps).sum().item() + (1 + math.pi**2 / 3) * gaps.sum().item()


def draw(curves: Mapping[str, Tensor], repeats: int) -> Figure:
    """Draw the mean regret of each strategy over the pulls, on plain and on logarithmic axes."""
    title = f"Regret of strategies for a multi-armed bandit, mean of {repeats} bandits"
    figure, axes = panels(["plain", "logarithmic"], title, ["pull", "pull"], ["regret", ""])
    for panel in axes:
        told: list[tuple[str, Sequence[float], Sequence[float]]] = []
        for name, regret in curves.items():
            told.append((name.replace("_", " "), range(1, len(regret) + 1), regret.mean(dim=1).tolist()))
        draw_curves(panel, told)
    if any((regret[-1] > 0).any() for regret in curves.values()):  # of equal arms none is
        axes[1].set(xscale="log", yscale="log")
    axes[0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    run_experiment(main)
