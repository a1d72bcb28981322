"""Weights are cross-fitted and agree with scikit-learn; the detector has the right level and finds shifts."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.linear_model import LogisticRegression as Reference
from torch import Tensor

from d2l_lightning.data.synthetic_shift import SyntheticCovariateShift
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.errors import InputError
from d2l_lightning.models.backpropagation import BackpropagationMLP
from d2l_lightning.models.dropout_mlp import DropoutMLP, DropoutMLPScratch
from d2l_lightning.models.mlp import MLPScratch
from d2l_lightning.models.softmax_regression import SoftmaxRegression, SoftmaxRegressionScratch
from d2l_lightning.shift.covariate import (
    EstimatedShift,
    detect,
    estimate,
    estimate_and_detect,
    run_trials,
)
from d2l_lightning.shift.domain import DomainSettings, domain_classifier

LOGISTIC = domain_classifier(2, [], 0.01)


def normal_sides(n: int, m: int, shift: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    source, target = torch.randn(n, 2, generator=generator), torch.randn(m, 2, generator=generator)
    target[:, 0] += shift
    return source, target


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1].item()


def test_no_row_is_scored_by_a_classifier_trained_on_it(trainer: Callable[..., Trainer]) -> None:
    n, m, k = 53, 31, 5
    seen: list[dict[str, list[Tensor]]] = []

    def fit(model: Any, data: Any) -> None:
        seen.append(data.rows)
        trainer(max_epochs=1).fit(model, data)

    estimated = estimate(fit, *normal_sides(n, m, 1), LOGISTIC, k=k, seed=3)
    (rows,) = seen
    assert torch.cat(rows["val"]).sort().values.tolist() == list(range(n + m))
    for train, val in zip(rows["train"], rows["val"], strict=True):
        assert sorted([*train.tolist(), *val.tolist()]) == list(range(n + m))
        # Every fold has both sides in their proportion.
        assert abs((val < n).sum().item() - n / k) < 1
        assert abs((val >= n).sum().item() - m / k) < 1
    assert estimated.source_scores.shape == estimated.weights.shape == (n,)
    assert estimated.target_scores.shape == (m,)


def test_the_score_of_a_row_is_linear_in_its_value(trainer: Callable[..., Trainer]) -> None:
    source, target = normal_sides(60, 60, 1)

    def with_value(value: float) -> EstimatedShift:
        changed = source.clone()
        changed[7, 0] = value
        return estimate(trainer(max_epochs=5).fit, changed, target, LOGISTIC, k=6, batch_size=20)

    # The classifier does not depend on a row that it was not trained on.
    h = [with_value(value).source_scores[7].item() for value in (0.0, 1.0, 1000.0)]
    assert h[1] - h[0] > 0
    assert h[2] - h[0] == pytest.approx(1000 * (h[1] - h[0]), rel=1e-3)


@pytest.mark.parametrize(("n", "m", "steps"), [(60, 60, 500), (100, 40, 500), (3000, 1000, 1000)])
def test_scores_agree_with_scikit_learn(n: int, m: int, steps: int, trainer: Callable[..., Trainer]) -> None:
    source, target = normal_sides(n, m, 1.2)
    make = domain_classifier(2, [], 0.02, weight_decay=1 / (0.8 * (n + m)))
    epochs = max(2, math.ceil(steps / math.ceil(0.8 * (n + m) / 100)))
    estimated = estimate(trainer(max_epochs=epochs).fit, source, target, make, cap=1e6)
    expected = torch.empty(n + m).double()
    folds = zip(*k_fold(n, 5, 0), *k_fold(m, 5, 0), strict=True)
    for source_train, source_val, target_train, target_val in folds:
        X = np.concatenate([source[source_train], target[target_train]])
        z = np.repeat([0, 1], [len(source_train), len(target_train)])
        reference = Reference(C=1.0, tol=1e-8).fit(X, z)
        # The odds of a fold depend on its own numbers of rows.
        factor = math.log(len(source_train) / len(target_train)) - math.log(n / m)
        expected[source_val] = (
            torch.tensor(reference.decision_function(source[source_val].numpy())).double() + factor
        )
        expected[n + target_val] = (
            torch.tensor(reference.decision_function(target[target_val].numpy())).double() + factor
        )
    scores = torch.cat([estimated.source_scores, estimated.target_scores]).double()
    assert (scores - expected).square().mean().sqrt() < 0.1
    assert (scores * expected).sum() / expected.square().sum() == pytest.approx(1, abs=0.03)
    assert correlation(estimated.weights, n / m * expected[:n].exp()) > 0.98


def test_a_small_side_does_not_distort_the_weights(trainer: Callable[..., Trainer]) -> None:
    # Classifiers of constant features: their odds depend only on the numbers of rows.
    make = domain_classifier(2, [], 0.05)
    estimated = estimate(trainer(max_epochs=600).fit, torch.zeros(50, 2), torch.zeros(3, 2), make, k=2)
    assert estimated.weights.tolist() == pytest.approx([1.0] * 50, abs=0.02)


@pytest.mark.parametrize(("n", "m"), [(2000, 2000), (3000, 500), (500, 3000)])
def test_without_shift_all_weights_are_about_1(n: int, m: int, trainer: Callable[..., Trainer]) -> None:
    estimated = estimate(trainer(max_epochs=20).fit, *normal_sides(n, m, 0), LOGISTIC)
    assert estimated.weights.median().item() == pytest.approx(1, abs=0.1)
    assert estimated.effective_sample_size > 0.95 * n
    assert estimated.uncovered < 0.02
    assert estimated.warnings() == []


CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "softmax": lambda: SoftmaxRegression(5, 2, lr=0.3),
    "softmax from scratch": lambda: SoftmaxRegressionScratch(5, 2, lr=0.3),
    "perceptron": domain_classifier(5, [16], 0.01),
    "perceptron from scratch": lambda: MLPScratch(5, 2, 16, lr=0.3, sigma=0.3),
    "dropout": lambda: DropoutMLP(5, 2, [16, 8], lr=0.3, sigma=0.3),
    "dropout from scratch": lambda: DropoutMLPScratch(5, 2, [16, 8], lr=0.3, sigma=0.3),
    "gradients by hand": lambda: BackpropagationMLP(5, 2, 16, lr=0.3, sigma=0.3),
}


@pytest.mark.parametrize("make", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_any_classifier_works(make: Any, trainer: Callable[..., Trainer]) -> None:
    data = SyntheticCovariateShift(num_test=1)
    data.setup()
    torch.manual_seed(0)
    source, target = data.X[data.rows["source"]], data.X[data.rows["target"]]
    estimated = estimate(trainer(max_epochs=10).fit, source, target, make)
    assert data.ratio is not None
    assert correlation(estimated.weights, data.ratio) > 0.85
    (found,) = detect(trainer(max_epochs=5).fit, source, target, make, num_permutations=99)
    assert found.auc > 0.7
    assert found.p_value == 0.01


def test_warnings_name_uncovered_rows_and_few_effective_ones(trainer: Callable[..., Trainer]) -> None:
    apart = estimate(trainer(max_epochs=10).fit, *normal_sides(400, 400, 12), LOGISTIC)
    assert apart.uncovered > 0.99
    assert any(
        "of the target's rows look unlike any row of the source" in warning for warning in apart.warnings()
    )
    few = EstimatedShift(torch.tensor([20.0] + [1e-6] * 999), torch.zeros(1), torch.zeros(1), 1.0, 0.0)
    (warning,) = few.warnings()
    assert "worth 1 of its 1000 rows" in warning
    for seed in range(20):  # by chance alone, a part of a small target is above a small source
        h = torch.randn(40, generator=torch.Generator().manual_seed(seed))
        uncovered = (h[20:] > h[:20].max()).double().mean().item()
        assert EstimatedShift(torch.ones(20), h[:20], h[20:], 20.0, min(uncovered, 0.25)).warnings() == []
    half = normal_sides(1000, 1000, 0)
    half[1][:500, 0] += 12  # half of the target is far from the source
    half_covered = estimate(trainer(max_epochs=20).fit, *half, LOGISTIC)
    assert half_covered.uncovered == pytest.approx(0.5, abs=0.05)


def test_the_detector_has_the_right_level_and_finds_a_shift(trainer: Callable[..., Trainer]) -> None:
    pool, moved = normal_sides(4000, 4000, 0.7)
    generator = torch.Generator().manual_seed(2)
    null, shifted = [], []
    for _ in range(400):
        order = torch.randperm(4000, generator=generator)
        null.append((order[:60], order[60:140]))
        shifted.append((order[:200], torch.randperm(4000, generator=generator)[:150]))
    fit = trainer(max_epochs=3, limit_val_batches=0).fit
    quiet = detect(fit, pool, pool, LOGISTIC, null, num_permutations=199, batch_size=20)
    rate = sum(one.p_value <= 0.05 for one in quiet) / len(quiet)
    assert rate == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 400))
    fit = trainer(max_epochs=3, limit_val_batches=0).fit
    loud = detect(fit, pool, moved, LOGISTIC, shifted, num_permutations=199, batch_size=20)
    assert sum(one.p_value <= 0.05 for one in loud) / len(loud) > 0.95


def test_the_detector_tests_on_held_out_rows(trainer: Callable[..., Trainer]) -> None:
    source, target = normal_sides(31, 20, 1)
    seen: list[dict[str, list[Tensor]]] = []

    def fit(model: Any, data: Any) -> None:
        seen.append(data.rows)
        trainer(max_epochs=1).fit(model, data)

    detect(fit, source, target, LOGISTIC, num_permutations=9)
    ((train,), (held_out,)) = seen[0]["train"], seen[0]["val"]
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(51))
    assert (train < 31).sum() == 15
    assert (train >= 31).sum() == 10


def test_results_depend_on_the_seed_alone(trainer: Callable[..., Trainer]) -> None:
    sides = normal_sides(100, 80, 1)

    def both(seed: int) -> tuple[Any, ...]:
        estimated = estimate(trainer(max_epochs=2).fit, *sides, LOGISTIC, seed=seed)
        found = detect(trainer(max_epochs=2).fit, *sides, LOGISTIC, num_permutations=99, seed=seed)
        return estimated.weights.tolist(), found

    assert both(1) == both(1)
    assert both(1) != both(2)


def test_estimate_and_detect_fit_for_the_given_steps(trainer: Callable[..., Trainer]) -> None:
    calls: dict[str, Any] = {}

    def fit(name: str, model: Any, data: Any, **settings: Any) -> None:
        calls[name] = settings
        trainer(max_epochs=settings["max_epochs"]).fit(model, data)

    settings = DomainSettings(domain_steps=50, k=4, num_permutations=99)
    estimated, detection = estimate_and_detect(fit, *normal_sides(200, 100, 2), settings)  # type: ignore[arg-type]
    assert {name: call["max_epochs"] for name, call in calls.items()} == {"fold": 17, "test": 25}
    assert all(call["complete"] for call in calls.values())
    assert detection.p_value == 0.01
    assert estimated.weights.shape == (200,)


@pytest.mark.parametrize(
    "setting", [{"domain_lr": 0.0}, {"domain_steps": 0}, {"cap": -1.0}, {"num_permutations": 0}]
)
def test_domain_settings_out_of_range_are_errors(setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(setting))} must be positive"):
        DomainSettings(**setting)


def never(*_: Any) -> None:
    pytest.fail("a classifier was trained")


GOOD = torch.zeros(10, 2)


@pytest.mark.parametrize(
    ("source", "target", "settings", "message"),
    [
        (GOOD[:0], GOOD, {}, r"the source must have rows of features, not the shape \(0, 2\)"),
        (GOOD, GOOD[:0], {}, "the target must have rows of features"),
        (GOOD[0], GOOD, {}, r"the source must have rows of features, not the shape \(2,\)"),
        (GOOD, torch.zeros(10, 3), {}, "the source has 2 features and the target 3"),
        (GOOD.log() * 0, GOOD, {}, r"source\[0, 0\] must be a finite number, not nan"),
        (GOOD, GOOD.log(), {}, r"target\[0, 0\] must be a finite number, not -inf"),
        (
            GOOD,
            GOOD[:3],
            {"k": 5},
            "k must be from 2 to the rows of the smaller side; it is 5, the target has 3",
        ),
        (GOOD, GOOD, {"k": 1}, "k must be from 2"),
        (GOOD, GOOD, {"cap": 0.0}, "cap must be positive"),
        (GOOD, GOOD, {"batch_size": 0}, "batch_size must be positive"),
    ],
)
def test_bad_input_to_the_estimate_is_an_error(
    source: Tensor, target: Tensor, settings: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        estimate(never, source, target, LOGISTIC, **settings)


@pytest.mark.parametrize(
    ("source", "target", "settings", "message"),
    [
        (GOOD[:0], GOOD, {}, "the source must have rows"),
        (GOOD, GOOD[:1], {}, "source and target need two rows each"),
        (GOOD, torch.zeros(10, 3), {}, "the source has 2 features and the target 3"),
        (GOOD, GOOD, {"num_permutations": 0}, "num_permutations must be positive"),
        (GOOD, GOOD, {"trials": [(torch.arange(5), torch.arange(1))]}, "need two rows each"),
    ],
)
def test_bad_input_to_the_detector_is_an_error(
    source: Tensor, target: Tensor, settings: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        detect(never, source, target, LOGISTIC, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [((0, [], 0.1), "num_inputs"), ((2, [], 0.0), "lr"), ((2, [0], 0.1), "hidden_sizes")],
)
def test_settings_of_a_domain_classifier_are_checked_at_once(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        domain_classifier(*settings)


def test_tests_find_a_shift_and_raise_few_false_alarms(trainer: Callable[..., Trainer]) -> None:
    X = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    rows: list[Any] = []

    def fit(name: str, model: Any, data: Any, max_epochs: int, **settings: Any) -> None:
        assert not settings["logged"]
        rows.append(data.rows)
        trainer(max_epochs=max_epochs).fit(model, data)

    settings = {"trials": 40, "trial_rows": 100, "trial_epochs": 3, "num_permutations": 99}
    for target, alarm_rate in ((None, 0.05), (X + 1, 1.0)):
        tests = run_trials(fit, X, target, domain_classifier(2), **settings)  # type: ignore[arg-type]
        rate = sum(test.p_value <= 0.05 for test in tests) / 40
        assert rate == pytest.approx(alarm_rate, abs=0.13)
    without, _ = rows
    for train, held_out in zip(without["train"], without["val"], strict=True):
        sampled = torch.cat([train, held_out]) % 400
        assert len(sampled.unique()) == 200  # samples of the source against itself are disjoint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0, 5, 1), "trials must be positive"),
        ((1, 5, 0), "trial_epochs must be positive"),
        ((1, 11, 1), "trial_rows must be from 2 to 10, as there are no more rows, not 11"),
    ],
)
def test_settings_of_trials_out_of_range_are_errors(settings: tuple[int, int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_trials(pytest.fail, torch.zeros(20, 1), None, domain_classifier(1), *settings)
