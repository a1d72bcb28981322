"""Errors that a user can correct, and checks of arguments that raise them."""

import math
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from torch import Tensor


class InputError(ValueError):
    """An argument, flag or file cannot be used: the message names it and says what to do.

    The command line prints the message as one line and exits with status 2, see ``runs.cli.run_experiment``.
    """


class DivergenceError(InputError):
    """The loss or a metric of a model is infinite or not a number."""


def require_positive(**values: float) -> None:
    """Raise an InputError that names the first argument that is not positive or not finite."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise InputError(f"{name} must be positive{' and finite' * (value == math.inf)}, not {value}")


def require_not_negative(**values: float) -> None:
    """Raise an InputError that names the first argument that is negative or not finite."""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            wanted = "be finite" if value == math.inf else "not be negative"
            raise InputError(f"{name} must {wanted}; it is {value}")


def require_known(what: str, name: str, known: Any) -> None:
    """Raise an InputError that lists the known names, a ``Literal`` type, if the name is not among them."""
    if name not in get_args(known):
        raise InputError(f"{what} must be one of {', '.join(get_args(known))}, not {name!r}")


def require_same_shape(**values: "Tensor") -> None:
    """Raise an InputError if two tensors differ in shape: ``(B, 1)`` and ``(B,)`` broadcast to ``(B, B)``."""
    (name, value), (other, expected) = values.items()
    shape, expected_shape = tuple(value.shape), tuple(expected.shape)
    if shape != expected_shape:
        raise InputError(f"{name} of shape {shape} does not go with {other} of shape {expected_shape}")


def require_finite(**values: "Tensor") -> None:
    """Raise an InputError that names the first element that is infinite or not a number."""
    for name, value in values.items():
        wrong = (~value.isfinite()).nonzero()
        if len(wrong):
            index = wrong[0].tolist()
            element = f"{name}{index}" if index else name
            raise InputError(f"{element} must be a finite number, not {value[tuple(index)].item()}")
