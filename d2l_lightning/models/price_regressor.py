"""A model of prices: linear, or a multilayer perceptron."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from d2l_lightning.errors import InputError, require_known, require_not_negative, require_positive
from d2l_lightning.functional.regression import squared_log_error, squared_loss
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.layers import Activation, make_activation

# The initial prediction of models of the logarithm, in dollars.
TYPICAL_PRICE = 100_000.0


class PriceRegressor(SupervisedModule):
    """A regression of positive prices, with squared loss on the price or its logarithm (Section 4.10.5).

    Each stage logs ``log_rmse`` (eq. 4.10.2).

    Args:
        num_features: Number of features, d.
        hidden_sizes: Width of each hidden layer. Without any, the model is linear.
        activation: The activation of the hidden layers.
        dropout: Probability, in [0, 1), of dropping a hidden unit in training.
        log_price: Whether the loss is on the logarithm of the price.
        lr: Adam's learning rate.
        weight_decay: Adam's L2 penalty.
    """

    buffer_hparams = frozenset({"lr", "weight_decay"})

    def __init__(
        self,
        num_features: int,
        hidden_sizes: Sequence[int] = (),
        activation: Activation = "relu",
        dropout: float = 0.0,
        log_price: bool = False,
        lr: float = 5.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        if any(size < 1 for size in hidden_sizes):
            raise InputError(f"hidden_sizes must be positive, not {list(hidden_sizes)}")
        require_known("activation", activation, Activation)
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be in [0, 1), not {dropout}")
        require_positive(lr=lr)
        require_not_negative(weight_decay=weight_decay)
        self.save_hyperparameters()
        layers: list[nn.Module] = []
        widths = [num_features, *hidden_sizes]
        for shape in pairwise(widths):
            layers += [nn.Linear(*shape), make_activation(activation), nn.Dropout(dropout)]
        output = nn.Linear(widths[-1], 1)
        self.net = nn.Sequential(*layers, output)
        if log_price:  # otherwise, most of the training is spent on moving the output from $1
            nn.init.constant_(output.bias, math.log(TYPICAL_PRICE))
        self.log_price = log_price

    def forward(self, X: Tensor) -> Tensor:
        """Return prices of shape ``(B,)`` for features of shape ``(B, d)``."""
        output = self.net(X).squeeze(-1)
        return output.exp() if self.log_price else output

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        """Return the squared loss of each price, or of its logarithm with ``log_price``: shape ``(B,)``."""
        return squared_loss(self.net(X).squeeze(-1), y.log() if self.log_price else y)

    def example_metrics(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the squared error of the logarithm of each price: shape ``(B,)``."""
        return {"squared_log_error": squared_log_error(self(X), y)}

    def epoch_metrics(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the root of the mean squared error of the logarithms."""
        return {"log_rmse": means["squared_log_error"].sqrt()}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over all parameters."""
        return self.make_optimizer("adam", self.hparams["lr"], self.hparams["weight_decay"])
