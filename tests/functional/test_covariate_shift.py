"""Importance weights and the test for a shift agree with closed forms, torchmetrics and scikit-learn."""

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
    importance_weighted_mean,
    importance_weights,
    mean_differences,
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


def test_great_weights_are_capped_and_small_ones_are_precise() -> None:
    weights = importance_weights(torch.tensor([1e4, 0.0, -300.0]), 10, 10, cap=20)
    assert weights.tolist() == pytest.approx([20, 1, math.exp(-300)])


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
def test_bad_input_to_weights_is_an_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        importance_weights(**{"h": torch.zeros(2), "num_source": 1, "num_target": 1, "cap": 20.0, **change})


@given(st.lists(st.floats(1e-200, 1e200), min_size=1, max_size=20))
def test_the_effective_sample_size_is_between_1_and_n(weights: list[float]) -> None:
    size = effective_sample_size(torch.tensor(weights, dtype=torch.float64))
    assert 1 - 1e-9 <= size <= len(weights) + 1e-9


def test_the_effective_sample_size_of_simple_weights() -> None:
    assert effective_sample_size(torch.full((7,), 3.0)) == pytest.approx(7)
    assert effective_sample_size(torch.tensor([1.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_sample_size(torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(36 / 14)
    # The variance of a weighted mean is that of a plain mean of so many independent values.
    w = torch.rand(50, dtype=torch.float64)
    assert (w / w.sum()).square().sum().item() == pytest.approx(1 / effective_sample_size(w))


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -0.1], [1.0, math.nan], [math.inf]])
def test_bad_weights_are_errors(weights: list[float]) -> None:
    with pytest.raises(InputError, match=r"must not be negative|must be a finite number"):
        effective_sample_size(torch.tensor(weights))


def test_the_weighted_mean_estimates_the_mean_of_the_target() -> None:
    x = torch.randn(200, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    means, errors = zip(*(importance_weighted_mean(row, (0.5 * row - 0.125).exp()) for row in x), strict=True)
    # The target is N(0.5, 1).
    assert torch.stack(means).mean().item() == pytest.approx(0.5, abs=0.01)
    assert torch.stack(errors).mean().item() == pytest.approx(torch.stack(means).std().item(), rel=0.15)
    mean, error = importance_weighted_mean(torch.tensor([1.0, 3.0]), torch.tensor([3.0, 1.0]))
    assert mean.item() == 1.5
    assert error.item() == pytest.approx(math.sqrt((0.75 * 0.5) ** 2 + (0.25 * 1.5) ** 2))


def test_differences_of_means_are_in_standard_deviations() -> None:
    source = torch.tensor([[0.0, 5.0], [2.0, 5.0]])
    target = torch.tensor([[2.0, 5.0], [4.0, 5.0]])
    deviation = torch.tensor([0.0, 2.0, 2.0, 4.0]).std().item()
    assert mean_differences(source, target).tolist() == pytest.approx([2 / deviation, 0])
    weights = torch.tensor([1.0, 3.0]).double()
    assert mean_differences(source, target, weights).tolist() == pytest.approx([1.5 / deviation, 0])


def test_the_uncovered_share_counts_scores_above_the_source() -> None:
    source = torch.tensor([0.0, 2.0, 1.0])
    assert uncovered_share(source, torch.tensor([3.0, 2.0, 2.5, -9.0])) == 0.5
    assert uncovered_share(source, source) == 0
    assert uncovered_share(source, source + 10) == 1


@given(SCORES, SCORES)
def test_the_area_agrees_with_two_other_libraries(source: torch.Tensor, target: torch.Tensor) -> None:
    z = torch.cat([torch.zeros(len(source)), torch.ones(len(target))]).int()
    scores = torch.cat([source, target])
    area = area_under_curve(source, target)
    assert area == pytest.approx(roc_auc_score(z.numpy(), scores.numpy()))
    # torchmetrics needs scores from 0 to 1.
    assert area == pytest.approx(binary_auroc(scores.double() / 20 + 0.5, z).item(), abs=1e-6)


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=4), st.lists(st.integers(0, 6), min_size=1, max_size=4)
)
def test_the_p_value_approximates_the_exact_permutation_test(
    source_values: list[int], target_values: list[int]
) -> None:
    source, target = torch.tensor(source_values).float(), torch.tensor(target_values).float()
    both = torch.cat([source, target])
    observed = area_under_curve(source, target)
    greater = []
    for chosen in itertools.combinations(range(len(both)), len(target)):
        permuted = torch.zeros(len(both), dtype=torch.bool)
        permuted[list(chosen)] = True
        greater.append(area_under_curve(both[~permuted], both[permuted]) >= observed - 1e-12)
    exact = sum(greater) / len(greater)
    p_value = permutation_p_value(source, target, 4000, torch.Generator().manual_seed(0))
    assert p_value == pytest.approx(exact, abs=5 * math.sqrt(exact * (1 - exact) / 4000) + 1 / 4001)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (60, 15), (15, 60)])
def test_p_values_are_uniform_without_shift(n: int, m: int) -> None:
    generator = torch.Generator().manual_seed(1)
    p_values = torch.tensor(
        [
            permutation_p_value(
                torch.randn(n, generator=generator), torch.randn(m, generator=generator), 99, generator
            )
            for _ in range(1000)
        ]
    )
    for level in (0.05, 0.25, 0.5, 0.75):  # four standard deviations of a share
        spread = 4 * math.sqrt(level * (1 - level) / 1000)
        assert (p_values <= level + 1e-9).double().mean().item() == pytest.approx(level, abs=spread)


def test_the_least_and_the_greatest_p_value() -> None:
    low, high = torch.arange(30.0), torch.arange(30.0) + 100
    generator = torch.Generator().manual_seed(0)
    assert permutation_p_value(low, high, 99, generator) == 0.01
    assert permutation_p_value(high, low, 99, generator) == 1
    assert permutation_p_value(torch.zeros(30), torch.zeros(30), 99, generator) == 1


def p_value_by_pairs(source: torch.Tensor, target: torch.Tensor, keys: torch.Tensor) -> float:
    """Give the smaller side the scores with the greatest keys of each row, and compare all pairs."""

    def wins(low: torch.Tensor, high: torch.Tensor) -> float:
        differences = high[:, None] - low
        return ((differences > 0).double() + (differences == 0).double() / 2).sum().item()

    both, smaller = torch.cat([source, target]), min(len(source), len(target))
    observed, as_great = wins(source, target), 0
    for row in keys:
        order = row.argsort(descending=True)
        chosen, rest = both[order[:smaller]], both[order[smaller:]]
        permuted = wins(chosen, rest) if len(source) < len(target) else wins(rest, chosen)
        as_great += permuted >= observed
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
    generator, same = torch.Generator().manual_seed(4), torch.Generator().manual_seed(4)
    keys = torch.rand(150, n + m, generator=same)
    expected = p_value_by_pairs(source, target, keys)
    assert 0.05 < expected < 0.95
    assert permutation_p_value(source, target, 150, generator) == expected
    # Nothing but the permutations was drawn.
    assert torch.equal(generator.get_state(), same.get_state())


def test_a_chunk_has_at_most_the_allowed_number_of_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int]] = []
    rand = torch.rand

    def recorded(*shape: int, **kwargs: Any) -> torch.Tensor:
        shapes.append(shape)  # type: ignore[arg-type]
        return rand(*shape, **kwargs)

    monkeypatch.setattr(torch, "rand", recorded)
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
def test_bad_scores_are_errors(source: Any, target: Any, message: str) -> None:
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
