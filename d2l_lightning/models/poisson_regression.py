"""Poisson regression: predicts the rate of counts."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (its usual name)

from d2l_lightning.errors import InputError, require_known, require_positive
from d2l_lightning.functional.poisson import (
    poisson_deviance,
    poisson_negative_log_likelihood,
    poisson_negative_log_likelihood_of_log,
)
from d2l_lightning.functional.precision import without_autocast
from d2l_lightning.models.base import OptimizerName, SupervisedModule

Link = Literal["log", "softplus"]


class PoissonRegression(SupervisedModule):
    """Predicts how many events to expect, as a rate, from counts that have a Poisson distribution.

    One affine layer, which starts at 0, is turned into a positive rate. The loss is the negative
    log-likelihood of the counts. Logs ``loss`` and ``deviance`` of each stage; the mean deviance is 0 for
    predictions that are equal to the counts.

    Args:
        num_inputs: Number of features, d.
        lr: The learning rate.
        link: What the layer's output z is: the logarithm of the rate (log), so that each feature multiplies
            the rate by a factor; or a number whose softplus, ``log(1 + exp(z))``, is the rate (softplus), so
            that large rates are linear in the features.
        optimizer: Minibatch SGD, or AdamW, whose steps do not depend on the scale of features and counts.

    Source: Section 3.1.6, exercise 8.
    """

    buffer_hparams = frozenset({"lr"})

    def __init__(
        self, num_inputs: int, lr: float = 0.01, link: Link = "log", optimizer: OptimizerName = "adamw"
    ) -> None:
        super().__init__()
        require_positive(num_inputs=num_inputs, lr=lr)
        require_known("link", link, Link)
        require_known("optimizer", optimizer, OptimizerName)
        self.save_hyperparameters()
        self.link = link
        self.net = nn.Linear(num_inputs, 1)
        for parameter in self.net.parameters():
            nn.init.zeros_(parameter)

    def forward(self, X: Tensor) -> Tensor:
        """Return rates of shape ``(B,)`` for features of shape ``(B, d)``."""
        return self._rate(self._linear(X))

    def _linear(self, X: Tensor) -> Tensor:
        if X.shape[-1] != self.net.in_features:
            raise InputError(f"X has {X.shape[-1]} features and num_inputs is {self.net.in_features}")
        with without_autocast(X):
            return self.net(X).squeeze(-1)

    def _rate(self, z: Tensor) -> Tensor:
        return z.exp() if self.link == "log" else F.softplus(z)

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        """Return the negative log-likelihood of each count, shape ``(B,)``, exercises 8.3 and 8.4."""
        return self._losses_of(self._linear(X), y)

    def example_metrics(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the negative log-likelihood and the deviance of each count: shape ``(B,)``."""
        z = self._linear(X)
        return {"loss": self._losses_of(z, y), "deviance": poisson_deviance(self._rate(z), y)}

    def _losses_of(self, z: Tensor, y: Tensor) -> Tensor:
        if self.link == "log":
            return poisson_negative_log_likelihood_of_log(z, y)
        return poisson_negative_log_likelihood(self._rate(z), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer over weights and bias."""
        return self.make_optimizer(self.hparams["optimizer"], self.hparams["lr"])

    def get_w_b(self) -> tuple[Tensor, Tensor]:
        """Return copies of the weights, shape ``(d,)``, and the bias, shape ``()``."""
        return self.net.weight.detach()[0].clone(), self.net.bias.detach()[0].clone()
