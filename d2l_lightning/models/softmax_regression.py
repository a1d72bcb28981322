"""Softmax regression: one affine layer, from scratch and with the framework's parts."""

import torch
from torch import Tensor, nn

from d2l_lightning.errors import require_known, require_not_negative, require_positive
from d2l_lightning.functional.classification import cross_entropy
from d2l_lightning.models.classifier import Classifier
from d2l_lightning.models.layers import initialize
from d2l_lightning.module import OptimizerName
from d2l_lightning.optim import SGD


class SoftmaxRegressionScratch(Classifier):
    """Softmax regression with parameters, cross-entropy and SGD of its own.

    Args:
        num_inputs: Number of pixels, d.
        num_outputs: Number of classes, q.
        lr: The learning rate of minibatch SGD.
        sigma: Standard deviation of the normal distribution that the initial weights are drawn from.

    Raises:
        InputError: If a number is out of its range.

    Source: Section 3.6 of the 0.16 edition.
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

    def losses_of(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy of each example: shape ``(B,)``."""
        return cross_entropy(logits, y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return minibatch SGD over all parameters."""
        return SGD(self.parameters(), self.hparams["lr"])


class SoftmaxRegression(Classifier):
    """Softmax regression with the framework's layer, loss and optimizer.

    Args:
        num_inputs: Number of pixels, d.
        num_outputs: Number of classes, q.
        lr: The learning rate.
        sigma: Standard deviation of the normal distribution that the initial weights are drawn from.
        optimizer: Minibatch SGD, or AdamW, which does not depend on the features' scale.

    Raises:
        InputError: If a number is out of its range or the optimizer unknown.

    Source: Section 3.7 of the 0.16 edition.
    """

    def __init__(
        self,
        num_inputs: int = 784,
        num_outputs: int = 10,
        lr: float = 0.1,
        sigma: float = 0.01,
        optimizer: OptimizerName = "sgd",
    ) -> None:
        super().__init__()
        require_positive(num_inputs=num_inputs, num_outputs=num_outputs, lr=lr)
        require_not_negative(sigma=sigma)
        require_known("optimizer", optimizer, OptimizerName)
        self.save_hyperparameters()
        self.num_inputs = num_inputs
        self.net = nn.Linear(num_inputs, num_outputs)
        initialize(self.net, "normal", sigma)

    def logits(self, X: Tensor) -> Tensor:
        """Return logits of shape ``(B, q)`` for features of shape ``(B, d)``."""
        return self.net(X)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer over all parameters."""
        return self.make_optimizer(self.hparams["optimizer"], self.hparams["lr"])
