"""Prequential evaluation (test, then train): a model predicts every batch before it trains on it."""

import copy
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class PrequentialErrors(Callback):
    """Records the squared error of every batch before training on it: of the model, of a frozen copy (4.9.4).

    Args:
        start: The index of the batch before which the copy is made.

    Attributes:
        errors: The squared errors of each batch's rows, on the CPU: those of the copy, those of the model.
            They are the same tensor before the copy is made.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self._errors: list[tuple[Tensor, Tensor]] = []
        self._on_device: list[tuple[Tensor, Tensor]] = []  # of the last batches; moving them would wait
        self._frozen: LightningModule | None = None

    @property
    def errors(self) -> list[tuple[Tensor, Tensor]]:
        """The squared errors of all batches."""
        for frozen, online in self._on_device:
            moved = online.cpu()
            self._errors.append((moved if frozen is online else frozen.cpu(), moved))
        self._on_device.clear()
        return self._errors

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the errors. One pass ends before the copy could be needed again."""
        return {"errors": self.errors}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what a checkpoint kept."""
        self._errors = state_dict["errors"]
        self._on_device.clear()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Predict the batch."""
        X, y = batch
        if batch_idx == self.start:
            self._frozen = copy.deepcopy(pl_module)
        with torch.no_grad():
            online = (pl_module(X) - y).square()
            frozen = online if self._frozen is None else (self._frozen(X) - y).square()
        self._on_device.append((frozen, online))
