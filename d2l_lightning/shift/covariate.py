"""Covariate shift, estimated and detected by a classifier that separates source and target."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from d2l_lightning.data.batches import epoch_generator
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.errors import InputError, require_finite, require_positive
from d2l_lightning.functional import covariate_shift as functional
from d2l_lightning.shift import domain

# Rows in a batch of a domain classifier.
BATCH_SIZE = 100


@dataclass(frozen=True)
class EstimatedShift:
    """An estimate of how the inputs of a target differ from those of a source.

    Attributes:
        weights: The importance weights of the source's rows, beta, float64 ``(n,)``.
        source_scores: Log-odds h of the source's rows, each by a classifier that was not trained on the row,
            shape ``(n,)``.
        target_scores: Log-odds h of the target's rows, of the same kind, shape ``(m,)``.
        effective_sample_size: How many unweighted rows hold as much information as the weighted source.
        uncovered: The share of the target's rows that look unlike all rows of the source.
    """

    weights: Tensor
    source_scores: Tensor
    target_scores: Tensor
    effective_sample_size: float
    uncovered: float

    def warnings(self) -> list[str]:
        """Return what limits the use of the weights, a sentence each."""
        n, size = len(self.weights), self.effective_sample_size
        unlike = f"{self.uncovered:.0%} of the target's rows look unlike any row of the source"
        uncovered = f"{unlike}, and weights cannot help there. Collect labels for such rows."
        few = f"The weighted source is worth {size:.0f} of its {n} rows: results depend on few rows."
        # By chance alone, more than 5 / n of the target are above all n scores once in 150 times.
        return [uncovered] * (self.uncovered > max(0.05, 5 / n)) + [few] * (
            size < max(0.05 * n, min(30, n / 2))
        )


@dataclass(frozen=True)
class Detection:
    """The result of a test whether source and target differ.

    Attributes:
        auc: The area under the curve of the domain classifier's scores of held-out rows.
        p_value: The probability of so great an area without shift.
    """

    auc: float
    p_value: float


def estimate_and_detect(
    fit: domain.FitFunction,
    source: Tensor,
    target: Tensor,
    settings: domain.DomainSettings | None = None,
    seed: int = 0,
) -> tuple[EstimatedShift, Detection]:
    """Estimate the importance weights of a source for a target, and test whether the two differ.

    Arguments and errors are those of ``estimate`` and ``detect``. But ``fit`` is ``Run.fit`` or a function
    with its arguments, called for the ``fold`` classifiers of the estimate and for the one of the ``test``.
    """
    settings = settings or domain.DomainSettings()
    rows = len(source) + len(target)
    hidden_sizes, lr = settings.domain_hidden_sizes, settings.domain_lr
    classifier = domain.domain_classifier(source.shape[1], hidden_sizes, lr, weight_decay=1 / rows)

    def fit_on(train_rows: int, name: str, title: str) -> domain.Fit:
        epochs = domain.epochs_for(settings.domain_steps, train_rows, BATCH_SIZE)
        return partial(fit, name, title=title, max_epochs=epochs, **domain.FIT_SETTINGS)

    folds = fit_on(rows - rows // max(settings.k, 2), "fold", "domain classifiers")
    test = fit_on(rows // 2, "test", "detector")
    estimated = estimate(folds, source, target, classifier, settings.k, settings.cap, seed=seed)
    (detection,) = detect(test, source, target, classifier, None, settings.num_permutations, seed=seed)
    return estimated, detection


def estimate(
    fit: domain.Fit,
    source: Tensor,
    target: Tensor,
    make_classifier: domain.MakeClassifier,
    k: int = 5,
    cap: float = 20.0,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
) -> EstimatedShift:
    """Estimate the importance weights of a source's rows for a target by cross-fitting.

    Source and target are split into k folds. The rows of each fold get their scores from a classifier that
    is trained on the other folds. The k classifiers train side by side.

    Args:
        fit: Trains the classifiers: ``fit`` of a new Trainer.
        source: Features of similar scale, shape ``(n, d)``.
        target: Features on the same scale, shape ``(m, d)``.
        make_classifier: Returns a new domain classifier; called k times.
        k: Number of folds, from 2 to the rows of the smaller side.
        cap: The largest weight of a row; larger ones are cut to it.
        batch_size: Rows in a batch.
        seed: Seed of folds and batches.

    Raises:
        InputError: If an argument is out of its range, or as ``detect``.

    Source: Section 4.9.3, eqs. 4.9.4 to 4.9.7; exercise 3.
    """
    X, z = _both_sides(source, target)
    require_positive(cap=cap)
    n, m = len(source), len(target)
    for name, rows in (("source", n), ("target", m)):
        if not 2 <= k <= rows:
            raise InputError(
                f"k must be from 2 to the rows of the smaller side; it is {k}, the {name} has {rows}"
            )
    train, val = (
        [torch.cat([s, n + t]) for s, t in zip(*sides, strict=True)]
        for sides in zip(k_fold(n, k, seed), k_fold(m, k, seed), strict=True)
    )
    data = StackedData(X, z, {"train": train, "val": val}, batch_size, seed)
    scores = domain.held_out_scores(fit, data, make_classifier, "fold")
    h = torch.empty(n + m, dtype=scores[0].dtype)
    for train_rows, val_rows, fold_scores in zip(train, val, scores, strict=True):
        # A fold's odds depend on its own numbers of source and target rows.
        fold_source = int((train_rows < n).sum())
        h[val_rows] = fold_scores + math.log(fold_source * m / ((len(train_rows) - fold_source) * n))
    weights = functional.importance_weights(h[:n], n, m, cap)
    size, uncovered = functional.effective_sample_size(weights), functional.uncovered_share(h[:n], h[n:])
    return EstimatedShift(weights, h[:n], h[n:], size, uncovered)


def detect(
    fit: domain.Fit,
    source: Tensor,
    target: Tensor,
    make_classifier: domain.MakeClassifier,
    trials: Sequence[tuple[Tensor, Tensor]] | None = None,
    num_permutations: int = 999,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
) -> list[Detection]:
    """Test whether source and target have the same distribution, by the held-out AUC of a classifier.

    A random half of the rows of each side trains the classifier. The AUC and its p-value, ``1 / (1 + P)`` or
    more with P random permutations, are computed on the other half. ``trials`` holds the rows of source and
    target in each of T tests, whose classifiers train side by side; if not given, one test has all rows. The
    other arguments are those of ``estimate``.

    Raises:
        InputError: If a side is empty or not finite or has under two rows in a test, or the columns differ.

    Source: Exercise 2 of Section 4.9; Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests" (2017).
    """
    X, z = _both_sides(source, target)
    require_positive(num_permutations=num_permutations)
    n, generator = len(source), epoch_generator(seed, 0, 4)
    train, held_out = [], []
    for trial in trials or [(torch.arange(n), torch.arange(len(target)))]:
        if min(map(len, trial)) < 2:
            raise InputError("source and target need two rows each: one to train on, one to test")
        s, t = (rows[torch.randperm(len(rows), generator=generator)] for rows in trial)
        half_s, half_t = len(s) // 2, len(t) // 2
        train.append(torch.cat([s[:half_s], n + t[:half_t]]))
        held_out.append(torch.cat([s[half_s:], n + t[half_t:]]))
    data = StackedData(X, z, {"train": train, "val": held_out}, batch_size, seed)
    scores = domain.held_out_scores(fit, data, make_classifier, "test")
    detections = []
    for h, rows in zip(scores, held_out, strict=True):
        sides = h[rows < n], h[rows >= n]
        p_value = functional.permutation_p_value(*sides, num_permutations, generator)
        detections.append(Detection(functional.area_under_curve(*sides), p_value))
    return detections


def require_trial_rows(trial_rows: int, source: Tensor, target: Tensor) -> None:
    """Raise an InputError unless source and target have enough rows for the samples of ``run_trials``."""
    most = min(len(source) // 2, len(target))
    if not 2 <= trial_rows <= most:
        raise InputError(f"trial_rows must be from 2 to {most}, as there are no more rows, not {trial_rows}")


def run_trials(
    fit: domain.FitFunction,
    source: Tensor,
    target: Tensor | None,
    make_classifier: domain.MakeClassifier,
    trials: int,
    trial_rows: int,
    trial_epochs: int,
    num_permutations: int = 999,
    seed: int = 0,
) -> list[Detection]:
    """Test random samples of the source against samples of the target or against disjoint ones of the source.

    The classifiers of all tests train side by side, by ``Run.fit`` or a function with its arguments. Their
    metrics are not logged. Source and target have shapes ``(n, d)`` and ``(m, d)``; without a target, samples
    of the source are tested against each other. Each test has ``trial_rows`` rows of either side.

    Raises:
        InputError: If a number is out of its range.
    """
    require_positive(trials=trials, trial_epochs=trial_epochs)
    against, title = (source, "tests without shift") if target is None else (target, "tests with shift")
    require_trial_rows(trial_rows, source, against)
    generator = epoch_generator(seed, 0, 5)
    samples = []
    for _ in range(trials):
        order = torch.randperm(len(source), generator=generator)
        others = order[trial_rows:] if target is None else torch.randperm(len(target), generator=generator)
        samples.append((order[:trial_rows], others[:trial_rows]))
    settings = {"title": title, "logged": False, "max_epochs": trial_epochs, **domain.FIT_SETTINGS}
    fit_tests = partial(fit, title.replace(" ", "_"), **settings)
    return detect(fit_tests, source, against, make_classifier, samples, num_permutations, seed=seed)


def _both_sides(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of source and target, and 0 or 1 for each; raise an InputError if they do not match."""
    for name, X in (("source", source), ("target", target)):
        if X.ndim != 2 or not len(X):
            raise InputError(f"the {name} must have rows of features, not the shape {tuple(X.shape)}")
        require_finite(**{name: X})
    if source.shape[1] != target.shape[1]:
        raise InputError(f"the source has {source.shape[1]} features and the target {target.shape[1]}")
    X = torch.cat([source, target])
    return X, (torch.arange(len(X)) >= len(source)).long()
