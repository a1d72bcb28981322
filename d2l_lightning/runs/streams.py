"""Output that never fails a run: closed pipes, full devices, characters that cannot be encoded."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class ForgivingStream:
    """A text stream, stdout or stderr by its name, that drops what it cannot write."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write text; return its length."""
        try:
            self._stream.write(text)
        except (OSError, ValueError) as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        # Python flushes the streams once more when it exits, and would report the error again.
        with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), self._stream.fileno())
        if self._name == "stdout":
            reason = getattr(error, "strerror", None) or error
            print(f"warning: {self._name} cannot be written ({reason}); the run goes on", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def forgiving_streams() -> Iterator[None]:
    """Let ``sys.stdout`` and ``sys.stderr`` drop what they cannot write, within the context."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        # A stream is None where the program was started without it.
        sys.stdout = ForgivingStream(before[0] or nowhere, "stdout")
        sys.stderr = ForgivingStream(before[1] or nowhere, "stderr")
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stdout, sys.stderr = before
