"""The one error that tells a person, not a programmer, what to put right, and the checks that many share."""

import math
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from torch import Tensor


class InputError(ValueError):
    """Something that was handed in cannot be used: the message names it and says what to do.

    On the command line it becomes one line and exit status 2 (see ``run.run_experiment``).
    """


class DivergenceError(InputError):
    """A model's loss is no number any more."""


def require_positive(**values: float) -> None:
    """Raise an InputError that names the first of these arguments that is not positive or not finite."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise InputError(f"{name} must be positive{' and finite' * (value == math.inf)}, not {value}")


def require_not_negative(**values: float) -> None:
    """Raise an InputError that names the first of these arguments that is negative or not finite."""
    for name, value in values.items():
        if not value >= 0 or value == math.inf:
            wanted = "be finite" if value == math.inf else "not be negative"
            raise InputError(f"{name} must {wanted}; it is {value}")


def require_known(what: str, name: str, known: Any) -> None:
    """Raise an InputError that lists the known names, those of a ``Literal``, if this is none of them."""
    if name not in get_args(known):
        raise InputError(f"{what} must be one of {', '.join(get_args(known))}, not {name!r}")


def require_same_shape(**values: "Tensor") -> None:
    """Raise an InputError that names these two tensors if their shapes differ.

    ``(B, 1)`` against ``(B,)`` would broadcast to ``(B, B)`` without a word.
    """
    (name, value), (other, against) = values.items()
    if value.shape != against.shape:
        raise InputError(
            f"{name} of shape {tuple(value.shape)} does not go with {other} of shape {tuple(against.shape)}"
        )


def require_finite(**values: "Tensor") -> None:
    """Raise an InputError that names the first element of these tensors that is infinite or not a number."""
    for name, value in values.items():
        wrong = (~value.isfinite()).nonzero()
        if len(wrong):
            place = wrong[0].tolist()
            shown = f"{name}{place}" if place else name
            raise InputError(f"{shown} must be a finite number, not {value[tuple(place)].item()}")
