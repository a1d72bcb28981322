"""Image classifiers of one architecture that a run trains side by side, on the same images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch

from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import require_positive
from d2l_lightning.models.classifier import Classifier
from d2l_lightning.runs.classification import LabelledImages
from d2l_lightning.runs.run import Run


class BatchedImages(LabelledImages, Protocol):
    """Images of classes with the size and the seed of their batches."""

    batch_size: int
    seed: int


@dataclass(frozen=True)
class Member:
    """What is known of a classifier after a fit side by side.

    Attributes:
        model: The trained classifier.
        accuracy: Its accuracy on the rows of the stage; None if it diverged.
        losses: Its loss in training, for each epoch that has a finite one.
    """

    model: Classifier
    accuracy: float | None
    losses: Sequence[float]


class _TrainingRows(StackedData):
    """Data without validation batches: a batch of all rows would not fit into memory."""

    def val_dataloader(self) -> Any:
        """Return no loader."""
        return []


def train_side_by_side(
    run: Run,
    name: str,
    models: Mapping[str, Classifier],
    images: BatchedImages,
    stage: str,
    num_train: int | None = None,
) -> dict[str, Member]:
    """Train classifiers on the same batches in one fit, and evaluate each on the rows of a stage.

    A classifier that diverges does not end the fit.

    Args:
        run: The run.
        name: The name of the fit.
        models: The classifiers by name, see ``StackedModule``.
        images: The images; those that are mirrored at random are not.
        stage: The rows to evaluate on, ``val`` or ``test``.
        num_train: The number of training rows to use, from the first; all if not given.

    Raises:
        InputError: If there are no rows to train on, or the classifiers cannot train side by side.
    """
    images.setup()
    of_stages = {"train": images.rows["train"][:num_train], stage: images.rows[stage]}
    require_positive(num_train=len(of_stages["train"]))
    X, y = images.examples(torch.cat(list(of_stages.values())))
    n = len(of_stages["train"])
    rows = {"train": [torch.arange(n)] * len(models), stage: [torch.arange(n, len(y))] * len(models)}
    data = _TrainingRows(X, y, rows, images.batch_size, images.seed, same_order=True)
    stack = StackedModule(list(models.values()), list(models), raise_on_divergence=False)
    fit = run.fit(name, stack, data, title=f"{name.replace('_', ' ')}: {len(models)} side by side")
    accuracies = stack.evaluate(data, stage)[f"{stage}/accuracy"].tolist()
    members = {}
    for member, model, accuracy in zip(models, stack.unstack(), accuracies, strict=True):
        _, losses = fit.curve(f"train/loss/{member}")
        # Not by ``stack.diverged``, which a resumed run does not have of a fit that was done before.
        finite = [loss for loss in losses if abs(loss) < float("inf")]
        diverged = len(finite) < len(losses)
        members[member] = Member(cast(Classifier, model), None if diverged else accuracy, finite)
    return members
