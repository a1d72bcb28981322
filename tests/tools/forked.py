"""An experiment in several processes, forked so that nothing is imported again."""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from d2l_lightning.runs.cli import run_experiment
from tests.conftest import load_experiment


@dataclass
class Ended:
    """How a process ended: its exit status, or minus the signal that killed it, and what it printed."""

    status: int | None
    out: str
    err: str


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def fork_experiment(
    name: str,
    folder: Path,
    flags: Sequence[str],
    count: int = 2,
    during: Callable[[Sequence[BaseProcess]], None] | None = None,
    seconds: float = 120,
    per_process: Sequence[dict[str, str]] = (),
) -> list[Ended]:
    """Run an experiment on the CPU in processes with the variables that Lightning reads.

    Args:
        name: The experiment.
        folder: The folder for files with what the processes print.
        flags: The flags beside ``--accelerator cpu``.
        count: The number of processes.
        during: Is called with the processes while they run.
        seconds: The longest time until all have ended.
        per_process: Variables of each process instead of those of processes on one machine.
    """
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    own = per_process or [{**variables, "LOCAL_RANK": str(rank)} for rank in range(count)]
    main = load_experiment(name).main
    outputs = [folder / f"output_{rank}" for rank in range(count)]
    context = multiprocessing.get_context("fork")
    arguments = ["--accelerator", "cpu", *flags]
    processes = [
        context.Process(target=_run, args=(main, arguments, own[rank], outputs[rank]))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    try:
        if during is not None:
            during(processes)
        end = time.monotonic() + seconds
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
        assert all(process.exitcode is not None for process in processes), "a process did not end"
    finally:
        for process in processes:
            process.kill()
            process.join()
    texts = [[path.with_suffix(kind).read_text() for kind in (".out", ".err")] for path in outputs]
    return [Ended(process.exitcode, *text) for process, text in zip(processes, texts, strict=True)]


def _run(main: Callable[..., None], flags: Sequence[str], variables: dict[str, str], output: Path) -> None:
    sys.stdout, sys.stderr = (output.with_suffix(kind).open("w", buffering=1) for kind in (".out", ".err"))
    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
        os.dup2(stream.fileno(), descriptor)
    torch.set_num_threads(1)
    os.environ.update({"OMP_NUM_THREADS": "1", **variables})
    run_experiment(main, flags)
