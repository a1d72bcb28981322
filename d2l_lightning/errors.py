"""Errors that a user can correct, and checks of arguments that raise them."""

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from torch import Tensor

# The most models that are trained side by side: more take hours to make, or all memory.
MOST_MEMBERS = 10_000
# A URL up to the name of the user.
_URL = r"(?<![\w+.-])[a-zA-Z][\w+.-]*://[^\s/:@?]*"


class InputError(ValueError):
    """An argument, flag or file cannot be used: the message names it and says what to do.

    The command line prints the message as one line and exits with status 2, see ``runs.cli.run_experiment``.
    Names of files and values of data are in messages: a terminal must not act on control characters in them.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__("\n".join(map(printable, str(message).split("\n"))))


class DivergenceError(InputError):
    """The loss or a metric of a model is infinite or not a number."""


def printable(text: str) -> str:
    """Return a text as it may be shown: invisible characters are escaped, and URLs have no password."""
    text = without_password(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def without_password(text: str) -> str:
    """Return a text in which URLs of databases have no password, before the host or in the query.

    A command with such a URL works where the password is in PGPASSWORD or ~/.pgpass.
    """
    if "://" not in text:
        return text
    if text.count("://") == 1:  # in a word of its own, all characters up to the last @ belong to the password
        text = re.sub(rf"(?s)\A([\w-]*=?{_URL}):.*@(?=[^@]*\Z)", r"\1@", text)
    text = re.sub(rf"({_URL}):[^\s'\"]*@", r"\1@", text)
    secret = rf"({_URL}[^\s'\"]*[?&])(?:ssl)?password=[^&\s'\"]*&?"
    while (shorter := re.sub(secret, r"\1", text)) != text:
        text = shorter
    return text


def require_positive(**values: float) -> None:
    """Raise an InputError that names the first argument that is not positive or not finite."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise InputError(f"{name} must be positive{' and finite' * (value == math.inf)}, not {value}")


def require_members(**values: int) -> None:
    """Raise an InputError that names the first number of models side by side that is out of range."""
    require_positive(**values)
    for name, value in values.items():
        if value > MOST_MEMBERS:
            raise InputError(
                f"{name} must be at most {MOST_MEMBERS:,}, for models are trained side by side; it is {value}"
            )


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
    if value.shape != expected.shape:
        shape, expected_shape = tuple(value.shape), tuple(expected.shape)
        remedy = ""
        for column, of, like in ((name, shape, expected_shape), (other, expected_shape, shape)):
            if of == (*like, 1):
                remedy = f"; take {column}.squeeze(-1)"
        message = f"{name} of shape {shape} does not go with {other} of shape {expected_shape}"
        raise InputError(message + remedy)


def require_finite(**values: "Tensor") -> None:
    """Raise an InputError that names the first element that is infinite or not a number."""
    for name, value in values.items():
        wrong = (~value.isfinite()).nonzero()
        if len(wrong):
            index = wrong[0].tolist()
            element = f"{name}{index}" if index else name
            raise InputError(f"{element} must be a finite number, not {value[tuple(index)].item()}")


def absolute_path(path: str | os.PathLike[str]) -> Path:
    """Return an absolute path, with ``~`` replaced by the home folder.

    Raises:
        InputError: If the path is empty or not a path, there is no such home folder, or the path is relative
            and the working folder was deleted.
    """
    if not os.fspath(path) or "\0" in os.fspath(path):
        raise InputError(f"a path must not be empty or hold the character \\0, as {os.fspath(path)!r} does")
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise InputError(f"there is no home folder for {os.fspath(path)}") from error
    except FileNotFoundError as error:
        raise InputError(
            f"the working folder was deleted; change to another one for {os.fspath(path)}"
        ) from error
