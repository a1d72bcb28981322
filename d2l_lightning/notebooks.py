"""For notebooks: a class told in several cells."""

import abc
from collections.abc import Callable
from typing import TypeVar

from d2l_lightning.errors import InputError

Function = TypeVar("Function", bound=Callable[..., object])


def add_to_class(cls: type) -> Callable[[Function], Function]:
    """Make the decorated function a method of a class, and of the objects that there are of it already.

    Args:
        cls: The class.

    Raises:
        InputError: If it is not a class.

    Source: Section 3.2.1.

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
        setattr(cls, function.__name__, function)
        abc.update_abstractmethods(cls)  # a method that was missing is not any more
        return function

    return add
