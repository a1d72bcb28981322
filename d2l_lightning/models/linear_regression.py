"""Linear regression, from scratch and with the framework's parts."""

from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.parameter import is_lazy
from torch.nn.utils import skip_init

from d2l_lightning.errors import (
    InputError,
    require_known,
    require_not_negative,
    require_positive,
    require_same_shape,
)
from d2l_lightning.functional.linear import linear
from d2l_lightning.functional.precision import without_autocast
from d2l_lightning.functional.regression import squared_loss
from d2l_lightning.models.base import OptimizerName, SupervisedModule
from d2l_lightning.models.lazy import make_net, require_num_inputs
from d2l_lightning.optim.sgd import SGD

Loss = Literal["squared", "half_squared", "absolute", "huber"]


class LinearRegressionScratch(SupervisedModule):
    """Linear regression with squared loss, from tensors and automatic differentiation (Section 3.4).

    Args:
        num_inputs: Number of features, d.
        lr: The learning rate of minibatch SGD.
        sigma: Standard deviation of the initial weights, which are normal. The initial bias is 0.
    """

    def __init__(self, num_inputs: int, lr: float = 0.03, sigma: float = 0.01) -> None:
        super().__init__()
        require_positive(num_inputs=num_inputs, lr=lr)
        require_not_negative(sigma=sigma)
        self.save_hyperparameters()
        self.w = nn.Parameter(torch.normal(0.0, sigma, (num_inputs,)))
        self.b = nn.Parameter(torch.zeros(()))

    def forward(self, X: Tensor) -> Tensor:
        """Return predictions of shape ``(B,)`` for features of shape ``(B, d)``."""
        with without_autocast(X):
            return linear(X, self.w, self.b)

    def losses_of(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """Return half the squared error of each example: shape ``(B,)``."""
        return squared_loss(y_hat, y)

    def example_metrics(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the loss, and half the squared error, which all linear models log: shape ``(B,)``."""
        return _metrics(self, self(X), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return minibatch SGD over weights and bias."""
        return SGD([self.w, self.b], self.hparams["lr"])

    def get_w_b(self) -> tuple[Tensor, Tensor]:
        """Return copies of the weights, shape ``(d,)``, and the bias, shape ``()``."""
        return self.w.detach().clone(), self.b.detach().clone()


class LinearRegression(SupervisedModule):
    """Linear regression with the framework's layer, losses and optimizer (Section 3.5).

    Args:
        num_inputs: Number of features, d; None takes it from the first batch, as a lazy layer.
        lr: The learning rate.
        loss: The squared error (squared), half of it (half_squared, eq. 3.1.5), the absolute error
            (absolute), or the Huber loss (huber, eq. 3.5.1): squared up to the threshold, absolute beyond.
        sigma: Standard deviation of the initial weights, which are normal, with an initial bias of 0. With
            null, those of PyTorch's linear layer: uniform between plus and minus 1 / sqrt(d), for d features.
        bias: Whether the model has a bias.
        huber_threshold: The threshold of the Huber loss, sigma in eq. 3.5.1, in the unit of the targets.
        optimizer: Minibatch SGD, or AdamW, whose steps do not depend on the scale of the features.
    """

    buffer_hparams = frozenset({"lr"})

    def __init__(
        self,
        num_inputs: int | None = None,
        lr: float = 0.03,
        loss: Loss = "squared",
        sigma: float | None = 0.01,
        bias: bool = True,
        huber_threshold: float = 1.0,
        optimizer: OptimizerName = "sgd",
    ) -> None:
        super().__init__()
        require_positive(
            num_inputs=1 if num_inputs is None else num_inputs, lr=lr, huber_threshold=huber_threshold
        )
        require_not_negative(sigma=sigma or 0.0)
        require_known("loss", loss, Loss)
        require_known("optimizer", optimizer, OptimizerName)
        self.save_hyperparameters()
        self.loss_name = loss
        self.net = cast(nn.Linear, make_net(self, partial(_layer, sigma, bias), num_inputs))

    def forward(self, X: Tensor) -> Tensor:
        """Return predictions of shape ``(B,)`` for features of shape ``(B, d)``."""
        if X.shape[-1] != self.net.in_features:
            require_num_inputs(self, self.net, X.shape[-1])
        with without_autocast(X):
            return self.net(X).squeeze(-1)

    def example_metrics(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the loss, and half the squared error, which all linear models log: shape ``(B,)``."""
        return _metrics(self, self(X), y)

    def losses_of(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each example: shape ``(B,)``."""
        require_same_shape(y_hat=y_hat, y=y)
        match self.loss_name:
            case "absolute":
                return F.l1_loss(y_hat, y, reduction="none")
            case "huber":  # eq. 3.5.1 is smooth_l1_loss; huber_loss is the same times the threshold
                return F.smooth_l1_loss(y_hat, y, reduction="none", beta=self.hparams["huber_threshold"])
        squared = F.mse_loss(y_hat, y, reduction="none")
        return squared / 2 if self.loss_name == "half_squared" else squared

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer over all parameters."""
        return self.make_optimizer(self.hparams["optimizer"], self.hparams["lr"])

    def get_w_b(self) -> tuple[Tensor, Tensor]:
        """Return copies of the weights, shape ``(d,)``, and the bias, shape ``()``; 0 without a bias."""
        if is_lazy(self.net.weight):
            raise InputError("the model has no weights before its first batch; make it with num_inputs")
        w = self.net.weight.detach()[0].clone()
        return w, w.new_zeros(()) if self.net.bias is None else self.net.bias.detach()[0].clone()


class SummedLinearRegression(LinearRegression):
    """Linear regression whose training loss is the sum, not the mean, over a batch.

    With a learning rate divided by the batch size, its steps are those of ``LinearRegression``, but for a
    smaller last batch, whose step is shorter. Source: Section 3.5.6, exercise 1.
    """

    def loss(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the sum of the losses of a batch, each multiplied by its weight if given: a scalar."""
        losses = self.example_losses(X, y)
        return losses.sum() if weight is None else (weight * losses).sum()


def _layer(sigma: float | None, bias: bool, num_inputs: int) -> nn.Linear:
    """Return the layer with its initial weights."""
    if sigma is None:
        return nn.Linear(num_inputs, 1, bias)
    # Without the layer's own draw, a seed gives the same weights as in the model from scratch.
    layer = skip_init(nn.Linear, num_inputs, 1, bias)
    nn.init.normal_(layer.weight, std=sigma)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def _metrics(model: SupervisedModule, y_hat: Tensor, y: Tensor) -> dict[str, Tensor]:
    return {"loss": model.losses_of(y_hat, y), "squared_loss": squared_loss(y_hat, y)}
