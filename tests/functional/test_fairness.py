"""Errors of groups, costs of decisions and the feedback loop are those of independent formulas."""

from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from d2l_lightning.errors import InputError
from d2l_lightning.functional.fairness import best_threshold, decision_rates, group_means, patrol_shares

GENERATOR = torch.Generator().manual_seed(0)
P = torch.rand(200, generator=GENERATOR).double().round(decimals=2)  # with ties at the thresholds
Y = torch.bernoulli(P, generator=GENERATOR)


def test_the_means_of_groups_are_numpys() -> None:
    groups = torch.randint(0, 3, (200,), generator=GENERATOR)
    expected = [P[groups == group].numpy().mean() for group in range(3)]
    means = group_means(P, groups, 4)
    np.testing.assert_allclose(means[:3], expected)
    assert means[3].isnan()
    with pytest.raises(InputError, match="groups of shape"):
        group_means(P, groups[:1], 3)


def test_decision_rates_are_those_of_scikit_learns_confusion_matrix() -> None:
    thresholds = torch.tensor([0.0, 0.25, 0.5, 0.77, 1.01], dtype=torch.float64)
    rates = decision_rates(P, Y, thresholds)
    for i, decided in enumerate(threshold <= P for threshold in thresholds):
        (_, wrong_1), (wrong_0, _) = confusion_matrix(Y, decided, labels=[0, 1]) / len(Y)
        assert rates["false_positive"][i].item() == pytest.approx(wrong_1)
        assert rates["false_negative"][i].item() == pytest.approx(wrong_0)


@pytest.mark.parametrize(("false_positive", "false_negative"), [(1.0, 10.0), (3.0, 1.0), (2.0, 2.0)])
def test_no_other_threshold_has_a_lower_expected_cost(false_positive: float, false_negative: float) -> None:
    best = best_threshold(false_positive, false_negative)
    p = np.linspace(0.0005, 0.9995, 1000)  # calibrated: labels are 1 with probability p

    def cost(threshold: float) -> float:
        return float(np.where(p >= threshold, (1 - p) * false_positive, p * false_negative).mean())

    assert all(cost(best) <= cost(threshold) for threshold in np.linspace(0, 1, 101))
    assert cost(best) < min(cost(best - 0.05), cost(best + 0.05))


def share_after(focus: float, corrected: bool, rounds: int, start: float = 0.6) -> list[float]:
    known = torch.tensor([[start, 1 - start]]) * 10
    shares = patrol_shares(known, 100, 0.2, focus, corrected)
    return [share.item() for share in islice(shares, rounds)]


def test_expected_shares_stay_run_away_or_become_equal() -> None:
    assert share_after(1.0, False, 30) == pytest.approx([0.6] * 30)
    # To the power 2, by hand: 0.6^2 / (0.6^2 + 0.4^2), then 6 and 4 crimes and 20 times the share more.
    first = 0.36 / 0.52
    a, b = 6 + 20 * first, 4 + 20 * (1 - first)
    away = share_after(2.0, False, 200)
    assert away[:2] == pytest.approx([first, a**2 / (a**2 + b**2)])
    assert all(later > earlier for earlier, later in pairwise(away))
    assert away[-1] > 0.99
    corrected = share_after(2.0, True, 200)
    assert corrected[0] == pytest.approx(first)
    assert corrected[-1] == pytest.approx(0.5, abs=0.002)


def test_with_proportional_patrols_the_mean_share_stays_as_in_an_urn() -> None:
    """The share of discoveries is a martingale, as that of the balls in Polya's urn."""
    known = torch.tensor([[11.0, 9.0]]).expand(4000, 2)
    generator = torch.Generator().manual_seed(1)
    shares = torch.stack([*islice(patrol_shares(known, 1000, 0.2, 1.0, False, generator), 10)])
    error = shares[-1].std() / 4000**0.5
    assert shares[-1].mean().item() == pytest.approx(0.55, abs=4 * error.item())
    assert shares[-1].std() > 0.01


def test_a_huge_focus_sends_all_patrols_to_one_district() -> None:
    assert share_after(1e300, False, 3) == [1.0] * 3


def test_numbers_out_of_range_are_an_error() -> None:
    for settings, message in (
        ((0, 0.2, 1.0), "patrols must be positive"),
        ((10, 0.0, 1.0), "crime must be above 0 and at most 1, not 0.0"),
        ((10, 0.2, -1.0), "focus must not be negative"),
    ):
        with pytest.raises(InputError, match=message):
            next(patrol_shares(torch.ones(1, 2), *settings, corrected=False))
