"""The base class of image classifiers: logits, cross-entropy, accuracy."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (its usual name)

from d2l_lightning.errors import InputError
from d2l_lightning.functional.classification import correct_predictions, cross_entropy, require_classes
from d2l_lightning.functional.precision import single
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.checks import missing_method
from d2l_lightning.models.lazy import take_num_inputs
from d2l_lightning.optim.sgd import SGD


class Classifier(SupervisedModule):
    """A model that is trained by cross-entropy and predicts the class with the greatest of q logits.

    It logs ``loss`` and ``accuracy`` of each stage. A class of one's own defines ``logits``, and
    ``configure_optimizers``. A class whose layers take images that are not rows of pixels, such as
    ``nn.Conv2d``, defines ``forward`` instead of ``logits``.

    Source: Sections 3.6 and 3.7 of the 0.16 edition.

    Attributes:
        num_inputs: The number of pixels of each image; None takes images of any size.
    """

    num_inputs: int | None = None
    label_smoothing = 0.0

    def logits(self, X: Tensor) -> Tensor:
        """Return logits of shape ``(B, q)`` for features of shape ``(B, d)``."""
        raise missing_method(self, "logits(self, X)", "a logit for each class, (B, q), given pixels, (B, d)")

    def forward(self, X: Tensor) -> Tensor:
        """Return logits of shape ``(B, q)`` for images of shape ``(B, ...)``; errors as in ``pixels``."""
        return single(self.logits(self.pixels(X)))

    def pixels(self, X: Tensor) -> Tensor:
        """Return images ``(B, ...)`` as rows of pixels, ``(B, d)``; raise an InputError if they cannot be."""
        if self.num_inputs is None:
            self._take_num_inputs(math.prod(X.shape[1:]))
        elif math.prod(X.shape[1:]) != self.num_inputs:
            wanted = f"num_inputs, {self.num_inputs} pixels for each image"
            raise InputError(f"X of shape {tuple(X.shape)} does not go with {wanted}")
        if not X.is_floating_point():
            raise InputError(f"X must hold floating-point numbers, not {X.dtype}")
        return X.flatten(1)

    def _take_num_inputs(self, num_inputs: int) -> None:
        """Give the net of a model that was made without ``num_inputs`` its number of inputs."""
        if "_make_net" in vars(self):
            take_num_inputs(self, self.net, num_inputs)
            self.num_inputs = num_inputs

    def losses_of(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy of each example, with smoothed labels in training: shape ``(B,)``."""
        require_classes(logits, y)
        smoothing = self.label_smoothing if self.training else 0.0
        return F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)

    def example_metrics(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the cross-entropy of each example and whether its prediction is correct: shape ``(B,)``."""
        logits = self(X)
        return {"loss": self.losses_of(logits, y), "accuracy": correct_predictions(logits, y)}


class ScratchClassifier(Classifier):
    """A classifier that uses the cross-entropy and the minibatch SGD of this project, not the framework's."""

    def losses_of(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy of each example, by this project's formula: shape ``(B,)``."""
        return cross_entropy(logits, y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return minibatch SGD over all parameters."""
        return SGD(self.parameters(), self.hparams["lr"])
