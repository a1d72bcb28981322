"""A graph of operations as a CUDA graph: a GPU carries out all its kernels at one call from Python."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, Precision
from torch import Tensor, fx

from d2l_lightning.errors import InputError

# Whether steps are CUDA graphs; with ``auto``, where they can be.
CudaGraphs = bool | Literal["auto"]
_WARM_UP = 3  # calls before the capture, in which libraries allocate their memory
_REFUSAL = "cuda_graphs does not go with"


class CudaGraph:
    """Losses and gradients of members as a CUDA graph.

    The parameters and buffers are read and changed where they are; a batch is copied to memory of the graph.
    Random numbers are those of the default generator, as without a CUDA graph. The gradients are in memory of
    the graph, and valid until the next call.

    Args:
        graph: The operations. They do not wait for the device.
        state: The parameters and buffers.
        batch: A batch of the members.

    Raises:
        InputError: If the operations cannot be captured.
    """

    def __init__(self, graph: fx.GraphModule, state: Sequence[Tensor], batch: Sequence[Tensor]) -> None:
        self._batch, self._addresses = [x.clone() for x in batch], [x.data_ptr() for x in state]
        self._graph = torch.cuda.CUDAGraph()
        buffers = [x for x in state if not x.requires_grad]
        before = [x.clone() for x in buffers]
        device, inputs = state[0].device, (*state, *self._batch)
        devices = [device] if device.type == "cuda" else []
        try:
            # The warm-up uses random numbers and changes buffers. The capture carries out nothing.
            with torch.no_grad(), torch.cuda.device(device), torch.random.fork_rng(devices):
                stream = torch.cuda.Stream()
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    for _ in range(_WARM_UP):
                        graph.forward(*inputs)
                torch.cuda.current_stream().wait_stream(stream)
                for buffer, value in zip(buffers, before, strict=True):
                    buffer.copy_(value)
                # Other threads may ask the device for something meanwhile, such as one of NCCL's.
                with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                    self._results = graph.forward(*inputs)
        except RuntimeError as error:
            raise InputError(f"{_REFUSAL} this model; {str(error).splitlines()[0]}") from error

    @staticmethod
    def require(trainer: Any, has_hooks: bool) -> None:
        """Raise an InputError where the steps of a fit cannot be a CUDA graph.

        Args:
            trainer: The Trainer of the fit.
            has_hooks: Whether a member has hooks.
        """
        reason = CudaGraph.obstacle(trainer, has_hooks)
        if reason is not None:
            raise InputError(f"{_REFUSAL} {reason}")

    @staticmethod
    def obstacle(trainer: Any, has_hooks: bool) -> str | None:
        """Return why the steps of a fit cannot be a CUDA graph; None if they may be one."""
        device = trainer.strategy.root_device
        if device.type != "cuda":
            return f"a fit on the device {device}; it needs a GPU of NVIDIA or AMD"
        if type(trainer.precision_plugin) not in (Precision, DoublePrecision, HalfPrecision):
            return f"the precision {trainer.precision}; take 32-true, or leave it out"
        return "members that have hooks; remove them, or leave it out" if has_hooks else None

    def holds(self, state: Sequence[Tensor]) -> bool:
        """Return whether the parameters and buffers are where they were at the capture."""
        return [x.data_ptr() for x in state] == self._addresses

    def forward(self, *inputs: Tensor) -> tuple[Any, ...]:
        """Return the losses, in memory of their own, and the gradients, given the state and a batch."""
        torch._foreach_copy_(self._batch, list(inputs[len(self._addresses) :]))
        self._graph.replay()
        losses, *gradients = self._results
        return losses.clone(), *gradients
