"""Multilayer perceptrons for images, from scratch and concisely."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from d2l_lightning.errors import require_known, require_not_negative, require_positive
from d2l_lightning.functional.activations import relu
from d2l_lightning.functional.dropout import require_probability
from d2l_lightning.models.base import OptimizerName
from d2l_lightning.models.classifier import Classifier, ScratchClassifier
from d2l_lightning.models.layers import (
    Activation,
    Initialization,
    initialize,
    make_activation,
    require_hidden_layers,
)

Schedule = Literal["constant", "one_cycle"]


class MLPScratch(ScratchClassifier):
    """A perceptron with one hidden layer from scratch: parameters, ReLU, cross-entropy, SGD (Section 4.2).

    Args:
        num_inputs: Number of pixels, d.
        num_outputs: Number of classes, q.
        num_hiddens: Number of hidden units, h.
        lr: The learning rate of minibatch SGD.
        sigma: Standard deviation of the initial weights, which are normally distributed.
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
        return relu(X @ self.W1 + self.b1) @ self.W2 + self.b2


class MLP(Classifier):
    """A perceptron with any number of hidden layers (Sections 4.3 and 4.6.5).

    Args:
        num_inputs: Number of pixels, d.
        num_outputs: Number of classes, q.
        hidden_sizes: Width of each hidden layer, at least one.
        activation: The nonlinearity after each hidden layer.
        initialization: The initial weights (Section 4.8.2), see ``layers.initialize``.
        sigma: Standard deviation of ``normal`` initial weights.
        dropouts: The probability, from 0 to 1, that a unit is dropped in training, for each hidden layer; an
            empty list means no dropout.
        batch_norm: Whether each hidden layer standardises its units over the batch before the activation
            (Ioffe and Szegedy, 2015).
        label_smoothing: The share of each training label, from 0 to 1, that is spread evenly over all classes
            (Szegedy et al., 2016). Evaluation does not smooth labels.
        optimizer: Minibatch SGD, or AdamW.
        lr: The learning rate.
        schedule: The learning rate over a fit: ``constant``, or up to ``lr`` and then down to nearly 0, step
            by step (``one_cycle``).
        weight_decay: The optimizer's weight decay: an L2 penalty in SGD, decoupled from the loss in AdamW.

    Raises:
        InputError: If there are not as many dropouts as hidden layers; in a fit, if ``one_cycle`` has no end.
    """

    buffer_hparams = frozenset({"lr", "weight_decay"})

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
        self.num_inputs, self.label_smoothing = num_inputs, label_smoothing
        layers: list[nn.Module] = []
        widths = [num_inputs, *hidden_sizes]
        for index, (width, size) in enumerate(pairwise(widths)):
            layers += [nn.Linear(width, size), *[nn.BatchNorm1d(size)] * batch_norm]
            layers.append(make_activation(activation))
            if dropouts:
                layers.append(nn.Dropout(dropouts[index]))
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], num_outputs))
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                initialize(layer, initialization, sigma)

    def logits(self, X: Tensor) -> Tensor:
        """Return logits of shape ``(B, q)`` for features of shape ``(B, d)``."""
        return self.net(X)

    def configure_optimizers(self) -> Any:
        """Return the optimizer over all parameters, and the schedule of the learning rate."""
        lr = self.hparams["lr"]
        optimizer = self.make_optimizer(self.hparams["optimizer"], lr, self.hparams["weight_decay"])
        if self.hparams["schedule"] == "constant":
            return optimizer
        steps = self.num_training_steps()
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, cycle_momentum=False)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}
