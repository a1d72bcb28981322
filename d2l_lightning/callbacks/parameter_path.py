"""A callback that records the values of a parameter during a fit."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from d2l_lightning.callbacks.step_hooks import NoStepHooks


class ParameterPath(NoStepHooks, Callback):  # type: ignore[misc]
    """Records a parameter before the first step and after each step.

    Args:
        parameter: The parameter; of a ``StackedModule``, a parameter of all members.
    """

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter
        self._values = [parameter.detach().clone()]

    @property
    def values(self) -> Tensor:
        """The values on the CPU, shape ``(steps + 1, ...)``."""
        return torch.stack([value.cpu() for value in self._values])

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"values": self.values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what a checkpoint kept."""
        self._values = list(state_dict["values"])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Add the values after a step."""
        self._values.append(self.parameter.detach().clone())

    on_train_minibatch_end = on_train_batch_end
