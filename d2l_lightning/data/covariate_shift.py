"""What datasets with covariate shift share: a labelled source, a target, and batches of both."""

from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from d2l_lightning.data.batches import EVALUATION_BATCH, InMemoryData, loader_of, shuffled_loader
from d2l_lightning.errors import require_positive


class SourceAndTarget(InMemoryData):
    """A source with labels and a target without.

    Training batches are rows of the source: X ``(B, d)``, y ``(B,)`` and, if there are weights, these.
    Prediction batches are the target's features.

    Args:
        batch_size: Rows in a training batch.
        seed: Seed of all randomness; with the epoch it decides the order of the source's rows.

    Attributes:
        X: Features of all rows, shape ``(N, d)``; available after ``setup``.
        y: Labels, shape ``(N,)``, or ``(n,)`` if the source's n rows come first.
        rows: The rows of ``source`` and ``target``, index tensors.
        weights: The weights of the source's rows in training, shape ``(n,)``, or None.
    """

    X: Tensor
    y: Tensor
    rows: dict[str, Tensor]

    def __init__(self, batch_size: int = 256, seed: int = 0) -> None:
        super().__init__()
        require_positive(batch_size=batch_size)
        self.batch_size, self.seed = batch_size, seed
        self.weights: Tensor | None = None

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of shuffled batches of the source."""
        rows = self.rows["source"]
        weights = [] if self.weights is None else [self.weights.to(self.X.dtype)]
        return shuffled_loader(self, self.batch_size, self.seed, self.X[rows], self.y[rows], *weights)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the target's features."""
        return loader_of(self, *self.X[self.rows["target"]].split(EVALUATION_BATCH))


class CovariateShiftData(SourceAndTarget):
    """A source and a target that also has labelled rows, ``test``, for validation and test.

    A corrector uses the features of the ``target`` rows, but not their labels. ``ratio`` holds the true
    weights of the source's rows, shape ``(n,)``, or None if they are unknown.

    Source: Section 4.9.3, covariate shift.
    """

    ratio: Tensor | None = None

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the target's test rows."""
        batches = self.rows["test"].split(EVALUATION_BATCH)
        return loader_of(self, *((self.X[rows], self.y[rows]) for rows in batches))

    val_dataloader = test_dataloader
