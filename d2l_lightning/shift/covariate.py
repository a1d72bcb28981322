"""Covariate shift, estimated and detected by a classifier that tells source and target apart."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor

from d2l_lightning.batches import epoch_generator
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError, require_finite, require_positive
from d2l_lightning.functional.covariate_shift import (
    area_under_curve,
    effective_sample_size,
    importance_weights,
    permutation_p_value,
    uncovered_share,
)
from d2l_lightning.models.logistic_regression import LogisticRegression
from d2l_lightning.models.mlp import MLP
from d2l_lightning.module import SupervisedModule

# What tells 0, the source, from 1, the target: of log-odds ``(B,)`` or of two logits ``(B, 2)``.
MakeClassifier = Callable[[], SupervisedModule]
# What fits a model to data, once: a new Trainer's ``fit``. It is called when all else was checked.
Fit = Callable[[LightningModule, LightningDataModule], None]


@dataclass(frozen=True)
class EstimatedShift:
    """How a target's inputs differ from a source's, as far as a domain classifier tells.

    Attributes:
        weights: beta, how much each row of the source is to weigh, float64 ``(n,)``.
        source_scores: h of the source's rows, by a classifier that did not see the row, shape ``(n,)``.
        target_scores: h of the target's rows, likewise, shape ``(m,)``.
        effective_sample_size: How many rows without weights the weighted source is worth.
        uncovered: The share of the target's rows that are unlike any of the source.
    """

    weights: Tensor
    source_scores: Tensor
    target_scores: Tensor
    effective_sample_size: float
    uncovered: float

    def warnings(self) -> list[str]:
        """Return what a person should know before they trust the weights: a sentence each."""
        told = []
        n = len(self.weights)
        # Of so few rows as n, chance alone leaves 5 / n of the target beyond them once in 150 times.
        if self.uncovered > max(0.05, 5 / n):
            told.append(
                f"{self.uncovered:.0%} of the target's rows look unlike any row of the source: where the "
                "source has nothing, weights cannot help. Collect labels there."
            )
        if self.effective_sample_size < max(0.05 * n, min(30, n / 2)):
            told.append(
                f"The weighted source is worth {self.effective_sample_size:.0f} of its {n} rows: what is "
                "learned from it rests on few."
            )
        return told


@dataclass(frozen=True)
class Detection:
    """Whether held-out rows tell source and target apart.

    Attributes:
        auc: The area under the curve of the domain classifier's scores.
        p_value: How often chance alone would give so great a one.
    """

    auc: float
    p_value: float


def estimate(
    fit: Fit,
    source: Tensor,
    target: Tensor,
    make_classifier: MakeClassifier,
    k: int = 5,
    cap: float = 20.0,
    batch_size: int = 100,
    seed: int = 0,
) -> EstimatedShift:
    """Estimate the importance weights of a source's rows for a target, cross-fitted.

    Source and target are cut into k folds; each fold's rows get their scores from a classifier that is
    trained on the other folds. All k train side by side.

    Args:
        fit: What fits the classifiers: a new Trainer's ``fit``.
        source: Features, shape ``(n, d)``, on a like scale.
        target: Features, shape ``(m, d)``, on the same scale.
        make_classifier: Makes a domain classifier; called k times.
        k: Number of folds, from 2 to the rows of the smaller side.
        cap: The greatest weight, c.
        batch_size: Rows in a batch.
        seed: Seed of folds and batches.

    Raises:
        InputError: If a side is empty or has a number that is not finite, the columns are not as many, or a
            number is out of its range.

    Source: Section 4.9.3, eqs. 4.9.4 to 4.9.7; exercise 3.
    """
    _require_sides(source, target)
    require_positive(cap=cap)
    n, m = len(source), len(target)
    for name, rows in (("source", n), ("target", m)):
        if not 2 <= k <= rows:
            raise InputError(
                f"k must be from 2 to the rows of the smaller side; it is {k}, the {name} has {rows}"
            )
    (source_train, source_val), (target_train, target_val) = k_fold(n, k, seed), k_fold(m, k, seed)
    train = [torch.cat([s, n + t]) for s, t in zip(source_train, target_train, strict=True)]
    val = [torch.cat([s, n + t]) for s, t in zip(source_val, target_val, strict=True)]
    scores = _held_out_scores(fit, source, target, make_classifier, train, val, batch_size, seed, "fold")
    h = torch.empty(n + m, dtype=scores[0].dtype)
    for train_rows, val_rows, of_fold in zip(train, val, scores, strict=True):
        # A fold's odds are those of its own n and m.
        from_source = int((train_rows < n).sum())
        h[val_rows] = of_fold + math.log(from_source * m / ((len(train_rows) - from_source) * n))
    weights = importance_weights(h[:n], n, m, cap)
    return EstimatedShift(
        weights, h[:n], h[n:], effective_sample_size(weights), uncovered_share(h[:n], h[n:])
    )


def detect(
    fit: Fit,
    source: Tensor,
    target: Tensor,
    make_classifier: MakeClassifier,
    trials: Sequence[tuple[Tensor, Tensor]] | None = None,
    num_permutations: int = 999,
    batch_size: int = 100,
    seed: int = 0,
) -> list[Detection]:
    """Test whether source and target have the same distribution, by a classifier's held-out AUC.

    Half of the rows of each side, chosen at random, train the classifier; the other half tell the AUC, and
    are dealt out anew for its p-value.

    Args:
        fit: What fits the classifiers: a new Trainer's ``fit``.
        source: Features, shape ``(n, d)``, on a like scale.
        target: Features, shape ``(m, d)``, on the same scale.
        make_classifier: Makes a domain classifier; called once a trial.
        trials: The rows of source and target in each of T tests, which train side by side; one test with all
            rows if not given.
        num_permutations: How often the held-out rows are dealt out; 1 over it is the least p-value.
        batch_size: Rows in a batch.
        seed: Seed of halves, batches and permutations.

    Returns:
        What each test found, T of them.

    Raises:
        InputError: If a side is empty or has a number that is not finite, has fewer than two rows in a test,
            or the columns are not as many.

    Source: Exercise 2 of Section 4.9; Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests" (2017).
    """
    _require_sides(source, target)
    require_positive(num_permutations=num_permutations)
    n = len(source)
    if trials is None:
        trials = [(torch.arange(n), torch.arange(len(target)))]
    if any(min(len(s), len(t)) < 2 for s, t in trials):
        raise InputError("source and target need two rows each: one to train on, one to test")
    generator = epoch_generator(seed, 0, 4)
    train, held_out, sizes = [], [], []
    for source_rows, target_rows in trials:
        s = source_rows[torch.randperm(len(source_rows), generator=generator)]
        t = target_rows[torch.randperm(len(target_rows), generator=generator)]
        half_s, half_t = len(s) // 2, len(t) // 2
        train.append(torch.cat([s[:half_s], n + t[:half_t]]))
        held_out.append(torch.cat([s[half_s:], n + t[half_t:]]))
        sizes.append(len(s) - half_s)
    scores = _held_out_scores(fit, source, target, make_classifier, train, held_out, batch_size, seed, "test")
    found = []
    for h, size in zip(scores, sizes, strict=True):
        sides = h[:size], h[size:]
        p_value = permutation_p_value(*sides, num_permutations, generator)
        found.append(Detection(area_under_curve(*sides), p_value))
    return found


def domain_classifier(
    num_inputs: int, hidden_sizes: Sequence[int] = (), lr: float = 0.01, weight_decay: float = 0.0
) -> MakeClassifier:
    """Return what makes logistic regressions, or perceptrons if there are hidden layers; Adam trains both.

    Args:
        num_inputs: Number of features, d.
        hidden_sizes: Width of each hidden layer.
        lr: The learning rate.
        weight_decay: The L2 penalty of logistic regression. With 1 over the number of rows it is what
            scikit-learn penalises by default; without any, the weights of sides that a plane can part grow
            for ever.

    Raises:
        InputError: If a number is out of its range.
    """

    def make() -> SupervisedModule:
        if not hidden_sizes:
            return LogisticRegression(num_inputs, lr, weight_decay)
        return MLP(num_inputs, 2, hidden_sizes, initialization="kaiming", optimizer="adamw", lr=lr)

    make()  # what is wrong is told now
    return make


def _require_sides(source: Tensor, target: Tensor) -> None:
    for name, X in (("source", source), ("target", target)):
        if X.ndim != 2 or not len(X):
            raise InputError(f"the {name} must have rows of features, not the shape {tuple(X.shape)}")
        require_finite(**{name: X})
    if source.shape[1] != target.shape[1]:
        raise InputError(f"the source has {source.shape[1]} features and the target {target.shape[1]}")


def _held_out_scores(
    fit: Fit,
    source: Tensor,
    target: Tensor,
    make_classifier: MakeClassifier,
    train: Sequence[Tensor],
    held_out: Sequence[Tensor],
    batch_size: int,
    seed: int,
    prefix: str,
) -> list[Tensor]:
    """Train a classifier on each member's rows; return its log-odds of the rows held out, on the CPU."""
    X = torch.cat([source, target])
    z = (torch.arange(len(X)) >= len(source)).long()
    names = [f"{prefix}_{number}" for number in range(1, len(train) + 1)]
    classifiers = StackedModule([make_classifier() for _ in train], names)
    classifiers.log_prefix = f"{prefix}/"
    data = StackedData(X, z, {"train": train, "val": held_out}, batch_size, seed)
    fit(classifiers, data)
    scores = []
    with torch.no_grad():
        for member, rows in zip(classifiers.unstack(), held_out, strict=True):
            output = member.eval()(X[rows])
            scores.append(output if output.ndim == 1 else output[:, 1] - output[:, 0])
    require_finite(scores=torch.cat(scores))
    return scores
