"""Signs of life in a log: a line now and then, where there is no terminal for a progress bar."""

import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from d2l_lightning.runs.report import print_progress


class Heartbeat:
    """A context that prints a line to stderr from time to time, unless stderr is a terminal.

    Args:
        describe: Returns the line.
        seconds: The time between two lines.
    """

    def __init__(self, describe: Callable[[], str], seconds: float = 30.0) -> None:
        self._describe, self._seconds = describe, seconds
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Heartbeat":
        if not sys.stderr.isatty():
            self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(self._seconds):
            with suppress(Exception):  # the main thread changes what is described
                print_progress(self._describe())
