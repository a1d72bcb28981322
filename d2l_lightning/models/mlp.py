"""Multilayer perceptrons for images, from scratch and concisely."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from d2l_lightning.errors import require_known, require_not_negative, require_positive
from d2l_lightning.functional.activations import relu
from d2l_lightning.functional.dropout import require_probability
from d2l_lightning.models.classifier import Classifier, ScratchClassifier
from d2l_lightning.models.layers import (
    Activation,
    Initialization,
    initialize,
    make_activation,
    require_activation,
    require_hidden_layers,
)
from d2l_lightning.models.lazy import make_net
from d2l_lightning.models.noise import DropConnect, Noise, make_noise
from d2l_lightning.optim.lars import LARS, layer_groups

Schedule = Literal["constant", "one_cycle"]
MLPOptimizer = Literal["sgd", "adamw", "lars"]


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
        num_inputs: Number of pixels, d; None takes it from the first batch, as a lazy layer.
        num_outputs: Number of classes, q.
        hidden_sizes: Width of each hidden layer, at least one.
        activation: The nonlinearity after each hidden layer; ``add_activation`` adds one of your own.
        initialization: The initial weights: those of PyTorch's layers (default), normal with standard
            deviation ``sigma`` (normal), Xavier's (xavier_uniform, xavier_normal; Section 4.8.2), or normal
            with variance 2 / inputs (kaiming).
        sigma: Standard deviation of ``normal`` initial weights.
        dropouts: The probability, from 0 to 1, that a unit is dropped in training, for each hidden layer; an
            empty list means no dropout.
        batch_norm: Whether each hidden layer standardises its units over the batch before the activation
            (Ioffe and Szegedy, 2015).
        label_smoothing: The share of each training label, from 0 to 1, that is spread evenly over all classes
            (Szegedy et al., 2016). Evaluation does not smooth labels.
        optimizer: Minibatch SGD, AdamW, or SGD with layer-wise rates (``optim.lars.LARS``).
        lr: The learning rate.
        schedule: The learning rate over a fit: ``constant``, or up to ``lr`` and then down to nearly 0, step
            by step (``one_cycle``).
        weight_decay: The optimizer's weight decay: an L2 penalty in SGD and LARS, decoupled from the loss in
            AdamW.
        noise: What is random in training: units are dropped (dropout), the weights of the next layer are
            dropped (dropconnect), or units are multiplied by normal or uniform noise with the mean and
            the variance of dropout (gaussian, uniform). The probabilities are those of ``dropouts``.

    Raises:
        InputError: If there are not as many dropouts as hidden layers; in a fit, if ``one_cycle`` has no end.
    """

    buffer_hparams = frozenset({"lr", "weight_decay"})

    def __init__(
        self,
        num_inputs: int | None = 784,
        num_outputs: int = 10,
        hidden_sizes: Sequence[int] = (256,),
        activation: Activation = "relu",
        initialization: Initialization = "normal",
        sigma: float = 0.01,
        dropouts: Sequence[float] = (),
        batch_norm: bool = False,
        label_smoothing: float = 0.0,
        optimizer: MLPOptimizer = "sgd",
        lr: float = 0.1,
        schedule: Schedule = "constant",
        weight_decay: float = 0.0,
        noise: Noise = "dropout",
    ) -> None:
        super().__init__()
        require_positive(num_inputs=1 if num_inputs is None else num_inputs, num_outputs=num_outputs, lr=lr)
        require_not_negative(sigma=sigma, weight_decay=weight_decay)
        require_hidden_layers(hidden_sizes, dropouts or [0.0] * len(hidden_sizes))
        require_probability(label_smoothing=label_smoothing)
        require_activation(activation)
        require_known("noise", noise, Noise)
        require_known("optimizer", optimizer, MLPOptimizer)
        require_known("schedule", schedule, Schedule)
        self.save_hyperparameters()
        self.num_inputs, self.label_smoothing = num_inputs, label_smoothing
        settings = (num_outputs, tuple(hidden_sizes), activation, tuple(dropouts), noise, batch_norm)
        make = partial(_perceptron, *settings, initialization, sigma)
        self.net = cast(nn.Sequential, make_net(self, make, num_inputs))

    def logits(self, X: Tensor) -> Tensor:
        """Return logits of shape ``(B, q)`` for features of shape ``(B, d)``."""
        return self.net(X)

    def configure_optimizers(self) -> Any:
        """Return the optimizer over all parameters, and the schedule of the learning rate."""
        lr, weight_decay = self.hparams["lr"], self.hparams["weight_decay"]
        optimizer: torch.optim.Optimizer
        if self.hparams["optimizer"] == "lars":
            optimizer = LARS(layer_groups(self), lr, weight_decay=weight_decay)
        else:
            optimizer = self.make_optimizer(self.hparams["optimizer"], lr, weight_decay)
        if self.hparams["schedule"] == "constant":
            return optimizer
        steps = self.num_training_steps()
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, cycle_momentum=False)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


def _perceptron(
    num_outputs: int,
    hidden_sizes: Sequence[int],
    activation: Activation,
    dropouts: Sequence[float],
    noise: Noise,
    batch_norm: bool,
    initialization: Initialization,
    sigma: float,
    num_inputs: int,
) -> nn.Sequential:
    """Return the layers with their initial weights."""
    layers: list[nn.Module] = []
    widths = [num_inputs, *hidden_sizes]
    # Pixels are not dropped, and neither are their weights.
    drops_weights = bool(dropouts) and noise == "dropconnect"
    of_weights = [0.0, *dropouts] if drops_weights else [0.0] * len(widths)
    for index, (width, size) in enumerate(pairwise(widths)):
        layers += [_linear(width, size, of_weights[index]), *[nn.BatchNorm1d(size)] * batch_norm]
        layers.append(make_activation(activation))
        if dropouts and noise != "dropconnect":
            layers.append(make_noise(noise, dropouts[index]))
    net = nn.Sequential(*layers, _linear(widths[-1], num_outputs, of_weights[-1]))
    for layer in net:
        if isinstance(layer, nn.Linear):
            initialize(layer, initialization, sigma)
    return net


def _linear(num_inputs: int, num_outputs: int, p: float) -> nn.Linear:
    return DropConnect(num_inputs, num_outputs, p) if p else nn.Linear(num_inputs, num_outputs)
