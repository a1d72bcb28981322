"""A callback that records a classifier's accuracy on some rows after each epoch."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from d2l_lightning.callbacks.step_hooks import NoStepHooks

# Rows that are predicted at a time.
_CHUNK = 1000


class RowAccuracy(NoStepHooks, Callback):  # type: ignore[misc]
    """Records the accuracy of a classifier on some rows after each epoch, in evaluation mode.

    Args:
        X: The features, shape ``(B, ...)``.
        y: The classes, shape ``(B,)``.

    Attributes:
        accuracies: The accuracy after each epoch.
    """

    def __init__(self, X: Tensor, y: Tensor) -> None:
        self.X, self.y = X, y
        self.accuracies: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"accuracies": self.accuracies}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what a checkpoint kept."""
        self.accuracies = state_dict["accuracies"]

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the accuracy after an epoch."""
        was_training, like = pl_module.training, next(pl_module.parameters())
        pl_module.eval()
        chunks = [pl_module(X.to(like)).argmax(dim=1) for X in self.X.split(_CHUNK)]
        pl_module.train(was_training)
        self.accuracies.append((torch.cat(chunks).cpu() == self.y).float().mean().item())
