"""Classes that a notebook defines in several cells."""

import abc
import inspect
from collections.abc import Callable
from typing import TypeVar

from lightning.pytorch import LightningDataModule, Trainer

from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule

# Methods of the book's classes that nothing calls in the classes that take their place, and what is called.
NOT_CALLED: dict[type, dict[str, str]] = {
    LightningDataModule: {"get_dataloader": "train_dataloader and val_dataloader"},
    Trainer: {
        "prepare_data": "the data module's prepare_data",
        "prepare_model": "the model's on_fit_start",
        "prepare_batch": "the model's on_after_batch_transfer",
        "fit_epoch": "the model's training_step",
        "clip_gradients": "the Trainer's argument gradient_clip_val",
    },
}

Function = TypeVar("Function", bound=Callable[..., object])


def add_to_class(cls: type) -> Callable[[Function], Function]:
    """Add the decorated function to a class as a method; existing objects have it as well (Section 3.2.1).

    Raises:
        InputError: If ``cls`` is not a class, or nothing would call the method.

    Example:
        >>> class Circle:
        ...     radius = 2
        >>> circle = Circle()
        >>> @add_to_class(Circle)
        ... def diameter(self):
        ...     return 2 * self.radius
        >>> circle.diameter()
        4
    """
    if not isinstance(cls, type):
        raise InputError(f"add_to_class takes a class, not {cls!r}")

    def add(function: Function) -> Function:
        _require_called(cls, function)
        setattr(cls, function.__name__, function)
        abc.update_abstractmethods(cls)  # the function may implement an abstract method
        return function

    return add


def _require_called(cls: type, function: Callable[..., object]) -> None:
    """Raise an InputError if a function is a method of the book's that nothing calls in this class."""
    name = function.__name__
    for kind, instead in NOT_CALLED.items():
        if issubclass(cls, kind) and name in instead and not hasattr(cls, name):
            raise InputError(f"nothing calls {name} of {cls.__name__}; use {instead[name]}")
    if name == "loss" and issubclass(cls, SupervisedModule):
        first = [*inspect.signature(function).parameters, "", ""][1]
        if first != "X":
            raise InputError(
                f"loss of {cls.__name__} gets X, y and weight, not {first}; add example_losses(self, X, y), "
                "which returns the loss of each example"
            )
