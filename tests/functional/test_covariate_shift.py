"""Weights, their worth and the test for a shift, against closed forms, torchmetrics and scikit-learn."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.classification import binary_auroc

from d2l_lightning.errors import InputError
from d2l_lightning.functional import covariate_shift
from d2l_lightning.functional.covariate_shift import (
    area_under_curve,
    effective_sample_size,
    importance_weights,
    permutation_p_value,
    uncovered_share,
)

# Few values, so that ties are common.
SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=30).map(lambda v: torch.tensor(v).float())


@pytest.mark.parametrize(("n", "m"), [(100, 100), (400, 100), (30, 90)])
def test_the_true_log_odds_give_the_true_ratio(n: int, m: int) -> None:
    x = torch.linspace(-4, 4, 50, dtype=torch.float64)
    q, p = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.5, 1.2)
    ratio = (p.log_prob(x) - q.log_prob(x)).exp()
    # P(z = 1 | x) in a mixture of n and m rows.
    of_target = m * p.log_prob(x).exp() / (m * p.log_prob(x).exp() + n * q.log_prob(x).exp())
    torch.testing.assert_close(importance_weights(of_target.logit(), n, m, cap=1e9), ratio)
    capped = importance_weights(of_target.logit(), n, m, cap=0.7)
    torch.testing.assert_close(capped, ratio.clamp(max=0.7))


def test_great_odds_are_capped_and_small_ones_keep_their_digits() -> None:
    told = importance_weights(torch.tensor([1e4, 0.0, -300.0]), 10, 10, cap=20)
    assert told.tolist() == pytest.approx([20, 1, math.exp(-300)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_source": 0}, "num_source must be positive"),
        ({"num_target": 0}, "num_target must be positive"),
        ({"cap": 0.0}, "cap must be positive"),
        ({"cap": math.nan}, "cap must be positive"),
        ({"h": torch.tensor([0.0, math.nan])}, r"h\[1\] must be a finite number, not nan"),
    ],
)
def test_bad_odds(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        importance_weights(**{"h": torch.zeros(2), "num_source": 1, "num_target": 1, "cap": 20.0, **change})


@given(st.lists(st.floats(1e-200, 1e200), min_size=1, max_size=20))
def test_the_effective_sample_size_is_between_1_and_n(weights: list[float]) -> None:
    told = effective_sample_size(torch.tensor(weights, dtype=torch.float64))
    assert 1 - 1e-9 <= told <= len(weights) + 1e-9


def test_the_effective_sample_size_by_hand() -> None:
    assert effective_sample_size(torch.full((7,), 3.0)) == pytest.approx(7)
    assert effective_sample_size(torch.tensor([1.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_sample_size(torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(36 / 14)
    # The variance of a weighted mean of independent values is that of so many.
    w = torch.rand(50, dtype=torch.float64)
    assert (w / w.sum()).square().sum().item() == pytest.approx(1 / effective_sample_size(w))


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -0.1], [1.0, math.nan], [math.inf]])
def test_weights_that_have_no_size(weights: list[float]) -> None:
    with pytest.raises(InputError, match=r"must not be negative|must be a finite number"):
        effective_sample_size(torch.tensor(weights))


def test_the_uncovered_share() -> None:
    source = torch.tensor([0.0, 2.0, 1.0])
    assert uncovered_share(source, torch.tensor([3.0, 2.0, 2.5, -9.0])) == 0.5
    assert uncovered_share(source, source) == 0
    assert uncovered_share(source, source + 10) == 1


@given(SCORES, SCORES)
def test_the_area_is_that_of_two_other_libraries(source: torch.Tensor, target: torch.Tensor) -> None:
    z = torch.cat([torch.zeros(len(source)), torch.ones(len(target))]).int()
    scores = torch.cat([source, target])
    ours = area_under_curve(source, target)
    assert ours == pytest.approx(roc_auc_score(z.numpy(), scores.numpy()))
    # Squeezed between 0 and 1, as torchmetrics wants them.
    assert ours == pytest.approx(binary_auroc(scores.double() / 20 + 0.5, z).item(), abs=1e-6)


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=4), st.lists(st.integers(0, 6), min_size=1, max_size=4)
)
def test_the_p_value_is_that_of_all_ways_to_deal(ours: list[int], theirs: list[int]) -> None:
    source, target = torch.tensor(ours).float(), torch.tensor(theirs).float()
    both = torch.cat([source, target])
    observed = area_under_curve(source, target)
    greater = []
    for chosen in itertools.combinations(range(len(both)), len(target)):
        dealt = torch.zeros(len(both), dtype=torch.bool)
        dealt[list(chosen)] = True
        greater.append(area_under_curve(both[~dealt], both[dealt]) >= observed - 1e-12)
    exact = sum(greater) / len(greater)
    told = permutation_p_value(source, target, 4000, torch.Generator().manual_seed(0))
    assert told == pytest.approx(exact, abs=5 * math.sqrt(exact * (1 - exact) / 4000) + 1 / 4001)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (60, 15), (15, 60)])
def test_p_values_are_uniform_without_shift(n: int, m: int) -> None:
    generator = torch.Generator().manual_seed(1)
    told = torch.tensor(
        [
            permutation_p_value(
                torch.randn(n, generator=generator), torch.randn(m, generator=generator), 99, generator
            )
            for _ in range(1000)
        ]
    )
    for level in (0.05, 0.25, 0.5, 0.75):  # four standard deviations of a share
        spread = 4 * math.sqrt(level * (1 - level) / 1000)
        assert (told <= level + 1e-9).double().mean().item() == pytest.approx(level, abs=spread)


def test_the_least_p_value_and_the_greatest() -> None:
    low, high = torch.arange(30.0), torch.arange(30.0) + 100
    generator = torch.Generator().manual_seed(0)
    assert permutation_p_value(low, high, 99, generator) == 0.01
    assert permutation_p_value(high, low, 99, generator) == 1
    assert permutation_p_value(torch.zeros(30), torch.zeros(30), 99, generator) == 1


def p_value_by_pairs(source: torch.Tensor, target: torch.Tensor, keys: torch.Tensor) -> float:
    """Deal scores to the smaller side by the greatest keys of each row, and count pairs one by one."""

    def wins(theirs: torch.Tensor, ours: torch.Tensor) -> float:
        differences = ours[:, None] - theirs
        return ((differences > 0).double() + (differences == 0).double() / 2).sum().item()

    both, smaller = torch.cat([source, target]), min(len(source), len(target))
    observed, as_great = wins(source, target), 0
    for row in keys:
        order = row.argsort(descending=True)
        chosen, rest = both[order[:smaller]], both[order[smaller:]]
        dealt = wins(chosen, rest) if len(source) < len(target) else wins(rest, chosen)
        as_great += dealt >= observed
    return (1 + as_great) / (1 + len(keys))


@pytest.mark.parametrize(("n", "m"), [(9, 5), (5, 9), (7, 7)])
@pytest.mark.parametrize("chunk", [1, 14 * 7, 14 * 50, 14 * 51, 14 * 150])
def test_the_p_value_does_not_depend_on_the_chunks(
    n: int, m: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(covariate_shift, "CHUNK", chunk)  # from one permutation at a time to all 150
    generator = torch.Generator().manual_seed(3)
    source = torch.randint(6, (n,), generator=generator).double()
    target = torch.randint(6, (m,), generator=generator).double() + 0.5
    ours, theirs = torch.Generator().manual_seed(4), torch.Generator().manual_seed(4)
    keys = torch.rand(150, n + m, generator=theirs)
    expected = p_value_by_pairs(source, target, keys)
    assert 0.05 < expected < 0.95
    assert permutation_p_value(source, target, 150, ours) == expected
    # All permutations were drawn, and nothing else.
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_a_chunk_holds_no_more_scores_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int]] = []
    rand = torch.rand

    def watched(*shape: int, **kwargs: Any) -> torch.Tensor:
        shapes.append(shape)  # type: ignore[arg-type]
        return rand(*shape, **kwargs)

    monkeypatch.setattr(torch, "rand", watched)
    for chunk, expected in ((65, [5] * 4), (66, [6, 6, 6, 2]), (10, [1] * 20), (220, [20]), (219, [19, 1])):
        monkeypatch.setattr(covariate_shift, "CHUNK", chunk)
        shapes.clear()
        permutation_p_value(torch.arange(6.0), torch.arange(5.0), 20, torch.Generator().manual_seed(0))
        assert shapes == [(rows, 11) for rows in expected], chunk


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ([], [1.0], r"source_scores must hold a score for each row, not the shape \(0,\)"),
        ([1.0], [], "target_scores must hold a score"),
        ([[1.0]], [1.0], "source_scores must hold a score"),
        ([1.0, math.nan], [1.0], r"source_scores\[1\] must be a finite number"),
        ([1.0], [math.inf], r"target_scores\[0\] must be a finite number"),
    ],
)
def test_bad_scores(source: Any, target: Any, message: str) -> None:
    sides = torch.tensor(source), torch.tensor(target)
    for call in (
        lambda: area_under_curve(*sides),
        lambda: uncovered_share(*sides),
        lambda: permutation_p_value(*sides, 9, torch.Generator()),
    ):
        with pytest.raises(InputError, match=message):
            call()
    with pytest.raises(InputError, match="num_permutations must be positive"):
        permutation_p_value(torch.zeros(2), torch.zeros(2), 0, torch.Generator())
