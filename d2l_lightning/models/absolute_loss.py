"""Linear regression with the absolute loss, whose gradients do not become smaller near the best weights."""

from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from d2l_lightning.models.linear_regression import LinearRegression


class LeastAbsoluteDeviations(LinearRegression):
    """Linear regression for noise with exponential tails: the absolute loss, and steps that become shorter.

    Args:
        num_inputs: Number of features, d.
        lr: The learning rate of the first step.
        falling: Whether step t has the learning rate ``lr / sqrt(t)``. With equal steps, the weights jump
            back and forth over the best ones at a distance of about ``lr``.
        sigma: Standard deviation of the initial weights.
        bias: Whether the model has a bias.

    Source: Section 3.1.6, exercise 5.
    """

    def __init__(
        self,
        num_inputs: int,
        lr: float = 0.1,
        falling: bool = True,
        sigma: float | None = 0.01,
        bias: bool = True,
    ) -> None:
        super().__init__(num_inputs, lr, "absolute", sigma, bias)
        self.save_hyperparameters()

    def configure_optimizers(self) -> Any:
        """Return minibatch SGD, and the schedule of its learning rate if there is one."""
        optimizer = torch.optim.SGD(self.parameters(), self.hparams["lr"])
        if not self.hparams["falling"]:
            return optimizer
        schedule = LambdaLR(optimizer, lambda step: (step + 1) ** -0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
