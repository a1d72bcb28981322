"""Strategies for bandits choose arms by their definitions, and the bound of the regret is the theorem's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d2l_lightning.errors import InputError
from d2l_lightning.functional.bandits import (
    cumulative_regret,
    epsilon_greedy,
    ucb_bound,
    upper_confidence_bound,
)

TOTALS = torch.tensor([[8.0, 5.0, 1.0], [0.0, 3.0, 3.0]])
COUNTS = torch.tensor([[10.0, 5.0, 4.0], [4.0, 4.0, 5.0]])


def test_greedy_chooses_the_best_mean_payment() -> None:
    assert epsilon_greedy(TOTALS, COUNTS, 0.0).tolist() == [1, 1]


def test_epsilon_is_the_share_of_random_arms() -> None:
    rows, generator = 20000, torch.Generator().manual_seed(0)
    totals, counts = TOTALS[:1].expand(rows, -1), COUNTS[:1].expand(rows, -1)
    shares = torch.bincount(epsilon_greedy(totals, counts, 0.3, generator), minlength=3) / rows
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.8, 0.1]), rtol=0, atol=0.01)


def test_the_upper_confidence_bound_is_the_formula() -> None:
    for step in (2, 19, 1000):
        bound = TOTALS / COUNTS + (2 * torch.tensor(float(step)).log() / COUNTS).sqrt()
        assert upper_confidence_bound(TOTALS, COUNTS, step).tolist() == bound.argmax(dim=1).tolist()
    # After very many pulls the arm with the fewest comes first.
    assert upper_confidence_bound(TOTALS, COUNTS, 10**60).tolist() == [2, 1]


@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 100))
def test_every_arm_is_pulled_once_before_any_is_pulled_twice(rows: int, arms: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for bound in (False, True):
        totals, counts = torch.zeros(rows, arms), torch.zeros(rows, arms)
        for step in range(1, arms + 1):
            arm = (
                upper_confidence_bound(totals, counts, step, generator)
                if bound
                else epsilon_greedy(totals, counts, 0.0, generator)
            )
            assert (counts[torch.arange(rows), arm] == 0).all()
            counts[torch.arange(rows), arm] += 1


def test_ties_are_decided_at_random() -> None:
    zeros, generator = torch.zeros(9000, 3), torch.Generator().manual_seed(1)
    for arm in (
        epsilon_greedy(zeros, zeros, 0.0, generator),
        upper_confidence_bound(zeros, zeros, 1, generator),
        upper_confidence_bound(zeros, zeros + 7, 50, generator),
    ):
        shares = torch.bincount(arm, minlength=3) / 9000
        torch.testing.assert_close(shares, torch.full((3,), 1 / 3), rtol=0, atol=0.02)


def test_the_regret_adds_up_the_gaps_of_the_arms_pulled() -> None:
    arms = iter(([0, 1], [2, 2], [1, 0]))
    regret = cumulative_regret(
        lambda *_: torch.tensor(next(arms)),
        torch.tensor([0.5, 0.25, 1.0], dtype=torch.float64),
        2,
        range(1, 4),
        torch.Generator(),
    )
    assert regret.tolist() == [[0.5, 0.75], [0.5, 0.75], [1.25, 1.25]]


def test_the_bound_of_the_regret_is_the_theorems() -> None:
    # Two arms with a gap of a half: 8 ln(n) / 0.5 + (1 + pi^2 / 3) 0.5.
    assert ucb_bound(torch.tensor([0.25, 0.75]), 1000) == pytest.approx(110.524 + 2.1449, abs=1e-3)
    assert ucb_bound(torch.tensor([0.5, 0.5]), 1000) == 0


def test_bad_input_is_an_error() -> None:
    with pytest.raises(InputError, match="epsilon must be from 0 to 1, not 2"):
        epsilon_greedy(TOTALS, COUNTS, 2.0)
    with pytest.raises(
        InputError, match=r"totals of shape \(2, 3\) does not go with counts of shape \(1, 3\)"
    ):
        epsilon_greedy(TOTALS, COUNTS[:1], 0.1)
    with pytest.raises(InputError, match="step must be positive"):
        upper_confidence_bound(TOTALS, COUNTS, 0)
    with pytest.raises(InputError, match=r"totals must be of shape \(R, K\), not \(3,\)"):
        upper_confidence_bound(TOTALS[0], COUNTS[0], 1)
