"""Softmax regression: one affine layer, from scratch and concisely."""

from functools import partial

import torch
from torch import Tensor, nn

from d2l_lightning.errors import require_known, require_not_negative, require_positive
from d2l_lightning.models.base import OptimizerName
from d2l_lightning.models.classifier import Classifier, ScratchClassifier
from d2l_lightning.models.layers import initialize
from d2l_lightning.models.lazy import make_net


class SoftmaxRegressionScratch(ScratchClassifier):
    """Softmax regression from scratch: parameters, cross-entropy and SGD (Section 3.6 of the 0.16 edition).

    Args:
        num_inputs: Number of pixels, d.
        num_outputs: Number of classes, q.
        lr: The learning rate of minibatch SGD.
        sigma: Standard deviation of the initial weights, which are normally distributed.
    """

    def __init__(
        self, num_inputs: int = 784, num_outputs: int = 10, lr: float = 0.1, sigma: float = 0.01
    ) -> None:
        super().__init__()
        require_positive(num_inputs=num_inputs, num_outputs=num_outputs, lr=lr)
        require_not_negative(sigma=sigma)
        self.save_hyperparameters()
        self.num_inputs = num_inputs
        self.W = nn.Parameter(torch.normal(0.0, sigma, (num_inputs, num_outputs)))
        self.b = nn.Parameter(torch.zeros(num_outputs))

    def logits(self, X: Tensor) -> Tensor:
        """Return logits of shape ``(B, q)`` for features of shape ``(B, d)``."""
        return X @ self.W + self.b


class SoftmaxRegression(Classifier):
    """Softmax regression with the framework's layer, loss and optimizer (Section 3.7 of the 0.16 edition).

    Args:
        num_inputs: Number of pixels, d; None takes it from the first batch, as a lazy layer.
        num_outputs: Number of classes, q.
        lr: The learning rate.
        sigma: Standard deviation of the initial weights, which are normally distributed.
        optimizer: Minibatch SGD, or AdamW, whose steps do not depend on the scale of the features.
    """

    buffer_hparams = frozenset({"lr"})

    def __init__(
        self,
        num_inputs: int | None = 784,
        num_outputs: int = 10,
        lr: float = 0.1,
        sigma: float = 0.01,
        optimizer: OptimizerName = "sgd",
    ) -> None:
        super().__init__()
        require_positive(num_inputs=1 if num_inputs is None else num_inputs, num_outputs=num_outputs, lr=lr)
        require_not_negative(sigma=sigma)
        require_known("optimizer", optimizer, OptimizerName)
        self.save_hyperparameters()
        self.num_inputs = num_inputs
        self.net = make_net(self, partial(_layer, num_outputs, sigma), num_inputs)

    def logits(self, X: Tensor) -> Tensor:
        """Return logits of shape ``(B, q)`` for features of shape ``(B, d)``."""
        return self.net(X)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer over all parameters."""
        return self.make_optimizer(self.hparams["optimizer"], self.hparams["lr"])


def _layer(num_outputs: int, sigma: float, num_inputs: int) -> nn.Linear:
    """Return the layer with its initial weights."""
    layer = nn.Linear(num_inputs, num_outputs)
    initialize(layer, "normal", sigma)
    return layer
