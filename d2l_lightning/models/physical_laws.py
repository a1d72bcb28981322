"""Laws of physics with one unknown constant, which is learned by automatic differentiation."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from d2l_lightning.errors import require_known, require_positive, require_same_shape
from d2l_lightning.functional.physical_laws import log_spectral_density
from d2l_lightning.functional.regression import squared_loss
from d2l_lightning.models.base import SupervisedModule

Scale = Literal["log", "plain"]


class PhysicalLaw(SupervisedModule):
    """A law with one positive constant; modules with different starts may train side by side.

    Args:
        start: The initial value of the constant, in its unit.
        lr: Adam's learning rate: about the change of the learned number in a step, at first. It falls to 0
            over the fit, along a cosine.
        scale: The number that is learned: the logarithm of the constant (log), whose steps change it by the
            same percentage in every unit; or the constant itself (plain).
    """

    buffer_hparams = frozenset({"start"})
    start: Tensor

    def __init__(self, start: float, lr: float = 0.05, scale: Scale = "log") -> None:
        super().__init__()
        require_positive(start=start, lr=lr)
        require_known("scale", scale, Scale)
        self.save_hyperparameters()
        self.scale = scale
        self.register_buffer("start", torch.tensor(float(start)), persistent=False)
        self.learned = nn.Parameter(self.start.log() if scale == "log" else self.start.clone())

    @property
    def constant(self) -> Tensor:
        """The constant, in its unit: a scalar."""
        return self.learned.exp() if self.scale == "log" else self.learned

    def configure_optimizers(self) -> Any:
        """Return Adam over the learned number, and the schedule of its learning rate."""
        # Far from the solution, gradients are larger by orders of magnitude. Adam's usual decay rates would
        # remember them for a thousand steps, which would be too short.
        optimizer = self.make_optimizer("adam", self.hparams["lr"], betas=(0.5, 0.9))
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.num_training_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


class OhmsLaw(PhysicalLaw):
    """Ohm's law, with the resistance as its constant: voltages are the resistance times the currents.

    Arguments are those of ``PhysicalLaw``. The start is in ohms if currents are in amperes and voltages in
    volts. Source: Section 3.4.6, exercise 2.
    """

    def forward(self, X: Tensor) -> Tensor:
        """Return voltages of shape ``(B,)`` for currents of shape ``(B, 1)``."""
        return self.constant * X.squeeze(-1)

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        """Return half the squared error of each voltage: shape ``(B,)``."""
        return squared_loss(self(X), y)


class PlancksLaw(PhysicalLaw):
    """Planck's law, with the temperature in kelvin as its constant, for the radiation of a black body.

    Args:
        start: The initial temperature, in kelvin.
        lr: Adam's learning rate, as in ``PhysicalLaw``.
        scale: The number that is learned, as in ``PhysicalLaw``.
        loss: Half the squared error of the logarithms of the densities (log), to which all wavelengths and
            temperatures contribute alike; or that of the densities themselves (squared).

    Source: Section 3.4.6, exercise 3.
    """

    def __init__(
        self,
        start: float,
        lr: float = 0.05,
        scale: Scale = "log",
        loss: Literal["log", "squared"] = "log",
    ) -> None:
        super().__init__(start, lr, scale)
        require_known("loss", loss, Literal["log", "squared"])
        self.save_hyperparameters()
        self.loss_name = loss

    def forward(self, X: Tensor) -> Tensor:
        """Return spectral densities, shape ``(B,)``, for wavelengths in micrometres, shape ``(B, 1)``.

        Their unit is a kilowatt per square metre, steradian and nanometre.
        """
        return self._log_density(X).exp()

    def _log_density(self, X: Tensor) -> Tensor:
        return log_spectral_density(X.squeeze(-1), self.constant)

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each density: shape ``(B,)``."""
        log_density = self._log_density(X)
        require_same_shape(y_hat=log_density, y=y)
        if self.loss_name == "log":
            return squared_loss(log_density, y.log())
        return squared_loss(log_density.exp(), y)
