"""Logistic regression: the special case of softmax regression for two classes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (its usual name)

from d2l_lightning.errors import InputError, require_not_negative, require_positive, require_same_shape
from d2l_lightning.functional.precision import without_autocast
from d2l_lightning.models.base import SupervisedModule


class LogisticRegression(SupervisedModule):
    """Classifies examples as 0 or 1 by one affine layer, with weights that start at 0 (eq. 4.9.7).

    Logs ``loss`` and ``accuracy`` of each stage.

    Args:
        num_inputs: Number of features, d.
        lr: Adam's learning rate.
        weight_decay: Adam's L2 penalty on the weights; the bias has none.
    """

    buffer_hparams = frozenset({"lr", "weight_decay"})

    def __init__(self, num_inputs: int, lr: float = 0.01, weight_decay: float = 0.0) -> None:
        super().__init__()
        require_positive(num_inputs=num_inputs, lr=lr)
        require_not_negative(weight_decay=weight_decay)
        self.save_hyperparameters()
        self.net = nn.Linear(num_inputs, 1)
        for parameter in self.net.parameters():
            nn.init.zeros_(parameter)

    def forward(self, X: Tensor) -> Tensor:
        """Return h, the log-odds of class 1, shape ``(B,)``, for features of shape ``(B, d)``."""
        if X.shape[-1] != self.net.in_features:
            raise InputError(f"X has {X.shape[-1]} features and num_inputs is {self.net.in_features}")
        with without_autocast(X):
            return self.net(X).squeeze(-1)

    def example_metrics(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the cross-entropy of each example and whether its prediction is right: shape ``(B,)``."""
        h = self(X)
        return {"loss": self.losses_of(h, y), "accuracy": ((h > 0) == (y > 0)).to(h.dtype)}

    def losses_of(self, h: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy of each example: shape ``(B,)``."""
        require_same_shape(h=h, y=y)
        return F.binary_cross_entropy_with_logits(h, y.to(h.dtype), reduction="none")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over weights and bias."""
        groups = [
            {"params": [self.net.weight], "weight_decay": self.hparams["weight_decay"]},
            {"params": [self.net.bias]},
        ]
        return torch.optim.Adam(groups, lr=self.hparams["lr"], fused=not self.clips_gradients)
