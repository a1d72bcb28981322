"""Linear regression whose weights are held small: l2 and l1, from scratch and by the optimizer."""

from typing import Any, Literal

import torch
from torch import Tensor

from d2l_lightning.errors import require_known, require_not_negative
from d2l_lightning.functional.penalties import l1_penalty, l2_penalty
from d2l_lightning.models.linear_regression import LinearRegression, LinearRegressionScratch, Loss
from d2l_lightning.optim import ProximalSGD

Penalty = Literal["l2", "l1"]
_PENALTIES = {"l2": l2_penalty, "l1": l1_penalty}


class WeightDecayScratch(LinearRegressionScratch):
    """Linear regression from scratch with a penalty on its weights added to the loss.

    The penalty is part of what training minimises, not of the losses that evaluation tells. The bias is free.

    Args:
        num_inputs: Number of features, d.
        lambd: The regularization constant, lambda. Members of a ``StackedModule`` may differ in it.
        lr: The learning rate of minibatch SGD.
        sigma: Standard deviation of the initial weights.
        penalty: ``l2``, half the squared norm (eq. 3.7.2), or ``l1``, the sum of absolute values (exercise
            3), by whose subgradient weights come near 0 but not to it.

    Raises:
        InputError: If a number is out of its range or the penalty unknown.

    Source: Section 3.7.3.
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


class WeightDecay(LinearRegression):
    """Linear regression whose optimizer decays the weights and not the bias.

    Args:
        num_inputs: Number of features, d.
        wd: The regularization constant, lambda.
        lr: The learning rate of minibatch SGD.
        loss: See ``LinearRegression``.
        sigma: See ``LinearRegression``.

    Raises:
        InputError: If a number is out of its range or the loss unknown.

    Source: Section 3.7.4.
    """

    def __init__(
        self,
        num_inputs: int,
        wd: float,
        lr: float = 0.01,
        loss: Loss = "squared",
        sigma: float | None = 0.01,
    ) -> None:
        super().__init__(num_inputs, lr, loss, sigma)
        require_not_negative(wd=wd)
        self.save_hyperparameters()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return minibatch SGD with a group that decays, the weights, and one that does not, the bias."""
        groups: list[dict[str, Any]] = [
            {"params": [self.net.weight], "weight_decay": self.hparams["wd"]},
            {"params": [self.net.bias]},
        ]
        return torch.optim.SGD(groups, lr=self.hparams["lr"])


class Lasso(LinearRegressionScratch):
    """Linear regression with an l1 penalty by the proximal step, which sets weights to exactly 0.

    Args:
        num_inputs: Number of features, d.
        lambd: The regularization constant, lambda. Members of a ``StackedModule`` may differ in it.
        lr: The learning rate of minibatch SGD.
        sigma: Standard deviation of the initial weights.

    Raises:
        InputError: If a number is out of its range.

    Source: Section 3.7.6, exercise 3.
    """

    buffer_hparams = frozenset({"lambd"})
    lambd: Tensor

    def __init__(self, num_inputs: int, lambd: float, lr: float = 0.01, sigma: float = 0.01) -> None:
        super().__init__(num_inputs, lr, sigma)
        require_not_negative(lambd=lambd)
        self.save_hyperparameters()
        self.register_buffer("lambd", torch.tensor(float(lambd)), persistent=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return proximal SGD with the penalty on the weights, not on the bias."""
        # The added dimension is the weights': a stacked lambda, (K,), has to meet weights of shape (K, d).
        return ProximalSGD(
            [{"params": [self.w], "l1": self.lambd[..., None]}, {"params": [self.b]}], self.hparams["lr"]
        )
