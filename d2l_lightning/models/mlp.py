"""Multilayer perceptrons for images: from scratch, and with the framework's parts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from d2l_lightning.errors import InputError, require_not_negative, require_positive
from d2l_lightning.functional.activations import relu
from d2l_lightning.functional.classification import cross_entropy
from d2l_lightning.models.classifier import Classifier
from d2l_lightning.models.layers import Activation, Initialization, initialize, make_activation
from d2l_lightning.optim import SGD


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
        lr: The learning rate of minibatch SGD.

    Raises:
        InputError: If a number is out of its range or a name unknown.

    Source: Section 4.3.
    """

    def __init__(
        self,
        num_inputs: int = 784,
        num_outputs: int = 10,
        hidden_sizes: Sequence[int] = (256,),
        activation: Activation = "relu",
        initialization: Initialization = "normal",
        sigma: float = 0.01,
        lr: float = 0.1,
    ) -> None:
        super().__init__()
        require_positive(num_inputs=num_inputs, num_outputs=num_outputs, lr=lr)
        require_not_negative(sigma=sigma)
        if not hidden_sizes or min(hidden_sizes) < 1:
            raise InputError(f"hidden_sizes must name at least one positive width, not {list(hidden_sizes)}")
        self.save_hyperparameters()
        self.num_inputs = num_inputs
        layers: list[nn.Module] = []
        width = num_inputs
        for size in hidden_sizes:
            layers += [nn.Linear(width, size), make_activation(activation)]
            width = size
        self.net = nn.Sequential(*layers, nn.Linear(width, num_outputs))
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                initialize(layer, initialization, sigma)

    def logits(self, X: Tensor) -> Tensor:
        """Return logits of shape ``(B, q)`` for features of shape ``(B, d)``."""
        return self.net(X)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return minibatch SGD over all parameters."""
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])
