"""Random numbers that several members share: a member gets those of its stream, whoever else there is."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from d2l_lightning.errors import InputError

aten = torch.ops.aten
_BY_SHAPE = (aten.rand, aten.randn, aten.randint)
_LIKE = (aten.rand_like, aten.randn_like, aten.randint_like, aten.bernoulli)
_IN_PLACE = (
    *(aten.bernoulli_, aten.uniform_, aten.normal_, aten.exponential_, aten.log_normal_),
    *(aten.cauchy_, aten.geometric_, aten.random_),
)


class Streams(TorchDispatchMode):
    """Draws random numbers for R streams, and copies them to the members of each.

    It is for operations on tensors whose first dimension is that of the members, as they are below ``vmap``.

    Args:
        of_members: The stream of each member, from 0 to R - 1.
        count: R. It stays as it is when members are dropped, and so do the numbers of the others.
    """

    def __init__(self, of_members: Sequence[int], count: int) -> None:
        super().__init__()
        self.of_members, self.count = list(of_members), count
        self._index: dict[torch.device, Tensor] = {}

    @property
    def settings(self) -> list[int]:
        """The number of the setting of each member: a new one starts where a stream comes again."""
        settings, seen = [0], set[int]()
        for stream in self.of_members:
            settings.append(settings[-1] + (stream in seen))
            seen = {stream} | (set() if stream in seen else seen)
        return settings[1:]

    def keep(self, indices: Sequence[int]) -> "Streams":
        """Return the streams of these members."""
        return Streams([self.of_members[k] for k in indices], self.count)

    def index(self, device: torch.device) -> Tensor:
        """Return the stream of each member on a device."""
        if device not in self._index:
            self._index[device] = torch.tensor(self.of_members, device=device)
        return self._index[device]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Carry out an operation; random ones once for each stream."""
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        if func is aten.native_dropout.default:
            return self._dropout(*args)
        packet = func.overloadpacket
        # The shape of what is drawn, or a tensor of this shape.
        place = next((i for i, arg in enumerate(args) if isinstance(arg, (list, tuple, Tensor))), 0)
        before, (first, *others) = args[:place], args[place:]
        shape = [] if isinstance(first, (int, float)) else list(getattr(first, "shape", first))
        if shape[:1] != [len(self.of_members)] or any(isinstance(x, Tensor) for x in others):
            raise _refusal(func)
        one = [self.count, *shape[1:]]
        if packet in _BY_SHAPE:
            return self._copies(func(*before, one, *others, **kwargs))
        if packet is aten.bernoulli and not others:  # the probabilities are those of the members
            return (self._copies(_uniform(one, first)) < first).to(first.dtype)
        if packet in _LIKE:
            return self._copies(func(first.new_empty(one), *others, **kwargs))
        if packet in _IN_PLACE:
            return first.copy_(self._copies(func(first.new_empty(one), *others, **kwargs)))
        raise _refusal(func)

    def _copies(self, drawn: Tensor) -> Tensor:
        return drawn.index_select(0, self.index(drawn.device))

    def _dropout(self, X: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
        """Return the units that dropout keeps, and their mask."""
        if train is False or len(X) != len(self.of_members):
            raise _refusal(aten.native_dropout)
        kept = self._copies(_uniform([self.count, *X.shape[1:]], X)) >= p
        return X * kept * (1 / (1 - p) if p < 1 else 0.0), kept


def _uniform(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return numbers from [0, 1); those of half precision are too few to compare with a probability."""
    return torch.rand(shape, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


def _refusal(func: Any) -> InputError:
    return InputError(
        f"members that share streams of random numbers cannot draw them by {func}; draw with torch.rand, "
        "torch.randn or dropout, or leave out streams"
    )
