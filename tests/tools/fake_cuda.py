"""CUDA graphs on the CPU: what is captured is recorded and carried out again at each replay."""

from contextlib import nullcontext
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from d2l_lightning.ensemble.cuda_graph import CudaGraph


class Graph:
    """Takes the place of ``torch.cuda.CUDAGraph``."""

    captures = 0

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def replay(self) -> None:
        """Carry out the operations again; the results are written to the memory of those of the capture."""
        for func, args, kwargs, kept in self.operations:
            for old, new in zip(kept, tree_leaves(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Capture(TorchDispatchMode):
    """Takes the place of ``torch.cuda.graph``: records operations, and leaves everything as it was."""

    def __init__(self, graph: Graph, capture_error_mode: str = "global") -> None:
        super().__init__()
        self.graph = graph
        self.before: list[tuple[Tensor, Tensor]] = []
        Graph.captures += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record an operation."""
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            self.before += [(x, x.clone()) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        result = func(*args, **kwargs)
        self.graph.operations.append((func, args, kwargs, tree_leaves(result)))
        return result

    def __exit__(self, *error: Any) -> None:
        """Undo what the operations did: a GPU has carried out none of them."""
        super().__exit__(*error)
        results = [x for *_, kept in self.graph.operations for x in kept]
        made = {id(x) for x in results}
        used = (x for _, args, kwargs, _ in self.graph.operations for x in tree_leaves((args, kwargs)))
        given = {_memory(x) for x in used if isinstance(x, Tensor) and id(x) not in made}
        for x in results:
            if x.is_floating_point() and 0 not in x.stride() and _memory(x) not in given:
                x.fill_(torch.nan)
        for x, value in reversed(self.before):
            x.copy_(value)


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def use_fake_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU stand for a GPU where CUDA graphs are made."""
    monkeypatch.setattr(Graph, "captures", 0)
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, mock.MagicMock())
    for name in ("stream", "device"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(CudaGraph, "obstacle", lambda *_: None)
