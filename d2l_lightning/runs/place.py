"""The place of a process among those of a run: from the flags, and from what started the process."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2l_lightning.errors import InputError
from d2l_lightning.runs.trainer_flags import given_flags, make_trainer


@dataclass(frozen=True)
class Place:
    """The place of a process.

    Attributes:
        size: The number of processes.
        rank: The number of this process, from 0.
        num_nodes: The number of nodes (machines).
        node: The number of the node, from 0.
        local_size: The number of processes on each node.
        local_rank: The number of this process on its node, from 0.
        started: Whether another program started all processes: torchrun, SLURM or process 0 of the node.
        address: The address of node 0.
        port: The port on which process 0 waits for the others.
        gpu: The number of this process's GPU of NVIDIA's; None if there is none.
    """

    size: int = 1
    rank: int = 0
    num_nodes: int = 1
    node: int = 0
    local_size: int = 1
    local_rank: int = 0
    started: bool = False
    address: str = "127.0.0.1"
    port: int = 0
    gpu: int | None = None


def place_of(flags: Mapping[str, Any]) -> Place:
    """Return the place of this process in a run with these flags of the Trainer.

    Raises:
        InputError: If the flags do not suit the machine, or the variables of torchrun or SLURM.
    """
    outside = _outside()
    alone = outside is None or outside.size == 1
    if alone and not given_flags(flags).keys() & {"devices", "num_nodes", "strategy"}:
        return Place()
    for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK"):
        _number(name, least=0)
    _number("MASTER_PORT", most=65535)
    trainer: Any = make_trainer(Path.cwd(), [], **{**flags, "profiler": None})
    nodes, local_size = trainer.num_nodes, trainer.num_devices
    if outside is not None:
        outside.require(local_size, nodes)
    if trainer.world_size == 1:
        return Place()
    if flags.get("profiler"):
        raise InputError(f"--profiler is for one process, not for {trainer.world_size}; take --devices 1")
    environment = trainer.strategy.cluster_environment
    started = environment.creates_processes_externally
    if nodes > 1 and not started:
        for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
            if not os.environ.get(name):
                raise InputError(
                    f"--num_nodes {nodes} needs the environment variable {name} on every node, or torchrun, "
                    "or SLURM's srun"
                )
    if started and outside is None and not _started_by_hand():
        raise InputError(
            "LOCAL_RANK is set, as in a process that another program started, but MASTER_PORT is not; unset "
            "LOCAL_RANK, or set MASTER_ADDR and MASTER_PORT too"
        )
    rank, node, local_rank = environment.global_rank(), environment.node_rank(), environment.local_rank()
    if not (node < nodes and local_rank < local_size and rank < trainer.world_size):
        raise InputError(
            f"this is process {rank}, process {local_rank} of node {node}, but --num_nodes is {nodes} and "
            f"--devices {local_size}; set NODE_RANK, LOCAL_RANK or SLURM_PROCID to a smaller number"
        )
    device = trainer.strategy.root_device
    if device.type == "cpu" and local_size > (os.cpu_count() or local_size):
        raise InputError(f"--devices {local_size} is more than the CPUs of this machine ({os.cpu_count()})")
    return Place(
        *(trainer.world_size, rank, nodes, node, local_size, local_rank, started),
        *(environment.main_address, environment.main_port),
        gpu=device.index if device.type == "cuda" else None,
    )


@contextmanager
def one_voice() -> Iterator[None]:
    """A context in which all processes raise the same InputErrors; the first of each node prints them.

    The others exit with status 2.
    """
    try:
        yield
    except InputError:
        on_slurm = _by_slurm() and os.environ.get("SLURM_LOCALID", "0") != "0"
        if on_slurm or (_started_by_hand() and os.environ["LOCAL_RANK"] != "0"):
            raise SystemExit(2) from None
        raise


@dataclass(frozen=True)
class _Outside:
    """The processes that another program started."""

    starter: str
    size: int
    nodes: int

    def require(self, devices: int, nodes: int) -> None:
        """Raise an InputError unless as many processes were started as the flags ask for."""
        if (self.size, self.nodes) == (devices * nodes, nodes):
            return
        raise InputError(
            f"{self.starter} started {_count(self.size, 'process')} on {_count(self.nodes, 'node')}, but "
            f"--devices and --num_nodes ask for {_count(devices, 'process')} on {_count(nodes, 'node')}; "
            f"give --devices {self.size // self.nodes} --num_nodes {self.nodes}, or start as many processes"
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 'es' if what.endswith('s') else 's'}"


def _outside() -> _Outside | None:
    """Return the processes that torchrun or SLURM started; None if neither did."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _Outside("torchrun", _number("WORLD_SIZE"), _number("GROUP_WORLD_SIZE"))
    if not _by_slurm():
        return None
    size, nodes = _number("SLURM_NTASKS"), _number("SLURM_NNODES")
    for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"):
        if name not in os.environ:
            raise InputError(f"the environment variable {name} is not set; start the processes with srun")
        _number(name, least=0)
    if not os.environ.get("MASTER_PORT"):  # Lightning takes the end of this number
        _number("SLURM_JOB_ID")
    if size % nodes != 0:
        raise InputError(f"SLURM started {size} processes on {nodes} nodes; start as many on each of them")
    os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(size // nodes))  # srun sets it only if the user does
    return _Outside("SLURM", size, nodes)


def _by_slurm() -> bool:
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return {"SLURM_PROCID", "SLURM_NTASKS"} <= os.environ.keys() and not interactive


def _started_by_hand() -> bool:
    """Return whether the variables are there that Lightning, torchrun and users give to each process."""
    return {"LOCAL_RANK", "MASTER_PORT"} <= os.environ.keys()


def _number(variable: str, least: int = 1, most: float = math.inf) -> int:
    """Return the value of an environment variable, 1 if it is not set; raise an InputError if it is wrong."""
    value = os.environ.get(variable, "1")
    if not value.isdecimal() or not least <= int(value) <= most:
        to = "" if most == math.inf else f" to {most}"
        raise InputError(
            f"the environment variable {variable} must be a number from {least}{to or ' on'}, not {value!r}"
        )
    return int(value)
