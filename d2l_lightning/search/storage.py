"""The database of a search: how it is opened, what happens when it is away, and heartbeats."""

import logging
import random
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from d2l_lightning.errors import InputError, without_password

# A trial whose worker died is tried this many times more.
MAX_RETRY = 3
# A worker counts as dead after this many intervals without a heartbeat.
MISSED = 3
# How long a worker waits for a database that does not answer, in seconds.
OUTAGE = 60.0
Result = TypeVar("Result")


class _Connection(sqlite3.Connection):
    """A connection to an SQLite file in which a commit does not wait for the disk.

    A process may be killed at any time. A power cut loses the last commits and no more.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with suppress(
            sqlite3.OperationalError
        ):  # a file system that cannot do it, or a file that is no database
            self.execute("PRAGMA journal_mode=WAL")
            self.execute("PRAGMA synchronous=NORMAL")


# Arguments of a connection, by the kind of database.
CONNECT: dict[str, dict[str, Any]] = {
    "sqlite": {"timeout": 60, "factory": _Connection},
    "postgresql": {"connect_timeout": 10},
}


@contextmanager
def quietly() -> Iterator[None]:
    """Ignore that Optuna calls its heartbeats experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def sqlite_url(path: str | Path) -> str:
    """Return the URL of an SQLite file."""
    return URL.create("sqlite", database=str(Path(path).absolute())).render_as_string()


def open_storage(url: str, heartbeat: int) -> RDBStorage:
    """Return the storage at an URL, with its tables.

    Args:
        url: The URL of a database, as of SQLAlchemy.
        heartbeat: Seconds between two heartbeats of a worker.

    Raises:
        InputError: If the URL is none of a database, or the database cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    shown = without_password(url)
    try:
        backend = make_url(url).get_backend_name()
        if backend == "sqlite" and make_url(url).database in (None, "", ":memory:"):
            raise ValueError("it has no file")
        options = CONNECT.get(backend, {})
        for attempt in range(5):
            try:
                with quietly():
                    return RDBStorage(
                        url.replace("{", "{{").replace("}", "}}"),  # Optuna formats it
                        engine_kwargs={"connect_args": options, "pool_pre_ping": backend != "sqlite"},
                        heartbeat_interval=heartbeat,
                        grace_period=MISSED * heartbeat,
                        heartbeat_stale_trial_callback=retry,
                    )
            except (SQLAlchemyError, StorageInternalError) as error:
                # Several workers that create the tables at once.
                if attempt == 4 or not (isinstance(error, IntegrityError) or "exists" in str(error)):
                    raise
                time.sleep(random.random())
        raise AssertionError
    except (ArgumentError, NoSuchModuleError, ImportError, TypeError, ValueError) as error:
        raise InputError(
            f"--storage {shown} cannot be used ({_reason(error)}); "
            "write sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE"
        ) from error
    except (SQLAlchemyError, StorageInternalError, RuntimeError, AssertionError) as error:
        raise InputError(f"--storage {shown} cannot be reached: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return the first line of a database's error, without the password."""
    while error.__cause__ is not None:
        error = error.__cause__
    cause = getattr(error, "orig", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
    return without_password(lines[0])


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Put a trial that failed back into the queue, with what it reported, unless it was tried too often."""
    trial.user_attrs.pop("worker", None)
    with quietly():
        again = RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRY, inherit_intermediate_values=True)
    again(study, trial)


def patiently(call: Callable[[], Result], url: str, far: str = "") -> Result:
    """Return what a call returns; repeat it for ``OUTAGE`` seconds while the database does not answer.

    Args:
        call: What reads or writes the database; it may have done so before an error.
        url: The URL of the storage.
        far: How far the search is, for the message.

    Raises:
        InputError: If the database still does not answer.
    """
    end, pause = time.monotonic() + OUTAGE, 0.5
    while True:
        try:
            return call()
        except (StorageInternalError, DBAPIError) as error:
            if time.monotonic() + pause > end:
                raise InputError(
                    f"--storage {without_password(url)} does not answer any more ({_reason(error)}); "
                    f"{far}the search can be resumed when it does"
                ) from error
        time.sleep(pause)
        pause = min(2 * pause, 5.0)


class Heartbeats:
    """A thread that records the heartbeats of trials.

    Args:
        storage: The storage of the trials.
        trials: Returns the ids of the trials that run now.
    """

    def __init__(self, storage: RDBStorage, trials: Callable[[], Iterable[int]]) -> None:
        self._storage, self._trials = storage, trials
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeats")
        self._thread.start()

    def _beat(self) -> None:
        try:
            while not self._stop.wait(self._storage.heartbeat_interval):
                for trial in self._trials():
                    try:
                        self._storage.record_heartbeat(trial)
                    except Exception:  # a database that is away: the next heartbeat may reach it
                        break
        finally:
            self._storage.remove_session()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(timeout=10)
