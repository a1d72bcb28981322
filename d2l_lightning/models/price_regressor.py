"""Prices from features: a linear model, or a multilayer perceptron."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from d2l_lightning.errors import InputError, require_known, require_not_negative, require_positive
from d2l_lightning.functional.regression import squared_log_error, squared_loss
from d2l_lightning.models.layers import Activation, make_activation
from d2l_lightning.module import SupervisedModule

# Where predictions of the logarithm start, in dollars.
TYPICAL_PRICE = 100_000.0


class PriceRegressor(SupervisedModule):
    """Predicts positive prices with squared loss, on the price itself or on its logarithm.

    Logs ``log_rmse`` (eq. 4.10.2) of each stage.

    Args:
        num_features: Width of the input, d.
        hidden_sizes: Width of each hidden layer; none makes the model linear.
        activation: The nonlinearity after each hidden layer.
        dropout: Probability, in [0, 1), that a hidden unit is dropped in training.
        log_price: Whether the loss is taken on the logarithm of the price.
        lr: Adam's learning rate.
        weight_decay: Adam's L2 penalty.

    Raises:
        InputError: If an argument is out of its range.

    Source: Section 4.10.5.
    """

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
        width = num_features
        for size in hidden_sizes:
            layers += [nn.Linear(width, size), make_activation(activation), nn.Dropout(dropout)]
            width = size
        output = nn.Linear(width, 1)
        self.net = nn.Sequential(*layers, output)
        if log_price:  # without this, most of training goes into finding out that houses cost more than $1
            nn.init.constant_(output.bias, math.log(TYPICAL_PRICE))
        self.log_price = log_price

    def forward(self, X: Tensor) -> Tensor:
        """Return prices of shape ``(B,)`` for features of shape ``(B, d)``."""
        output = self.net(X).squeeze(-1)
        return output.exp() if self.log_price else output

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        """Return the squared loss of each price or, with ``log_price``, of its logarithm: shape ``(B,)``."""
        return squared_loss(self.net(X).squeeze(-1), y.log() if self.log_price else y)

    def example_metrics(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the squared error of each price's logarithm: shape ``(B,)``."""
        return {"squared_log_error": squared_log_error(self(X), y)}

    def epoch_metrics(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the root of the mean squared error of the logarithms."""
        return {"log_rmse": means["squared_log_error"].sqrt()}

    def predict_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> Tensor:
        """Return the prices of a batch of features."""
        return self(batch[0] if isinstance(batch, Sequence) else batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over all parameters."""
        return torch.optim.Adam(
            self.parameters(),
            lr=self.hparams["lr"],
            weight_decay=self.hparams["weight_decay"],
            fused=not self.clips_gradients,
        )
