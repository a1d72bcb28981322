"""The processes of a run: started and joined, of one opinion, and ended together."""

import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import distributed
from torch._C._distributed_c10d import PrefixStore, TCPStore

from d2l_lightning.errors import InputError
from d2l_lightning.runs.place import Place
from d2l_lightning.runs.report import print_progress
from d2l_lightning.runs.watch import Watch

# Exchanges may take as long as they need: a process that is lost is noticed otherwise.
_TIMEOUT = timedelta(days=7)
# Seconds that the processes which this one started have to end after it.
_GRACE = 5.0
# Seconds that process 0 leaves the others to end after an error.
_CLAIMS = 2.0
# Seconds that process 0 has to answer a process that found its port.
_HANDSHAKE = 20.0
# The environment variable with the process that started this one.
_STARTER = "_D2L_LIGHTNING_STARTER"
# What PyTorch says where another process is gone.
_GONE = ("Connection closed by peer", "Connection reset", "Broken pipe", "NCCL", "gloo", "Socket", "TCPStore")


class Processes:
    """The processes that train the models of a run together; process 0 alone writes and prints.

    Processes that this one starts run its whole program, and end with the run. So a program can have one run
    of several processes, unless another program started them.

    Args:
        place: The place of this process.
        command: The command line that starts the run; without one, that of this process.
        join_timeout: Seconds to wait for the other processes.
        lost: Is called in a thread with the number of a process that gives no sign of life any more.

    Attributes:
        place: The place of this process.
        joined: Whether the processes have joined.

    Raises:
        InputError: If this program has started processes for another run.
    """

    _has_started = False
    _runs = count()
    # The stores by their ports. Where another program started the processes, the next run uses it too.
    _stores: ClassVar[dict[int, Any]] = {}

    def __init__(self, place: Place, command: str, join_timeout: float, lost: Callable[[int], None]) -> None:
        self.place, self._command_line, self._join_timeout = place, command, join_timeout
        self._lost = lost
        self.joined = False
        self._store: Any = None
        self._watch: Watch | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        self._variables: dict[str, str | None] = {}
        self._orphaned = False
        self._prefix = ""
        if place.size > 1 and not place.started and Processes._has_started:
            raise InputError(
                "a program can train on several devices in one run only; start a program for each run, or "
                "start the processes with torchrun"
            )

    @property
    def ends_with_run(self) -> bool:
        """Whether this process was started for the run alone."""
        return _STARTER in os.environ and self.place.size > 1

    @property
    def is_first(self) -> bool:
        """Whether this is process 0."""
        return self.place.rank == 0

    @property
    def join_early(self) -> bool:
        """Whether the processes join before the first fit: those that another program started."""
        return self.place.size > 1 and (self.place.started or self.place.num_nodes > 1)

    def join(self) -> None:
        """Start the other processes of this node, unless they were started, and wait for all.

        Raises:
            InputError: If the others do not come, or the port is in use.
        """
        place = self.place
        if self.joined or place.size == 1:
            return
        if place.num_nodes > 1 and place.local_rank == 0:
            print_progress(
                f"waiting up to {self._join_timeout:g} s for {place.size} processes on {place.num_nodes} "
                f"nodes at {place.address}:{place.port}"
            )
        end = time.monotonic() + self._join_timeout
        # torchrun keeps its store when it starts the processes again.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._prefix = f"d2l_lightning/{attempt}/{next(self._runs)}"
        if not place.started:
            self._start_others()
        try:
            self._meet(end)
        except (RuntimeError, OSError) as error:
            raise InputError(
                f"another process ended while the processes joined: {_first_line(error)}"
            ) from error
        self._watch = Watch(self._client, place.rank, place.size, self._lost)
        self._watch.start()

    def _meet(self, end: float) -> None:
        """Form the group of processes."""
        place = self.place
        store = self._connect(end)
        self._gather(store, end)
        backend = "gloo" if place.gpu is None else "cpu:gloo,cuda:nccl"
        if place.gpu is not None:
            torch.cuda.set_device(place.gpu)
        # Otherwise gloo takes that of the host name, which may have no address.
        if name := _interface(place.address, place.port):
            self._variables.setdefault("GLOO_SOCKET_IFNAME", os.environ.get("GLOO_SOCKET_IFNAME"))
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        distributed.init_process_group(
            backend, store=store, rank=place.rank, world_size=place.size, timeout=_TIMEOUT
        )
        self._store, self.joined = store, True

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """A context that leaves the other processes if an error ends it."""
        try:
            yield
        except BaseException as error:
            prints = not isinstance(error, Exception) or self.may_print_error()
            self.close(failed=True)
            if prints:
                raise
            raise SystemExit(2) from None

    def most(self, *numbers: int) -> list[int]:
        """Return the greatest of each of the numbers that the processes pass; all must call this."""
        if not self.joined:
            return list(numbers)
        values = torch.tensor(numbers)
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
        return values.tolist()

    def is_gone(self, error: BaseException | None) -> bool:
        """Return whether an error says that another process is gone."""
        if not self.joined or not isinstance(error, RuntimeError | OSError):
            return False
        return isinstance(error, distributed.DistError) or any(text in str(error) for text in _GONE)

    def may_print_error(self) -> bool:
        """Return whether this process prints the error that ends the run, which one of each node does."""
        if self.place.size == 1:
            return True
        if not self.joined:
            return self.place.local_rank == (1 if self._orphaned else 0)
        with suppress(Exception):
            if _answers(self.place.address, self.place.port):
                return bool(self._store.add(f"failed/{self.place.node}", 1) == 1)
        return self.place.local_rank <= 1  # process 0, which has the store, is gone

    def wait(self) -> bool:
        """Wait until all processes are done; return whether process 0, which has the results, was."""
        if self.joined:
            try:
                distributed.barrier()
            except RuntimeError:
                self._orphaned = self.place.node == 0
                return self.is_first
        return True

    def close(self, failed: bool = False) -> None:
        """Leave the other processes; those that this one started end with it."""
        if not self.joined:  # they wait for this process
            self.kill()
        else:
            if self._watch is not None:
                self._watch.stop()
            with suppress(Exception):
                if not (failed and self.place.gpu is not None):  # it would wait for the others
                    distributed.destroy_process_group()
            with suppress(Exception):
                self._store.set(f"ended/{self.place.rank}", "")
                if failed and self.is_first:
                    self._wait_for_claims()
        self.joined, self._store, self._watch = False, None, None
        end = time.monotonic() + _GRACE
        for child in self._children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, end - time.monotonic()))
        self.kill()
        for name, value in self._variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._variables.clear()

    def _wait_for_claims(self) -> None:
        """Keep the store for a moment, in which the others ask whether an error was printed."""
        end = time.monotonic() + _CLAIMS
        names = [f"ended/{rank}" for rank in range(self.place.size)]
        while time.monotonic() < end and not self._store.check(names):
            time.sleep(0.02)

    def kill(self) -> None:
        """End the processes that this one started."""
        for child in self._children:
            if child.poll() is None:
                child.kill()
                child.wait()
        self._children.clear()

    def _start_others(self) -> None:
        """Start this program again, with the variables that Lightning reads, for each other process."""
        place = self.place
        variables = {"MASTER_ADDR": place.address, "MASTER_PORT": str(place.port)}
        variables |= {"NODE_RANK": str(place.node), "LOCAL_RANK": "0", "WORLD_SIZE": str(place.size)}
        self._variables = {name: os.environ.get(name) for name in variables}
        command = _command(self._command_line)
        Processes._has_started = True
        os.environ.update(variables)
        for local_rank in range(1, place.local_size):
            own = {**os.environ, "LOCAL_RANK": str(local_rank), "PYTHONWARNINGS": "ignore"}
            own[_STARTER] = str(os.getpid())
            own.pop("PL_GLOBAL_SEED", None)
            self._children.append(
                subprocess.Popen(command, env=own, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            )

    def _connect(self, end: float) -> Any:
        """Return the store in which the processes find each other; process 0 has it."""
        place = self.place
        owns = place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        if owns:
            try:
                socket.getaddrinfo(place.address, place.port)
            except OSError as error:
                raise InputError(
                    f"{place.address} is no address of a machine ({error.strerror}); set MASTER_ADDR"
                ) from error
            try:
                store = self._client(owns=True)
            except RuntimeError as error:
                raise InputError(
                    f"process 0 cannot wait on port {place.port} ({_first_line(error)}); set MASTER_PORT to "
                    "another port"
                ) from error
        else:
            # PyTorch's client prints a traceback for every attempt.
            self._orphaned = place.node == 0
            while not _answers(place.address, place.port):
                self._wait(end, f"process 0 did not answer at {place.address}:{place.port}")
            self._orphaned = False
            # Another program may answer, and PyTorch's client would wait for it without end.
            made: list[Any] = []
            thread = threading.Thread(target=lambda: made.append(self._client()), daemon=True)
            thread.start()
            thread.join(min(_HANDSHAKE, max(end - time.monotonic(), 1.0)))
            if not made:
                raise InputError(
                    f"what answers at {place.address}:{place.port} is not process 0 of this run; set "
                    "MASTER_ADDR and MASTER_PORT to its address and port"
                )
            (store,) = made
        return store

    def _client(self, owns: bool = False) -> Any:
        place = self.place
        store = self._stores.get(place.port) if owns else None
        if store is None:
            seconds = timedelta(seconds=20)
            store = TCPStore(place.address, place.port, None, owns, seconds, wait_for_workers=False)
        if owns and place.started:
            self._stores[place.port] = store
        return PrefixStore(self._prefix, store)

    def _gather(self, store: Any, end: float) -> None:
        """Wait until all processes have the store."""
        ranks = range(self.place.size)
        store.set(f"joined/{self.place.rank}", "")
        while not store.check([f"joined/{rank}" for rank in ranks]):
            came = sum(store.check([f"joined/{rank}"]) for rank in ranks)
            self._wait(end, f"{came} of {len(ranks)} processes came to {self.place.address}")

    def _wait(self, end: float, what: str) -> None:
        for number, child in enumerate(self._children, 1):
            if child.poll() is not None:
                raise InputError(
                    f"process {self.place.rank + number} of the run ended before the start, with exit status "
                    f"{child.returncode}"
                )
        if os.environ.get(_STARTER, str(os.getppid())) != str(os.getppid()):
            self._orphaned = True
            raise InputError("the process that started this one ended before the processes joined")
        if time.monotonic() > end:
            raise InputError(
                f"{what} within {self._join_timeout:g} s (--join_timeout); start the run on all nodes, with "
                "the same flags and addresses that reach each other"
            )
        time.sleep(0.05)


def _command(text: str) -> Sequence[str]:
    """Return the words of a command line, or of that of this process."""
    if text:
        return [sys.executable, *shlex.split(text)[1:]]
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if module is not None:
        return [sys.executable, "-m", module.name, *sys.argv[1:]]
    if not Path(sys.argv[0]).is_file():
        raise InputError("more than one process needs a script that can be started again; write one")
    return [sys.executable, *sys.argv]


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def _interface(address: str, port: int) -> str | None:
    """Return the name of the network interface by which this machine reaches an address, on Linux."""
    with suppress(OSError, ImportError), socket.create_connection((address, port), timeout=5) as connection:
        import fcntl

        own = socket.inet_aton(connection.getsockname()[0])
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                request = name.encode()[:15].ljust(256, b"\0")
                if fcntl.ioctl(connection.fileno(), 0x8915, request)[20:24] == own:  # SIOCGIFADDR
                    return name
    return None


def _first_line(error: BaseException) -> str:
    return str(error).split(". ")[0].split("\n")[0]
