"""Classes that a notebook defines in several cells."""

import abc
from collections.abc import Callable
from typing import TypeVar

from d2l_lightning.errors import InputError

Function = TypeVar("Function", bound=Callable[..., object])


def add_to_class(cls: type) -> Callable[[Function], Function]:
    """Add the decorated function to a class as a method; existing objects have it as well (Section 3.2.1).

    Raises:
        InputError: If ``cls`` is not a class.

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
        abc.update_abstractmethods(cls)  # the function may implement an abstract method
        return function

    return add
