"""Linear regression with small weights: l2 and l1 penalties, from scratch and by the optimizer."""

from typing import Any, Literal

import torch
from torch import Tensor

from d2l_lightning.errors import require_known, require_not_negative
from d2l_lightning.functional.penalties import l1_penalty, l2_penalty
from d2l_lightning.models.checks import require_stable_decay
from d2l_lightning.models.linear_regression import LinearRegression, LinearRegressionScratch, Loss
from d2l_lightning.optim.sgd import ProximalSGD

Penalty = Literal["l2", "l1"]
_PENALTIES = {"l2": l2_penalty, "l1": l1_penalty}


class WeightDecayScratch(LinearRegressionScratch):
    """Linear regression from scratch whose loss includes a penalty on the weights, but not on the bias.

    Training minimises the loss with the penalty, which evaluation leaves out (Section 3.7.3).

    Args:
        num_inputs: Number of features, d.
        lambd: The regularization constant, lambda.
        lr: The learning rate of minibatch SGD.
        sigma: Standard deviation of the initial weights.
        penalty: ``l2``, half the squared norm (eq. 3.7.2), or ``l1``, the sum of absolute values (exercise
            3). The subgradient of ``l1`` moves weights near 0, but not to exactly 0.
    """

    buffer_hparams = frozenset({"lambd"})
    lambd: Tensor

    def __init__(
        self, num_inputs: int, lambd: float, lr: float = 0.01, sigma: float = 0.01, penalty: Penalty = "l2"
    ) -> None:
        super().__init__(num_inputs, lr, sigma)
        require_not_negative(lambd=lambd)
        require_known("penalty", penalty, Penalty)
        self.save_hyperparameters()
        self.register_buffer("lambd", torch.tensor(float(lambd)), persistent=False)
        self.penalty = _PENALTIES[penalty]

    def loss(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the mean loss of a batch plus lambda times the penalty: a scalar."""
        return super().loss(X, y, weight) + self.lambd * self.penalty(self.w)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return minibatch SGD over weights and bias; raise a DivergenceError if no fit could converge."""
        if self.hparams["penalty"] == "l2":
            require_stable_decay(lr=self.hparams["lr"], lambd=self.lambd.max().item())
        return super().configure_optimizers()


class WeightDecay(LinearRegression):
    """Linear regression whose optimizer decays the weights, but not the bias (Section 3.7.4).

    The regularization constant, lambda, is ``wd``; the other arguments are those of ``LinearRegression``.
    """

    buffer_hparams = frozenset({"lr", "wd"})

    def __init__(
        self,
        num_inputs: int | None = None,
        wd: float = 0.0,
        lr: float = 0.01,
        loss: Loss = "squared",
        sigma: float | None = 0.01,
    ) -> None:
        super().__init__(num_inputs, lr, loss, sigma)
        require_not_negative(wd=wd)
        self.save_hyperparameters()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return minibatch SGD with one group that decays, the weights, and one that does not, the bias.

        Raises:
            DivergenceError: If no fit could converge.
        """
        require_stable_decay(lr=self.hparams["lr"], wd=self.hparams["wd"])
        groups: list[dict[str, Any]] = [
            {"params": [self.net.weight], "weight_decay": self.hparams["wd"]},
            {"params": [self.net.bias]},
        ]
        return torch.optim.SGD(groups, lr=self.hparams["lr"])


class Lasso(LinearRegressionScratch):
    """Linear regression with an l1 penalty, by proximal steps, which set weights to exactly 0 (3.7, ex. 3).

    Arguments are those of ``WeightDecayScratch``.
    """

    buffer_hparams = frozenset({"lambd"})
    lambd: Tensor

    def __init__(self, num_inputs: int, lambd: float, lr: float = 0.01, sigma: float = 0.01) -> None:
        super().__init__(num_inputs, lr, sigma)
        require_not_negative(lambd=lambd)
        self.save_hyperparameters()
        self.register_buffer("lambd", torch.tensor(float(lambd)), persistent=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return proximal SGD with the penalty on the weights, but not on the bias."""
        # The added dimension makes a stacked lambda, (K,), broadcast to weights of shape (K, d).
        groups = [{"params": [self.w], "l1": self.lambd[..., None]}, {"params": [self.b]}]
        return ProximalSGD(groups, self.hparams["lr"])
