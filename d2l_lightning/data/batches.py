"""Data in memory: the rows of each batch, as a function of seed and epoch, and the loaders of batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

from d2l_lightning.errors import InputError, require_not_negative, require_positive

# Rows in a batch of an evaluation.
EVALUATION_BATCH = 2000
_STREAM = 7  # the purpose of a generator of a stream's orders


def epoch_generator(seed: int, epoch: int, *purpose: int) -> torch.Generator:
    """Return a generator that is different for each seed, epoch and purpose.

    Raises:
        InputError: If the seed is negative.
    """
    require_not_negative(seed=seed)
    # With their sum, seed 0 in epoch 1 would have the order of seed 1 in epoch 0.
    state = np.random.SeedSequence((seed, epoch, *purpose)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


def data_generator(seed: int) -> torch.Generator:
    """Return the generator of a data set's random numbers, which differ from those of every epoch's order."""
    return epoch_generator(seed, 0, 1)


def require_indices(**values: Tensor) -> None:
    """Raise an InputError unless tensors are vectors of integers; a mask would select rows 0 and 1."""
    for name, rows in values.items():
        if rows.ndim != 1 or rows.is_floating_point() or rows.dtype == torch.bool:
            what = f"{rows.dtype} of shape {tuple(rows.shape)}"
            raise InputError(
                f"{name} must be a vector of indices, not {what}; mask.nonzero().squeeze(1) is one"
            )


def require_ascending(indices: Sequence[int], count: int) -> None:
    """Raise an InputError unless these are ascending indices from 0 to ``count - 1``, at least one."""
    kept = list(indices)
    if not kept or kept != sorted({*kept}) or not 0 <= kept[0] <= kept[-1] < count:
        raise InputError(
            f"indices must be different numbers from 0 to {count - 1} in ascending order, not {kept}"
        )


def require_streams(streams: Sequence[int], num_members: int) -> int:
    """Return the number of streams; raise an InputError unless each member has one, and all are used."""
    if len(streams) != num_members:
        raise InputError(f"{len(streams)} streams do not go with {num_members} members")
    if {*streams} != {*range(max(streams) + 1)}:
        raise InputError(f"streams must be numbers from 0 on without a gap, not {sorted({*streams})}")
    return max(streams) + 1


def num_batches(rows: int, batch_size: int, drop_last: bool) -> int:
    """Return the number of batches of so many rows; a single batch is never dropped."""
    return max(rows // batch_size, min(rows, 1)) if drop_last else -(-rows // batch_size)


class ShuffledBatches(Sampler[Tensor]):
    """Yields index tensors of shape ``(B,)`` that cover all rows once an epoch; the last may be shorter.

    As the ``sampler`` of a ``DataLoader`` with ``batch_size=None``, it makes each batch one gather. Lightning
    calls ``set_epoch``. Without such a call, each iteration has the order of the next epoch, from epoch 0 on.

    Args:
        rows: The rows, shape ``(n,)``, or their number n if they are the first n.
        batch_size: B.
        seed: Seed of the orders.
        drop_last: Whether the last rows of an epoch are left out if they are fewer than B. If there are fewer
            than B rows in all, they make a batch.
        shuffle: Whether each epoch has an order of its own; if not, the rows come as they are given.

    Attributes:
        device: The device of the index tensors. An epoch's order is drawn on the CPU and moved there once.
    """

    def __init__(
        self, rows: Tensor | int, batch_size: int, seed: int, drop_last: bool = False, shuffle: bool = True
    ) -> None:
        require_positive(batch_size=batch_size)
        self.rows = torch.arange(rows) if isinstance(rows, int) else rows
        require_indices(rows=self.rows)
        self.batch_size, self.seed, self.drop_last, self.epoch = batch_size, seed, drop_last, 0
        self.shuffle = shuffle
        self.device = self.rows.device

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return num_batches(len(self.rows), self.batch_size, self.drop_last)

    def __iter__(self) -> Iterator[Tensor]:
        # Lazy, because a fit that is resumed creates the iterator before it sets the epoch.
        order = self.rows
        if self.shuffle:
            keys = torch.rand(len(order), generator=epoch_generator(self.seed, self.epoch))
            order = order[keys.argsort()]
        self.epoch += 1
        order = order.to(self.device)
        yield from order.split(self.batch_size)[: len(self)]


@dataclass
class _Group:
    """Members with equally many steps, which draw their orders together."""

    members: Tensor
    size: int  # the greatest number of rows of a member
    count: int  # the number of members that there were at first
    drawn: Tensor  # the place of each member among them


class StackedBatches(Sampler[tuple[Tensor, Tensor]]):
    """Yields for each step the rows of each member's batch and their weights, both of shape ``(K, B)``.

    Every member has all its rows once an epoch, in an order of its own. A member takes as many steps as its
    rows fill batches; after them the member is idle, and its batches have only rows of weight 0. So have the
    places of a member's last batch that no row fills. Epochs go on as in ``ShuffledBatches``.

    Members with equally many steps draw their orders together: an order does not depend on members with more
    or fewer steps. The first of them has the order of ``ShuffledBatches`` if none of them has more rows.

    Args:
        member_rows: The rows of each member: K index tensors.
        batch_size: B, the greatest number of rows of a member in a step.
        seed: Seed of the orders.
        same_order: Whether members with the same rows take them in the same order.
        drop_last: Whether the last rows of a member in an epoch are left out if they are fewer than B. If it
            has fewer than B rows in all, they make a batch.
        streams: For each member, the number of its stream of random numbers, if given. An order is then a
            function of seed, epoch, stream and the member's rows alone.
        shuffle: Whether each epoch has orders of its own; if not, members take their rows as they are given.

    Attributes:
        distinct: The first of the members that have the same order.
        source: For each member, the place in ``distinct`` of the member that has its order.
        steps: The number of steps of each member in an epoch. A member whose number is n takes part in the
            first n steps of an epoch, whatever the weights of its rows.

    Raises:
        InputError: If the batch size is not positive or a member has no rows.
    """

    def __init__(
        self,
        member_rows: Sequence[Tensor],
        batch_size: int,
        seed: int,
        same_order: bool = False,
        drop_last: bool = False,
        streams: Sequence[int] | None = None,
        shuffle: bool = True,
    ) -> None:
        require_positive(batch_size=batch_size)
        self.seed, self.epoch, self.same_order, self.shuffle = seed, 0, same_order, shuffle
        self.streams = None if streams is None else list(streams)
        for k, rows in enumerate(member_rows, start=1):
            require_indices(**{f"rows of member {k}": rows})
            if not len(rows):
                raise InputError(f"member {k} has no rows to train on")
        sizes = torch.tensor([len(rows) for rows in member_rows])
        self.steps = [num_batches(len(rows), batch_size, drop_last) for rows in member_rows]
        self.rows = torch.nn.utils.rnn.pad_sequence(list(member_rows), batch_first=True)
        self.padding = torch.arange(self.rows.shape[1]) >= sizes[:, None]
        # The members with equally many steps, and the greatest number of rows among them.
        alike = [[k for k, n in enumerate(self.steps) if n == steps] for steps in sorted(set(self.steps))]
        self.groups = [
            _Group(torch.tensor(members), int(sizes[members].max()), len(members), torch.arange(len(members)))
            for members in alike
        ]
        self.num_steps = max(self.steps)
        # places[k, s * B + b]: the index of the shuffled row of member k at position b of step s.
        batch_size = min(batch_size, int(sizes.max()))
        self.places = torch.arange(len(self) * batch_size).repeat(len(sizes), 1)
        taken = torch.minimum(sizes, torch.tensor(self.steps) * batch_size)
        filled = self.places < taken[:, None]
        self.places[~filled] = 0
        self.weight = filled.float().view(len(sizes), len(self), batch_size).transpose(0, 1).contiguous()
        self._find_distinct()

    def _find_distinct(self) -> None:
        firsts: dict[Any, int] = {}
        alone = self.streams is None
        keys = (
            k if alone else (self.streams[k], rows[~padding].numpy().tobytes())  # type: ignore[index]
            for k, (rows, padding) in enumerate(zip(self.rows, self.padding, strict=True))
        )
        first = [firsts.setdefault(key, k) for k, key in enumerate(keys)]
        places = {k: place for place, k in enumerate(firsts.values())}
        self.distinct = torch.tensor(list(places))
        self.source = torch.tensor([places[k] for k in first])

    def keep(self, indices: Sequence[int]) -> None:
        """Drop all members but these, in ascending order; the orders of the others and ``len`` stay."""
        kept = torch.tensor(list(indices))
        self.rows, self.padding, self.places = self.rows[kept], self.padding[kept], self.places[kept]
        self.weight = self.weight[:, kept]
        self.steps = [self.steps[k] for k in indices]
        if self.streams is not None:
            self.streams = [self.streams[k] for k in indices]
        groups = []
        for group in self.groups:
            drawn = torch.isin(group.members, kept)
            members = torch.searchsorted(kept, group.members[drawn])
            if len(members):
                groups.append(_Group(members, group.size, group.count, group.drawn[drawn]))
        self.groups = groups
        self._find_distinct()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next orders."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_steps

    def _orders(self, epoch: int) -> Tensor:
        """Return the rows of each member in their order in an epoch, then its padding."""
        if not self.shuffle:
            return self.rows
        if self.streams is not None:
            return self._orders_of_streams(self.streams, epoch)
        orders = self.rows.clone()
        for group in self.groups:
            members, size = group.members, group.size
            # Sorting random keys permutes the rows of all members in one operation; padding sorts last.
            generator = epoch_generator(self.seed, epoch)
            if self.same_order:
                keys = torch.rand(1, size, generator=generator)
            else:
                keys = torch.rand(group.count, size, generator=generator)[group.drawn]
            order = keys.masked_fill(self.padding[members, :size], 2.0).argsort(dim=1)
            orders[members, :size] = self.rows[members, :size].gather(1, order)
        return orders

    def _orders_of_streams(self, streams: Sequence[int], epoch: int) -> Tensor:
        # A longer row of numbers of a generator starts with the shorter one.
        width = self.rows.shape[1]
        keys = torch.stack(
            [
                torch.rand(width, generator=epoch_generator(self.seed, epoch, _STREAM, streams[k]))
                for k in self.distinct.tolist()
            ]
        )
        order = keys.masked_fill(self.padding[self.distinct], 2.0).argsort(dim=1, stable=True)
        return self.rows[self.distinct].gather(1, order).index_select(0, self.source)

    def next_epoch(self) -> Tensor:
        """Return the rows of all steps of the next epoch, shape ``(steps, K, B)``."""
        orders = self._orders(self.epoch)
        self.epoch += 1
        return orders.gather(1, self.places).view(len(orders), len(self), -1).transpose(0, 1).contiguous()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.next_epoch().unbind(), self.weight.unbind(), strict=True)


class RowLoader:
    """Yields batches of rows that are gathered from tensors in memory.

    A ``DataLoader`` would need 30 microseconds more for each step. Lightning sets the sampler's epoch.

    Args:
        batches: The rows of each batch: index tensors, or a sampler that depends on the epoch.
        gather: Returns the batch with these rows.

    Attributes:
        reuse: Whether each batch is written over the one before. This saves time where a batch has megabytes,
            but a batch is only valid until the next. The function ``gather`` gets ``reuse=True`` then.
    """

    reuse = False

    def __init__(self, batches: Any, gather: Callable[..., tuple[Tensor, ...]]) -> None:
        self.batches, self.gather = batches, gather
        if hasattr(batches, "set_epoch"):
            self.sampler = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return map(partial(self.gather, reuse=True) if self.reuse else self.gather, self.batches)


def gather_from(*tensors: Tensor) -> Callable[..., tuple[Tensor, ...]]:
    """Return a function that gathers rows of the tensors, on their device.

    With ``reuse=True``, the function returns the same memory at each call.
    """
    buffers: list[Tensor] = []

    def gather(rows: Tensor, reuse: bool = False) -> tuple[Tensor, ...]:
        rows = rows.to(tensors[0].device)
        if not reuse:  # several times faster than indexing
            return tuple(tensor.index_select(0, rows) for tensor in tensors)
        if not buffers or len(buffers[0]) < len(rows):
            buffers[:] = [tensor.new_empty(len(rows), *tensor.shape[1:]) for tensor in tensors]
        return tuple(
            torch.index_select(tensor, 0, rows, out=buffer[: len(rows)])
            for tensor, buffer in zip(tensors, buffers, strict=True)
        )

    return gather


class GeneratedBatches:
    """Yields the batches of a generator function, which is called for each epoch.

    Args:
        generate: Returns a new iterator over the batches of an epoch.
    """

    def __init__(self, generate: Callable[[], Iterator[Any]]) -> None:
        self.generate = generate

    def __iter__(self) -> Iterator[Any]:
        return self.generate()


def shuffled_batches(
    owner: LightningDataModule,
    rows: Tensor | int,
    batch_size: int,
    seed: int,
    drop_last: bool = False,
    shuffle: bool = True,
) -> ShuffledBatches:
    """Return the shuffled batches of a data module, whose epochs go on after those of its last ones."""
    batches = ShuffledBatches(rows, batch_size, seed, drop_last, shuffle)
    last = vars(owner).get("_shuffled_batches")
    batches.set_epoch(0 if last is None else last.epoch)
    vars(owner)["_shuffled_batches"] = batches
    return batches


def shuffled_loader(
    owner: LightningDataModule,
    batch_size: int,
    seed: int,
    *tensors: Tensor,
    drop_last: bool = False,
    shuffle: bool = True,
) -> DataLoader[Any]:
    """Return the loader of a data module: shuffled batches of the tensors' rows, on its Trainer's device."""
    tensors = on_device(owner, tensors)
    batches = shuffled_batches(owner, len(tensors[0]), batch_size, seed, drop_last, shuffle)
    batches.device = tensors[0].device
    return DataLoader(TensorDataset(*tensors), batch_size=None, sampler=batches)


def loader_of(owner: LightningDataModule, *batches: Any) -> DataLoader[Any]:
    """Return the loader of a data module: these batches, in this order, on its Trainer's device."""
    return DataLoader(cast(Any, on_device(owner, batches)), batch_size=None)


def on_device(owner: LightningDataModule, tensors: Any) -> Any:
    """Return tensors, or a collection of them, on the device of a data module's Trainer, if it has one."""
    trainer = owner.trainer
    return tensors if trainer is None else move_data_to_device(tensors, trainer.strategy.root_device)


class InMemoryData(LightningDataModule):
    """Data that are read or generated once, by a subclass's ``_load``, and stay in memory.

    It is an InputError if an argument is out of its range, or in ``setup`` if a file cannot be used.
    """

    _ready = False

    def setup(self, stage: str | None = None) -> None:
        """Read or generate the data; a second call does nothing."""
        if not self._ready:
            self._load()
            self._ready = True

    def _load(self) -> None:
        """Set the attributes."""
