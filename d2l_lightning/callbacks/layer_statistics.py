"""Callbacks that record statistics of layers during a fit."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from d2l_lightning.callbacks.step_hooks import NoStepHooks


class ActivationVariance(NoStepHooks, Callback):  # type: ignore[misc]
    """Records the variance of the hidden activations after each epoch, in training mode.

    The activations are the inputs of each linear layer but the first, so dropout is included.

    Args:
        X: The features that the activations are computed for, shape ``(B, ...)``.

    Attributes:
        variances: The variance over examples and units, for each epoch and each hidden layer.
    """

    def __init__(self, X: Tensor) -> None:
        self.X = X
        self.variances: list[list[float]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"variances": self.variances}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what a checkpoint kept."""
        self.variances = state_dict["variances"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the variances after an epoch."""
        variances: list[float] = []

        def record(layer: nn.Module, inputs: tuple[Tensor]) -> None:
            variances.append(inputs[0].var().item())

        _, *layers = (m for m in pl_module.modules() if isinstance(m, nn.Linear))
        hooks = [layer.register_forward_pre_hook(record) for layer in layers]
        try:
            with torch.no_grad():
                pl_module(self.X.to(next(pl_module.parameters())))
        finally:
            for hook in hooks:
                hook.remove()
        self.variances.append(variances)


class UnitSpread(NoStepHooks, Callback):  # type: ignore[misc]
    """Records after each step how much the units of a layer differ.

    Attributes:
        spread: The standard deviation of the incoming weights over the units, averaged over the inputs.
    """

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        self._spread: list[float] = []
        self._on_device: list[Tensor] = []  # of the last steps; reading a value would wait for the device

    @property
    def spread(self) -> list[float]:
        """The standard deviations of all steps."""
        if self._on_device:
            self._spread += torch.stack(self._on_device).tolist()
            self._on_device.clear()
        return self._spread

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"spread": self.spread}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what a checkpoint kept."""
        self._spread = state_dict["spread"]
        self._on_device.clear()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Add the spread after a step."""
        self._on_device.append(self.layer.weight.detach().std(dim=0).mean())

    on_train_minibatch_end = on_train_batch_end
