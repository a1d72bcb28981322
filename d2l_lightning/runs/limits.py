"""Settings that ask for more than the machine can do, as errors of one line."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch

from d2l_lightning.errors import DivergenceError, InputError

Number = TypeVar("Number", int, float)

# What PyTorch, NumPy and Python say of a size that does not fit into memory or into 64 bits.
_TOO_LARGE = re.compile(
    "can't allocate memory|not enough memory|out of memory|bad_alloc|Unable to allocate|array is too big"
    "|Storage size calculation overflowed|multiplication overflow|Overflow when unpacking|without overflow"
    r"|int too (large|big) to convert|index-sized integer|Maximum allowed dimension|negative dimension -\d{9}"
    "|must be in range .* for input dtype Float"
)
_ANOMALY = re.compile(r"Function '\w+' returned nan values")


@contextmanager
def machine_limits(arguments: Mapping[str, Any]) -> Iterator[None]:
    """Turn errors of sizes beyond the machine into InputErrors that name the largest setting.

    Args:
        arguments: The arguments of an experiment and of its run; of parts, those that are filled in.

    Raises:
        InputError: If a setting has more than 64 bits or the memory is not enough.
        DivergenceError: If PyTorch's anomaly detection stops a fit.
    """
    sizes, numbers = dict(_sizes(arguments, int)), dict(_sizes(arguments, float))
    largest = max(sizes, key=lambda name: sizes[name], default="")
    if largest and sizes[largest] >= 2**63:
        raise InputError(f"{largest} must be less than 2^63, not {sizes[largest]}")
    # PyTorch warns with a traceback of many lines before it raises.
    warnings.filterwarnings("ignore", "Error detected in ")
    try:
        yield
    except (MemoryError, OverflowError, RuntimeError, ValueError) as error:
        text = str(error)
        if _ANOMALY.search(text):
            raise DivergenceError(
                "a gradient is not a number (--detect_anomaly); a lower lr may help"
            ) from error
        if isinstance(error, InputError) or not (
            isinstance(error, MemoryError | torch.OutOfMemoryError) or _TOO_LARGE.search(text)
        ):
            raise
        if re.search("type float without overflow|input dtype Float", text) and numbers:
            name = max(numbers, key=lambda name: numbers[name])
            raise InputError(f"{name} {numbers[name]:g} is too large for single precision") from error
        asked = re.search(r"allocate ([\d.]+ ?[KMGTP]?i?B)|allocate (\d+) bytes", text)
        large = asked and (asked[1] or int(asked[2]) > 10**8)  # a small piece is only the last one
        piece = f" ({asked[1] or f'{int(asked[2]) / 1e9:,.1f} GB'} in one piece)" if asked and large else ""
        setting = f"the largest setting is {largest} {sizes[largest]}" if largest else "take less data"
        raise InputError(f"this needs more memory than there is{piece}; {setting}") from error


def _sizes(arguments: Mapping[str, Any], kind: type[Number]) -> Iterator[tuple[str, Number]]:
    """Yield the name and the greatest number of a kind of each setting, but not of the seed."""
    for name, value in arguments.items():
        if isinstance(value, partial):
            yield from _sizes(value.keywords, kind)
            continue
        items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        numbers = [item for item in items if isinstance(item, kind)]
        if numbers and name != "seed":
            yield name, max(numbers)
