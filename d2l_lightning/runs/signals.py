"""Signals that stop a run: the first one lets the running epoch end, the second one stops at once."""

import _thread
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from d2l_lightning.runs.processes import Processes

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

    Signals that are ignored when the context begins, as SIGHUP under ``nohup``, stay ignored. A signal that
    one of several processes receives stops all of them.

    Args:
        processes: The processes of the run; this one alone if not given.

    Attributes:
        received: The number of the first signal; None before it.
        agreed: The number of a signal after which all processes stop; 0 if there is none. A process may
            receive one right after they agreed to go on.
    """

    def __init__(self, processes: Processes | None = None) -> None:
        self._processes = processes
        self.received: int | None = None
        self.agreed = 0
        self._deferred = self._ignores = False
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> "StopSignals":
        names = ["SIGINT", "SIGTERM", "SIGHUP"] + ["SIGUSR1"] * ("SLURM_JOB_ID" in os.environ)
        if threading.current_thread() is threading.main_thread():
            for signum in (getattr(signal, name) for name in names if hasattr(signal, name)):
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._before[signum] = signal.signal(signum, self._handle)
        return self

    def ignore(self) -> None:
        """Ignore signals from now on."""
        self._ignores = True
        if self._timer is not None:
            self._timer.cancel()

    def __exit__(self, *_: object) -> None:
        self.ignore()
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._ignores:
            return
        first, self.received = self.received is None, self.received or signum
        if not (first and self._deferred):
            raise _SignalError
        # Not print: the signal may have interrupted another print.
        with suppress(OSError):
            if self._processes is None or self._processes.is_first:
                os.write(2, b"\nstopping at the end of the epoch; a second signal stops at once\n")
        self._timer = threading.Timer(GRACE, _thread.interrupt_main, (signum,))
        self._timer.daemon = True
        self._timer.start()

    def agree(self, wish: bool = False) -> bool:
        """Agree whether to stop; return whether one of the processes has the wish. All call this."""
        received = self.received or 0
        wished, self.agreed = int(wish), received
        if self._processes is not None:
            wished, self.agreed = self._processes.most(wish, received)
        return bool(wished)

    def check(self) -> None:
        """Stop here if a signal was received by one of the processes, which all call this."""
        self.agree()
        self.stop()

    def stop(self) -> None:
        """Stop here if the processes agreed to."""
        if self.agreed:
            self.received = self.received or self.agreed
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
