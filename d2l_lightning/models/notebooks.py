"""Classes that a notebook defines in several cells."""

import abc
import inspect
from collections.abc import Callable, Collection
from types import FrameType
from typing import TypeVar, cast

from lightning.pytorch import LightningDataModule, Trainer

from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.signatures import adapt_methods

# Methods of the book's classes that nothing calls in the classes that take their place, and what is called.
NOT_CALLED: dict[type, dict[str, str]] = {
    LightningDataModule: {"get_dataloader": "train_dataloader and val_dataloader, or derive from DataModule"},
    Trainer: {
        "prepare_data": "the data module's prepare_data",
        "prepare_model": "the model's on_fit_start",
        "prepare_batch": "the model's on_after_batch_transfer",
        "fit_epoch": "the model's training_step",
        "clip_gradients": "the Trainer's argument gradient_clip_val",
    },
}

Function = TypeVar("Function", bound=Callable[..., object])


class HyperParameters:
    """A class whose ``save_hyperparameters`` keeps arguments of ``__init__`` as attributes (Section 3.2.1).

    Models and data modules have Lightning's method of this name instead.

    Example:
        >>> class B(HyperParameters):
        ...     def __init__(self, a, b, c):
        ...         self.save_hyperparameters(ignore=["c"])
        >>> b = B(a=1, b=2, c=3)
        >>> b.a, b.b, hasattr(b, "c")
        (1, 2, False)
    """

    def save_hyperparameters(self, ignore: Collection[str] = ()) -> None:
        """Set an attribute for each argument of the method that calls this one, except ignored ones."""
        frame = inspect.currentframe()
        caller = cast(FrameType, cast(FrameType, frame).f_back)
        names, args, kwargs, values = inspect.getargvalues(caller)
        arguments = {name: values[name] for name in (*names[1:], args, kwargs) if name is not None}
        for name in arguments.keys() - set(ignore):
            setattr(self, name, arguments[name])


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
        if issubclass(cls, SupervisedModule):
            adapt_methods(cls)
        return function

    return add


def _require_called(cls: type, function: Callable[..., object]) -> None:
    """Raise an InputError if a function is a method of the book's that nothing calls in this class."""
    name = function.__name__
    for kind, instead in NOT_CALLED.items():
        if issubclass(cls, kind) and name in instead and not hasattr(cls, name):
            raise InputError(f"nothing calls {name} of {cls.__name__}; use {instead[name]}")
