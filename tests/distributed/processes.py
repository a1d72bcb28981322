"""Several processes that train together, forked so that nothing is imported again."""

import multiprocessing
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import distributed


def in_processes(count: int, function: Callable[..., Any], *args: Any, timeout: float = 300) -> list[Any]:
    """Return what a function returns in each of several processes that form a group.

    Raises:
        AssertionError: If one of them raises an error or has not answered in time (seconds).
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(count)]
        workers = [
            context.Process(
                target=_work, args=(rank, count, f"file://{folder}/group", pipes[rank][1], function, args)
            )
            for rank in range(count)
        ]
        for worker in workers:
            worker.start()
        try:
            answers = [
                pickle.loads(end.recv_bytes()) if end.poll(timeout) else "no answer" for end, _ in pipes
            ]
        finally:
            for worker in workers:
                worker.join(1)
                worker.kill()
    for answer in answers:
        assert not isinstance(answer, str), answer
    return [answer[0] for answer in answers]


def _work(
    rank: int, count: int, address: str, pipe: Connection, function: Callable[..., Any], args: Any
) -> None:
    torch.set_num_threads(1)
    limit = timedelta(seconds=60)  # processes that do not fit together end with an error
    distributed.init_process_group("gloo", address, limit, rank=rank, world_size=count)
    try:
        answer: Any = (function(*args),)
    except BaseException:
        answer = traceback.format_exc()
    pipe.send_bytes(pickle.dumps(answer))
    if not isinstance(answer, str):  # otherwise others may be waiting
        distributed.destroy_process_group()
