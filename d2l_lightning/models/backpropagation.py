"""A perceptron whose gradients are computed by formulas, and their comparison with autograd."""

import copy
from typing import Any, Literal, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (its usual name)

from d2l_lightning.errors import require_known, require_not_negative, require_positive
from d2l_lightning.functional import activations
from d2l_lightning.functional.backpropagation import (
    Function,
    Parameters,
    backward,
    forward,
    input_gradient,
)
from d2l_lightning.functional.penalties import l2_penalty
from d2l_lightning.models.classifier import ScratchClassifier

Activation = Literal["relu", "sigmoid", "tanh"]


class BackpropagationMLP(ScratchClassifier):
    """A perceptron with one hidden layer and weight decay, trained without autograd (Section 4.7).

    ``training_step`` takes the steps itself, so Lightning can neither clip nor accumulate gradients.

    Args:
        num_inputs: Number of pixels, d.
        num_outputs: Number of classes, q.
        num_hiddens: Number of hidden units, h.
        activation: The nonlinearity.
        lambd: The regularization constant, lambda. The penalty is part of the training loss, not of the loss
            in evaluation.
        lr: The learning rate of minibatch SGD.
        sigma: Standard deviation of the initial weights, which are normally distributed.
    """

    steps_follow_loss = True

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
        self.phi: Function = getattr(activations, activation)
        self.phi_derivative: Function = getattr(activations, f"{activation}_derivative")
        self.framework_phi: Function = getattr(torch, activation)
        self.W1 = nn.Parameter(torch.normal(0.0, sigma, (num_hiddens, num_inputs)))
        self.b1 = nn.Parameter(torch.zeros(num_hiddens))
        self.W2 = nn.Parameter(torch.normal(0.0, sigma, (num_outputs, num_hiddens)))
        self.b2 = nn.Parameter(torch.zeros(num_outputs))

    @property
    def weights(self) -> Parameters:
        """The parameters, named as in the formulas."""
        return Parameters(self.W1, self.b1, self.W2, self.b2)

    def logits(self, X: Tensor) -> Tensor:
        """Return logits of shape ``(B, q)`` for features of shape ``(B, d)``."""
        return self.phi(X @ self.W1.T + self.b1) @ self.W2.T + self.b2

    def loss(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the objective J of a batch: a scalar (eq. 4.7.6)."""
        return super().loss(X, y, weight) + self.lambd * (l2_penalty(self.W1) + l2_penalty(self.W2))

    @torch.no_grad()
    def gradients(
        self, X: Tensor, y: Tensor, weight: Tensor | None = None, scale: Tensor | float = 1.0
    ) -> tuple[Tensor, Parameters]:
        """Return the objective J of a batch and the gradients of J times a scale, by eqs. 4.7.1 to 4.7.14."""
        X = self.pixels(X)
        variables = forward(X, y, self.weights, self.phi, self.lambd, weight)
        gradients = backward(X, y, self.weights, variables, self.phi_derivative, self.lambd, weight, scale)
        return variables.J, gradients

    def autograd_variables(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the variables of forward propagation by name, with autograd's graph, which begins at X too.

        The framework's functions compute them, so that the gradients do not depend on this model's formulas.
        """
        leaves = {name: w.detach().clone().requires_grad_() for name, w in self.weights._asdict().items()}
        X = X.flatten(1).to(self.W1, copy=True).requires_grad_()
        z = F.linear(X, leaves["W1"], leaves["b1"])
        h = self.framework_phi(z)
        o = F.linear(h, leaves["W2"], leaves["b2"])
        L = F.cross_entropy(o, y)
        s = self.lambd / 2 * (leaves["W1"].square().sum() + leaves["W2"].square().sum())
        return {"X": X, **leaves, "z": z, "h": h, "o": o, "L": L, "s": s, "J": L + s}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the gradients, take a step against them, and return the objective before it."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else scaler.scale(torch.ones((), device=self.device))
        X, y, *weight = batch
        J, gradients = self.gradients(X, y, weight[0] if weight else None, scale)
        for parameter, gradient in zip(self.weights, gradients, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        cast(LightningOptimizer, self.optimizers()).step()
        self.accumulate_loss(J, batch)
        return J


def gradient_errors(model: BackpropagationMLP, X: Tensor, y: Tensor) -> dict[str, float]:
    """Return the largest error of the gradient against autograd's, in double precision.

    There is one for each parameter and for the features, ``X``.
    """
    model, X = copy.deepcopy(model).double(), X.double()
    ours: dict[str, Tensor] = model.gradients(X, y)[1]._asdict()
    with torch.no_grad():
        weights = model.weights
        of_forward = forward(model.pixels(X), y, weights, model.phi, model.lambd)
        ours["X"] = input_gradient(y, weights, of_forward, model.phi_derivative)
    variables = model.autograd_variables(X, y)
    theirs = torch.autograd.grad(variables["J"], [variables[name] for name in ours])
    return {n: (ours[n] - expected).abs().max().item() for n, expected in zip(ours, theirs, strict=True)}
