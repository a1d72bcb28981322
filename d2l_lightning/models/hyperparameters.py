"""Hyperparameters as attributes of a module: ``model.lr``, and ``model.lambd = 3.0``."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from d2l_lightning.errors import InputError, require_not_negative, require_positive

# The settings that optimizers take from ``hparams`` when a fit begins.
_OF_OPTIMIZERS = {"lr", "bias_lr", "betas", "weight_decay", "wd", "l1"}
# What the book's Module has, and what takes its place.
_INSTEAD = {
    "board": "pass callbacks=[ProgressBoard(yscale='log')] to the Trainer, with the board's settings",
    "plot": "self.log(name, value) logs a value, and the callback ProgressBoard draws the losses of a fit",
}


class HyperparameterAttributes(LightningModule):
    """A module whose hyperparameters can be read as attributes, as in the book (Section 3.2.1).

    After ``save_hyperparameters()``, ``model.lr`` is ``model.hparams["lr"]``. Assigning to ``lr`` or one of
    ``buffer_hparams`` sets the buffer or the setting of the optimizer, which takes it when a fit begins.

    Raises:
        InputError: If such a value is out of its range, or if only a new model can have it.
    """

    buffer_hparams: ClassVar[frozenset[str]] = frozenset()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            hparams = vars(self).get("_hparams") or {}
            if name in hparams:
                return hparams[name]
            if name in _INSTEAD:
                raise AttributeError(f"{type(self).__name__} has no {name}: {_INSTEAD[name]}") from error
            raise

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this attribute some 40 times a step, and nn.Module's __setattr__ is slow.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        elif not self._set_hyperparameter(name, value):
            super().__setattr__(name, value)

    def _set_hyperparameter(self, name: str, value: Any) -> bool:
        """Set a hyperparameter that may change after the model is made; return whether it is one."""
        hparams = vars(self).get("_hparams") or {}
        if name not in hparams or not (name in self.buffer_hparams or name == "lr"):
            return False
        buffer = self._buffers.get(name)
        if isinstance(value, Tensor):
            if buffer is not None or name in self._parameters or value.numel() != 1:
                return False
            value = value.item()
        if buffer is None and name not in _OF_OPTIMIZERS:
            kind = type(self).__name__
            raise InputError(f"{name} is fixed when a model is made; make a new {kind} with {name}={value}")
        if name == "lr":
            require_positive(lr=value)
        elif isinstance(value, int | float):
            require_not_negative(**{name: value})
        if buffer is not None:
            buffer.fill_(value)
        hparams[name] = value
        if name in vars(self):  # set before save_hyperparameters()
            vars(self)[name] = value
        return True

    @contextmanager
    def _without_hyperparameters(self) -> Iterator[None]:
        """Hide the hyperparameters from nn.Module, which refuses a buffer with the name of an attribute."""
        hparams = vars(self).pop("_hparams", None)
        try:
            yield
        finally:
            if hparams is not None:
                vars(self)["_hparams"] = hparams

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a buffer, which may have the name of a hyperparameter."""
        with self._without_hyperparameters():
            super().register_buffer(name, tensor, persistent)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Add a parameter, which may have the name of a hyperparameter."""
        with self._without_hyperparameters():
            super().register_parameter(name, param)
