"""Multilayer perceptrons for images: from scratch, and with the framework's parts."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (its usual name)

from d2l_lightning.errors import InputError, require_known, require_not_negative, require_positive
from d2l_lightning.functional.activations import relu
from d2l_lightning.functional.classification import cross_entropy
from d2l_lightning.functional.dropout import require_probability
from d2l_lightning.models.classifier import Classifier
from d2l_lightning.models.layers import (
    Activation,
    Initialization,
    initialize,
    make_activation,
    require_hidden_layers,
)
from d2l_lightning.module import OptimizerName
from d2l_lightning.optim import SGD

Schedule = Literal["constant", "one_cycle"]


class MLPScratch(Classifier):
    """One hidden layer with parameters, ReLU, cross-entropy and SGD of its own.

    Args:
        num_inputs: Number of pixels, d.
        num_outputs: Number of classes, q.
        num_hiddens: Number of hidden units, h.
        lr: The learning rate of minibatch SGD.
        sigma: Standard deviation of the normal distribution that the initial weights are drawn from.

    Raises:
        InputError: If a number is out of its range.

    Source: Section 4.2.
    """

    def __init__(
        self,
        num_inputs: int = 784,
        num_outputs: int = 10,
        num_hiddens: int = 256,
        lr: float = 0.1,
        sigma: float = 0.01,
    ) -> None:
        super().__init__()
        require_positive(num_inputs=num_inputs, num_outputs=num_outputs, num_hiddens=num_hiddens, lr=lr)
        require_not_negative(sigma=sigma)
        self.save_hyperparameters()
        self.num_inputs = num_inputs
        self.W1 = nn.Parameter(torch.normal(0.0, sigma, (num_inputs, num_hiddens)))
        self.b1 = nn.Parameter(torch.zeros(num_hiddens))
        self.W2 = nn.Parameter(torch.normal(0.0, sigma, (num_hiddens, num_outputs)))
        self.b2 = nn.Parameter(torch.zeros(num_outputs))

    def logits(self, X: Tensor) -> Tensor:
        """Return logits of shape ``(B, q)`` for features of shape ``(B, d)`` (eq. 4.1.3)."""
        H = relu(X @ self.W1 + self.b1)  # (B, h)
        return H @ self.W2 + self.b2

    def losses_of(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy of each example: shape ``(B,)``."""
        return cross_entropy(logits, y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return minibatch SGD over all parameters."""
        return SGD(self.parameters(), self.hparams["lr"])


class MLP(Classifier):
    """Hidden layers of any number, with the framework's parts.

    Args:
        num_inputs: Number of pixels, d.
        num_outputs: Number of classes, q.
        hidden_sizes: Width of each hidden layer, at least one.
        activation: The nonlinearity after each hidden layer.
        initialization: How weights begin, see ``layers.initialize``.
        sigma: Standard deviation of the initial weights, where they are ``normal``.
        dropouts: The probability, from 0 to 1, that a unit of each hidden layer is dropped in training; none
            is if empty.
        batch_norm: Whether each hidden layer standardises its units over the batch, before the activation
            (Ioffe and Szegedy, 2015).
        label_smoothing: The share of each training label that is spread evenly over all classes, from 0 to 1
            (Szegedy et al., 2016); the loss of an evaluation knows none.
        optimizer: Minibatch SGD, or AdamW.
        lr: The learning rate.
        schedule: What becomes of the learning rate in a fit: it is ``constant``, or goes up to ``lr`` and
            then down to nearly 0, step by step (``one_cycle``).
        weight_decay: That of the optimizer: an L2 penalty of SGD, a decay of its own of AdamW.

    Raises:
        InputError: If a number is out of its range or a name unknown, or there are not as many dropouts as
            hidden layers; in a fit, if ``one_cycle`` has no last epoch.

    Source: Sections 4.3 and 4.6.5.
    """

    def __init__(
        self,
        num_inputs: int = 784,
        num_outputs: int = 10,
        hidden_sizes: Sequence[int] = (256,),
        activation: Activation = "relu",
        initialization: Initialization = "normal",
        sigma: float = 0.01,
        dropouts: Sequence[float] = (),
        batch_norm: bool = False,
        label_smoothing: float = 0.0,
        optimizer: OptimizerName = "sgd",
        lr: float = 0.1,
        schedule: Schedule = "constant",
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        require_positive(num_inputs=num_inputs, num_outputs=num_outputs, lr=lr)
        require_not_negative(sigma=sigma, weight_decay=weight_decay)
        require_hidden_layers(hidden_sizes, dropouts or [0.0] * len(hidden_sizes))
        require_probability(label_smoothing=label_smoothing)
        require_known("optimizer", optimizer, OptimizerName)
        require_known("schedule", schedule, Schedule)
        self.save_hyperparameters()
        self.num_inputs = num_inputs
        layers: list[nn.Module] = []
        width = num_inputs
        for place, size in enumerate(hidden_sizes):
            layers.append(nn.Linear(width, size))
            if batch_norm:
                layers.append(nn.BatchNorm1d(size))
            layers.append(make_activation(activation))
            if dropouts:
                layers.append(nn.Dropout(dropouts[place]))
            width = size
        self.net = nn.Sequential(*layers, nn.Linear(width, num_outputs))
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                initialize(layer, initialization, sigma)

    def logits(self, X: Tensor) -> Tensor:
        """Return logits of shape ``(B, q)`` for features of shape ``(B, d)``."""
        return self.net(X)

    def losses_of(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy of each example, in training with smoothed labels: shape ``(B,)``."""
        smoothing = self.hparams["label_smoothing"] if self.training else 0.0
        return F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)

    def configure_optimizers(self) -> Any:
        """Return the optimizer over all parameters, with the schedule of its learning rate if it has one."""
        lr = self.hparams["lr"]
        optimizer = self.make_optimizer(self.hparams["optimizer"], lr, self.hparams["weight_decay"])
        if self.hparams["schedule"] == "constant":
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if not 0 < steps < math.inf:
            raise InputError(
                "schedule one_cycle needs steps, and max_epochs or max_steps to know where it ends"
            )
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=lr, total_steps=int(steps), cycle_momentum=False
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}
