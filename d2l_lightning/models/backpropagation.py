"""A perceptron whose gradients are computed by hand-derived formulas, without autograd."""

from typing import Any, Literal

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from d2l_lightning.errors import InputError, require_known, require_not_negative, require_positive
from d2l_lightning.functional import activations
from d2l_lightning.functional.backpropagation import Function, Parameters, backward, forward
from d2l_lightning.functional.classification import cross_entropy
from d2l_lightning.functional.penalties import l2_penalty
from d2l_lightning.models.classifier import Classifier
from d2l_lightning.optim import SGD

Activation = Literal["relu", "sigmoid", "tanh"]
# Each with its derivative.
_ACTIVATIONS: dict[str, tuple[Function, Function]] = {
    "relu": (activations.relu, activations.relu_derivative),
    "sigmoid": (activations.sigmoid, activations.sigmoid_derivative),
    "tanh": (activations.tanh, activations.tanh_derivative),
}


class BackpropagationMLP(Classifier):
    """One hidden layer with weight decay; what autograd would do in training, it does itself.

    Optimization is manual: ``training_step`` computes the gradients and takes the step, so Lightning can
    neither clip nor accumulate them.

    Args:
        num_inputs: Number of pixels, d.
        num_outputs: Number of classes, q.
        num_hiddens: Number of hidden units, h.
        activation: The nonlinearity, one whose derivative is written out.
        lambd: The regularization constant, lambda. The penalty is part of what training minimises, not of the
            losses that evaluation tells.
        lr: The learning rate of minibatch SGD.
        sigma: Standard deviation of the normal distribution that the initial weights are drawn from.

    Raises:
        InputError: If a number is out of its range or the activation unknown; in a fit, if its precision
            needs a loss that is scaled.

    Source: Section 4.7.
    """

    def __init__(
        self,
        num_inputs: int = 784,
        num_outputs: int = 10,
        num_hiddens: int = 256,
        activation: Activation = "relu",
        lambd: float = 0.0,
        lr: float = 0.1,
        sigma: float = 0.01,
    ) -> None:
        super().__init__()
        require_positive(num_inputs=num_inputs, num_outputs=num_outputs, num_hiddens=num_hiddens, lr=lr)
        require_not_negative(sigma=sigma, lambd=lambd)
        require_known("activation", activation, Activation)
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.num_inputs, self.lambd = num_inputs, lambd
        self.phi, self.phi_derivative = _ACTIVATIONS[activation]
        self.W1 = nn.Parameter(torch.normal(0.0, sigma, (num_hiddens, num_inputs)))
        self.b1 = nn.Parameter(torch.zeros(num_hiddens))
        self.W2 = nn.Parameter(torch.normal(0.0, sigma, (num_outputs, num_hiddens)))
        self.b2 = nn.Parameter(torch.zeros(num_outputs))

    @property
    def weights(self) -> Parameters:
        """The parameters, as the formulas name them."""
        return Parameters(self.W1, self.b1, self.W2, self.b2)

    def logits(self, X: Tensor) -> Tensor:
        """Return logits of shape ``(B, q)`` for features of shape ``(B, d)``."""
        return self.phi(X @ self.W1.T + self.b1) @ self.W2.T + self.b2

    def losses_of(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy of each example: shape ``(B,)``."""
        return cross_entropy(logits, y)

    def loss(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the objective J of a batch: a scalar (eq. 4.7.6)."""
        return super().loss(X, y, weight) + self.lambd * (l2_penalty(self.W1) + l2_penalty(self.W2))

    @torch.no_grad()
    def gradients(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Parameters]:
        """Return the objective J of a batch and its gradients, by eqs. 4.7.1 to 4.7.14."""
        X = self.pixels(X)
        variables = forward(X, y, self.weights, self.phi, self.lambd, weight)
        gradients = backward(X, y, self.weights, variables, self.phi_derivative, self.lambd, weight)
        return variables.J, gradients

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the gradients, take a step against them, and return the objective before it."""
        J, gradients = self.gradients(*batch)
        for parameter, gradient in zip(self.weights, gradients, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        optimizer.step()
        self.note_loss(J, batch)
        return J

    def on_fit_start(self) -> None:
        """Refuse a precision in which gradients vanish unless the loss is scaled, which needs autograd."""
        if self.trainer.precision == "16-mixed":
            raise InputError("--precision 16-mixed scales the loss for autograd, which is not used here")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return minibatch SGD over all parameters."""
        return SGD(self.parameters(), self.hparams["lr"])
