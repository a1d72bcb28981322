"""Signals that stop a run: the first one lets the running epoch end, the second one stops at once."""

import _thread
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

# Seconds that an epoch has to end after the first signal. Docker kills after 10 s, Kubernetes after 30.
GRACE = 8.0


class StoppedError(KeyboardInterrupt):
    """A signal stopped the run; the message says how far it was.

    Attributes:
        signum: The number of the signal.
    """

    signum = int(signal.SIGINT)

    def with_advice(self, advice: str) -> "StoppedError":
        """Return the error with advice after its message."""
        error = StoppedError(f"{self}; {advice}")
        error.signum = self.signum
        return error


class _SignalError(BaseException):
    """Unwinds the stack. Lightning makes an exit of a KeyboardInterrupt, and ignores Ctrl-C from then on."""


class StopSignals:
    """A context in which SIGINT, SIGTERM, SIGHUP and, in a SLURM job, SIGUSR1 stop the run.

    Signals that are ignored when the context begins, as SIGHUP under ``nohup``, stay ignored.

    Attributes:
        received: The number of the first signal; None before it.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._deferred = False
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> "StopSignals":
        names = ["SIGINT", "SIGTERM", "SIGHUP"] + ["SIGUSR1"] * ("SLURM_JOB_ID" in os.environ)
        if threading.current_thread() is threading.main_thread():
            for signum in (getattr(signal, name) for name in names if hasattr(signal, name)):
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        first, self.received = self.received is None, self.received or signum
        if not (first and self._deferred):
            raise _SignalError
        # Not print: the signal may have interrupted another print.
        with suppress(OSError):
            os.write(2, b"\nstopping at the end of the epoch; a second signal stops at once\n")
        self._timer = threading.Timer(GRACE, _thread.interrupt_main, (signum,))
        self._timer.daemon = True
        self._timer.start()

    def check(self) -> None:
        """Stop here if a signal was received."""
        if self.received is not None:
            raise _SignalError

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within this context, the first signal waits for ``check``, for a short while; without it, none."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def stops(self, error: BaseException | None) -> bool:
        """Return whether an error is that of a signal."""
        return isinstance(error, _SignalError | KeyboardInterrupt)

    def stopped(self, where: str) -> StoppedError:
        """Return the error that says by which signal the run was stopped, and where."""
        signum = self.received or int(signal.SIGINT)
        by = "" if signum == signal.SIGINT else f" by {signal.Signals(signum).name}"
        error = StoppedError(f"stopped{by} {where}")
        error.signum = signum
        return error

    @contextmanager
    def stopping(self, where: Any) -> Iterator[None]:
        """Turn a signal in this context into a ``StoppedError``; ``where`` returns how far the run is."""
        try:
            yield
        except StoppedError:
            raise
        except (_SignalError, KeyboardInterrupt) as error:
            raise self.stopped(where()) from error
