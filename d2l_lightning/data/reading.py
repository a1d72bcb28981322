"""Files of a user: opened, bounded and listed, with errors that name them."""

import gzip
import io
import reprlib
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from d2l_lightning.errors import InputError

LIMIT = 500_000_000  # bytes of a file, unpacked; a table of as many bytes needs about 10 GB of memory
GZIP = b"\x1f\x8b"


@contextmanager
def reading(what: object) -> Iterator[None]:
    """Turn errors of reading inside the context into an InputError that names what is read."""
    try:
        yield
    except InputError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{what} is truncated or damaged ({error}); save or download it again") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise InputError(f"cannot read {what}: {getattr(error, 'strerror', None) or error}") from error


@contextmanager
def open_input(file: Path) -> Iterator[io.BufferedIOBase]:
    """Open a file to read its bytes, unpacked if it is gzipped.

    Raises:
        InputError: If the file cannot be read, is damaged, or is a pipe or a device.
    """
    with reading(file):
        mode = file.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a pipe may never end, or never begin
            raise InputError(f"cannot read {file}: it is a pipe or a device; save its contents as a file")
        with file.open("rb") as stream:
            packed = stream.peek(2).startswith(GZIP)
            yield gzip.GzipFile(fileobj=stream) if packed else stream


def read_at_most(stream: io.BufferedIOBase, size: int) -> bytearray:
    """Return the next bytes of a stream, up to a number; memory grows with the bytes that are there."""
    data = bytearray()
    while chunk := stream.read(min(size - len(data), 2**20)):
        data += chunk
    return data


def names_in(folder: Path) -> list[str]:
    """Return the sorted names of what a folder holds; it is an InputError if it cannot be read."""
    with reading(f"the folder {folder}"):
        return sorted(path.name for path in folder.iterdir())


def listing(names: Sequence[str]) -> str:
    """Return what a folder holds, for a message."""
    shown = [reprlib.repr(name) for name in names]
    return f"it holds {first_of(shown, 3)}" if names else "it is empty"


def first_of(names: Sequence[str], shown: int = 1) -> str:
    """Return the first names, and the number of further ones, for a message."""
    more = f" (and {len(names) - shown} more)" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
