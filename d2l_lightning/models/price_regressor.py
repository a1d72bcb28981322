"""A model of prices: linear, or a multilayer perceptron."""

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from d2l_lightning.models.table_regressor import TableRegressor

# The initial prediction of models of the logarithm, in dollars.
TYPICAL_PRICE = 100_000.0


class PriceRegressor(TableRegressor):
    """A regression of positive prices, with squared loss on the price or its logarithm (Section 4.10.5).

    Each stage logs ``log_rmse`` (eq. 4.10.2). The other arguments are those of ``TableRegressor``.

    Args:
        num_features: Number of features, d.
        hidden_sizes: Width of each hidden layer. Without any, the model is linear.
        log_price: Whether the loss is on the logarithm of the price.
        lr: The learning rate.
    """

    def __init__(
        self,
        num_features: int,
        hidden_sizes: Sequence[int] = (),
        *,
        log_price: bool = False,
        lr: float = 5.0,
        **settings: Any,
    ) -> None:
        super().__init__(
            num_features, hidden_sizes, log_target=log_price, metric="log_rmse", lr=lr, **settings
        )
        for name in ("log_target", "metric"):  # they are no arguments of this class
            del self.hparams[name]
        self.save_hyperparameters()
        if log_price and not self.standardize:  # most of the training would move the output from $1
            nn.init.constant_(self.net[-1].get_parameter("bias"), math.log(TYPICAL_PRICE))
