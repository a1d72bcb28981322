"""The memory of tensors that are alive at the same time, on any device."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """A context that counts the bytes of the tensors that are created in it, as long as they are alive.

    It counts the results of PyTorch's operations, not their internal buffers.

    Attributes:
        now: Bytes alive.
        peak: The greatest number of bytes that were alive at the same time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and count the tensors that it creates."""
        before = {t.untyped_storage() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        returned = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(returned):
            storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else None
            if storage is not None and storage not in before and storage not in self._known:
                self._known.add(storage)
                weakref.finalize(storage, self._freed, storage.nbytes())
                self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        return returned

    def _freed(self, num_bytes: int) -> None:
        self.now -= num_bytes


def memory_of(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], X: Tensor, y: Tensor
) -> dict[str, int]:
    """Return the memory of a model in bytes, for features X and targets y, both of shape ``(B, ...)``.

    It has ``parameters``, and the memory beside parameters and batch: the peak of a ``prediction``, the peak
    of a ``training`` step, and the ``intermediates`` that forward propagation keeps for backpropagation. The
    loss of predictions and targets is a scalar.
    """
    with torch.no_grad(), LiveMemory() as predicting:
        model(X)
    with LiveMemory() as training:
        value = loss(model(X), y)
        intermediates = training.now
        value.backward()
        del value
    memory = {"prediction": predicting.peak, "intermediates": intermediates, "training": training.peak}
    return {**memory, "parameters": sum(p.nbytes for p in model.parameters())}


def memory_of_parts(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], X: Tensor, y: Tensor, num_parts: int
) -> tuple[int, Tensor]:
    """Return the peak memory of a gradient from parts of a batch, in bytes, and the gradient.

    The batch is split into parts, whose gradients are accumulated. The loss is a mean over rows, so each part
    counts by its share of the rows. The memory does not include parameters and batch. The gradient of all
    parameters has shape ``(p,)``.
    """
    model.zero_grad(set_to_none=True)
    with LiveMemory() as memory:
        for part, targets in zip(X.tensor_split(num_parts), y.tensor_split(num_parts), strict=True):
            (loss(model(part), targets) * (len(targets) / len(y))).backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return memory.peak, torch.cat(gradients)
