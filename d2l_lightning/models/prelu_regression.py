"""A regression by a perceptron whose pReLU has a fixed slope."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from d2l_lightning.errors import InputError, require_finite, require_positive
from d2l_lightning.functional.piecewise_linear import perceptron
from d2l_lightning.functional.regression import squared_loss
from d2l_lightning.models.base import SupervisedModule


class PReLURegression(SupervisedModule):
    """A perceptron that predicts a number, with squared loss; members may differ in the slope of their pReLU.

    Args:
        num_inputs: Number of features, d.
        hidden_sizes: Width of each hidden layer, at least one.
        alpha: Slope of pReLU for negative arguments: 0 is ReLU, and 1 is no nonlinearity.
        lr: The learning rate of AdamW, without weight decay.

    Source: Section 4.1, eqs. 4.1.3 and 4.1.5.
    """

    buffer_hparams = frozenset({"alpha", "lr"})
    alpha: Tensor

    def __init__(
        self, num_inputs: int = 1, hidden_sizes: Sequence[int] = (8, 8), alpha: float = 0.0, lr: float = 0.01
    ) -> None:
        super().__init__()
        require_positive(num_inputs=num_inputs, lr=lr)
        require_finite(alpha=torch.tensor(alpha))
        if not hidden_sizes or min(hidden_sizes) < 1:
            raise InputError(f"hidden_sizes must name at least one positive width, not {list(hidden_sizes)}")
        self.save_hyperparameters()
        layers = [nn.Linear(*shape) for shape in pairwise([num_inputs, *hidden_sizes, 1])]
        self.W = nn.ParameterList(layer.weight.detach().T.contiguous() for layer in layers)
        self.b = nn.ParameterList(layer.bias.detach() for layer in layers)
        self.register_buffer("alpha", torch.tensor(float(alpha)), persistent=False)

    def forward(self, X: Tensor) -> Tensor:
        """Return predictions of shape ``(B,)`` for features of shape ``(B, d)``."""
        return perceptron(X, list(self.W), list(self.b), self.alpha)[:, 0]

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        """Return half the squared error of each example: shape ``(B,)``."""
        return squared_loss(self(X), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW over all parameters."""
        return self.make_optimizer("adamw", self.hparams["lr"])

    def layers(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return copies of the weights and biases of all layers, in double precision."""
        return [W.detach().double() for W in self.W], [b.detach().double() for b in self.b]
