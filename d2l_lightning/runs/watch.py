"""Signs of life between the processes of a run, so that one that is lost does not keep the others waiting."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

# Seconds between two signs of life, and without one until a process counts as lost.
INTERVAL, LOST = 2.0, 20.0


class Watch:
    """Gives signs of life in a store, and looks for those of the others.

    Args:
        connect: Returns a connection to the store, for a thread of its own.
        rank: The number of this process.
        size: The number of processes.
        lost: Is called in a thread, once, with the number of the process that is lost.
        interval: Seconds between two signs, see ``INTERVAL``.
        seconds: Seconds without a sign after which a process is lost, see ``LOST``.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        rank: int,
        size: int,
        lost: Callable[[int], None],
        interval: float | None = None,
        seconds: float | None = None,
    ) -> None:
        self._connect, self._rank, self._size, self._lost = connect, rank, size, lost
        self._interval = INTERVAL if interval is None else interval
        self._seconds = LOST if seconds is None else seconds
        self._ended = threading.Event()
        now = time.monotonic()
        # Of each process: its last sign, and when it was seen.
        self._signs: dict[int, tuple[bytes, float]] = dict.fromkeys(range(size), (b"", now))

    def start(self) -> None:
        """Start the threads."""
        for function in (self._exchange, self._look):
            threading.Thread(target=function, name="watch", daemon=True).start()

    def stop(self) -> None:
        """End the threads."""
        self._ended.set()

    def _exchange(self) -> None:
        # A network that is gone may block this thread for minutes; the other one looks at the time.
        with suppress(Exception):
            store = self._connect()
            count = 0
            while not self._ended.wait(self._interval):
                count += 1
                store.set(f"alive/{self._rank}", str(count))
                for rank, (before, _) in list(self._signs.items()):
                    key = f"alive/{rank}"
                    sign = store.get(key) if store.check([key]) else b""
                    if sign != before:
                        self._signs[rank] = sign, time.monotonic()

    def _look(self) -> None:
        looked = time.monotonic()
        while not self._ended.wait(self._interval / 4):
            before, looked = looked, time.monotonic()
            now = looked
            if now - before > self._seconds / 2:  # this process was stopped, perhaps with the others
                self._signs = {rank: (sign, now) for rank, (sign, _) in self._signs.items()}
            lost = [rank for rank, (_, seen) in self._signs.items() if now - seen > self._seconds]
            if lost:
                self._ended.set()
                # Without a connection, no process is seen, not even this one: process 0 has the store.
                self._lost(0 if self._rank in lost else lost[0])
                return
