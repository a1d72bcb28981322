"""Domain classifiers: models that separate source and target."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import require_finite, require_positive
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.logistic_regression import LogisticRegression
from d2l_lightning.models.mlp import MLP

# Returns a new classifier of 0, the source, and 1, the target: log-odds ``(B,)`` or two logits ``(B, 2)``.
MakeClassifier = Callable[[], SupervisedModule]
# Trains a model on data: ``fit`` of a new Trainer.
Fit = Callable[[SupervisedModule, LightningDataModule], Any]
# ``Run.fit``, or a function with its arguments: name, model, data and keywords.
FitFunction = Callable[..., Any]
# Keywords of a fit whose number of epochs follows from its steps: there may be thousands of epochs.
FIT_SETTINGS = {"num_validations": 50, "complete": True}


def epochs_for(steps: int, rows: int, batch_size: int) -> int:
    """Return how many epochs have at least so many steps; 2 or more."""
    return max(2, math.ceil(steps / math.ceil(max(1, rows) / batch_size)))


@dataclass(frozen=True)
class DomainSettings:
    """Settings of domain classifiers and of what is computed from their scores.

    Args:
        domain_hidden_sizes: Hidden layers of the domain classifier; none for logistic regression.
        domain_lr: Adam's learning rate of the domain classifier.
        domain_steps: The fewest training steps of a domain classifier. Its last epoch is always completed.
        k: Number of folds.
        cap: The largest weight of a row; larger ones are cut to it.
        num_permutations: Number of random permutations for the p-value of the detector.

    Raises:
        InputError: If a number is out of its range.
    """

    domain_hidden_sizes: Sequence[int] = ()
    domain_lr: float = 0.01
    domain_steps: int = 1000
    k: int = 5
    cap: float = 20.0
    num_permutations: int = 999

    def __post_init__(self) -> None:
        positive = ("domain_lr", "domain_steps", "cap", "num_permutations")
        require_positive(**{name: getattr(self, name) for name in positive})


def domain_classifier(
    num_inputs: int, hidden_sizes: Sequence[int] = (), lr: float = 0.01, weight_decay: float = 0.0
) -> MakeClassifier:
    """Return a function that makes logistic regressions, or perceptrons if there are hidden layers.

    Args:
        num_inputs: Number of features, d.
        hidden_sizes: Width of each hidden layer; none for logistic regression.
        lr: Adam's learning rate.
        weight_decay: The L2 penalty of logistic regression. 1 over the number of rows is scikit-learn's
            default. Without a penalty, the weights grow without bound if a plane separates the two sides.

    Raises:
        InputError: If a number is out of its range.
    """

    def make() -> SupervisedModule:
        if not hidden_sizes:
            return LogisticRegression(num_inputs, lr, weight_decay)
        return MLP(num_inputs, 2, hidden_sizes, initialization="kaiming", optimizer="adamw", lr=lr)

    make()  # raises errors now
    return make


def held_out_scores(
    fit: Fit, data: StackedData, make_classifier: MakeClassifier, prefix: str
) -> list[Tensor]:
    """Train a classifier for each member of the data; return its log-odds of its validation rows."""
    names = [f"{prefix}_{number}" for number in range(1, len(data.rows["train"]) + 1)]
    classifiers = StackedModule([make_classifier() for _ in names], names)
    classifiers.log_prefix = f"{prefix}/"
    fit(classifiers, data)
    scores = []
    with torch.no_grad():
        for member, rows in zip(classifiers.unstack(), data.rows["val"], strict=True):
            output = member.eval()(data.X[rows].to(member.dtype)).to(data.X.dtype)
            scores.append(output if output.ndim == 1 else output[:, 1] - output[:, 0])
    require_finite(scores=torch.cat(scores))
    return scores
