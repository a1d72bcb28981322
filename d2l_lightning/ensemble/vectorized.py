"""The methods of a module, called for K members at once."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from d2l_lightning.distributed.draws import SharedDraws
from d2l_lightning.distributed.shares import Share
from d2l_lightning.ensemble.streams import Streams
from d2l_lightning.errors import InputError
from d2l_lightning.functional.precision import without_autocast


class Vectorized:
    """Calls methods of a module whose parameters and buffers have the members as their first dimension.

    Args:
        module: The module.
        streams: Draws the random numbers of a module in training, if members share streams of them.
        share: The rows of a batch that this process computes; None for all.
    """

    def __init__(self, module: nn.Module, streams: Streams | None = None, share: Share | None = None) -> None:
        self.module, self.streams, self.share = module, streams, share
        # For each of the parameters and buffers, the dictionary that holds it and its key.
        self.slots: list[tuple[dict[str, Any], str]] = [
            (tensors, name)
            for owner in module.modules()
            for tensors in (owner._parameters, owner._buffers)
            for name, tensor in tensors.items()
            if tensor is not None
        ]
        # A tensor that several modules share is in several slots; for each slot, its index in `distinct`.
        indices: dict[int, int] = {}
        self._index = [indices.setdefault(id(tensor), len(indices)) for tensor in self.state]
        self._distinct = [self.slots[self._index.index(index)] for index in range(len(indices))]

    @property
    def state(self) -> list[Tensor]:
        """The parameters and buffers by slot."""
        return [owner[name] for owner, name in self.slots]

    @property
    def distinct(self) -> list[Tensor]:
        """The parameters and buffers, each once."""
        return [owner[name] for owner, name in self._distinct]

    def put(self, state: Sequence[Tensor]) -> None:
        """Replace the parameters and buffers."""
        for (owner, name), value in zip(self.slots, state, strict=True):
            owner[name] = value

    def call(self, method: str, state: Sequence[Tensor], *args: Any) -> Any:
        """Call a method of the member with these parameters and buffers; the caller puts the others back.

        Raises:
            InputError: If the method replaces one of them, because its new value would be lost.
        """
        self.put(state)
        result = getattr(self.module, method)(*args)
        for (owner, name), value in zip(self.slots, state, strict=True):
            if owner[name] is not value:
                raise InputError(
                    f"{name} is replaced in {method}; change it in place, such as by {name}.copy_()"
                )
        return result

    def each(
        self, method: str, in_dims: tuple[int | None, ...], *args: Any, state: Sequence[Tensor] | None = None
    ) -> Any:
        """Call a method of every member; arguments whose ``in_dims`` is 0 have the leading dimension.

        Args:
            method: The name of the method.
            in_dims: For each argument, whether members have their own (0) or share it (None).
            args: The arguments.
            state: Parameters and buffers to use instead of the module's own.
        """
        own = self.state
        state = own if state is None else state

        def of_member(*state_and_args: Any) -> Any:
            return self.call(method, state_and_args[: len(own)], *state_and_args[len(own) :])

        # torch.func.functional_call does the same, but takes twice as long for a small model.
        try:
            in_dims = (0,) * len(own) + in_dims
            streams = self.streams if self.module.training else None
            shared = None if self.share is None else SharedDraws(self.share, dim=1)
            with shared or nullcontext(), streams or nullcontext():
                return torch.vmap(of_member, in_dims, randomness="different")(*state, *args)
        finally:
            self.put(own)

    def losses_and_gradients(
        self, distinct: Sequence[Tensor], batch: Sequence[Tensor], scales: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        """Return the losses of the members, shape ``(K,)``, and the gradients of their sum.

        Args:
            distinct: The parameters and buffers, each once. Those that require a gradient get one.
            batch: The batch of each member.
            scales: The factors of the members' gradients, shape ``(K,)``, against underflow.
        """
        leaves = [x.detach().requires_grad_() if x.requires_grad else x for x in distinct]
        state = [leaves[index] for index in self._index]
        losses = self.each("training_loss", (0,) * len(batch), *batch, state=state)
        trained = [leaf for leaf in leaves if leaf.requires_grad]
        scaled = losses if scales is None else losses * scales
        with without_autocast(losses):
            return losses.detach(), *torch.autograd.grad(scaled.sum(), trained, allow_unused=True)


class Single(Vectorized):
    """Calls the methods of a module that is trained alone."""

    def each(
        self, method: str, in_dims: tuple[int | None, ...], *args: Any, state: Sequence[Tensor] | None = None
    ) -> Any:
        """Call a method of the module; see ``Vectorized.each``."""
        own = self.state
        try:
            return self.call(method, own if state is None else state, *args)
        finally:
            self.put(own)
