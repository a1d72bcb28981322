"""What every classifier of images shares: logits, cross-entropy, accuracy."""

import math
from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (its usual name)

from d2l_lightning.errors import InputError
from d2l_lightning.functional.classification import hits, require_classes
from d2l_lightning.module import SupervisedModule


class Classifier(SupervisedModule):
    """A model that predicts a class by the greatest of q logits, trained by cross-entropy.

    Logs ``loss`` and ``accuracy`` of each stage.

    Source: Sections 3.6 and 3.7 of the 0.16 edition.
    """

    num_inputs: int

    @abstractmethod
    def logits(self, X: Tensor) -> Tensor:
        """Return logits of shape ``(B, q)`` for features of shape ``(B, d)``."""

    def forward(self, X: Tensor) -> Tensor:
        """Return logits of shape ``(B, q)`` for images of shape ``(B, ...)``; errors as in ``pixels``."""
        return self.logits(self.pixels(X))

    def pixels(self, X: Tensor) -> Tensor:
        """Return images of shape ``(B, ...)`` as rows of d pixels, ``(B, d)``.

        Raises:
            InputError: If they have another number of pixels, or are no floating-point numbers.
        """
        if math.prod(X.shape[1:]) != self.num_inputs:
            raise InputError(
                f"X of shape {tuple(X.shape)} does not go with num_inputs, {self.num_inputs}: it must be "
                f"(B, {self.num_inputs}) or an image with as many pixels"
            )
        if not X.is_floating_point():
            raise InputError(f"X must hold floating-point numbers, not {X.dtype}")
        return X.flatten(1)

    def losses_of(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy of each example: shape ``(B,)``."""
        return F.cross_entropy(logits, y, reduction="none")

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy of each example: shape ``(B,)``."""
        logits = self(X)
        require_classes(logits, y)
        return self.losses_of(logits, y)

    def example_metrics(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the cross-entropy, and whether the prediction is right: shape ``(B,)``."""
        logits = self(X)
        require_classes(logits, y)
        return {"loss": self.losses_of(logits, y), "accuracy": hits(logits, y)}

    def predict_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> Tensor:
        """Return the logits of a batch of images."""
        return self(batch[0] if isinstance(batch, Sequence) else batch)
