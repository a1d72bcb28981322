"""Data in memory: the rows of each batch, as a function of seed and epoch, and the loaders of batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

from d2l_lightning.errors import InputError, require_positive

# Rows in a batch of an evaluation.
EVALUATION_BATCH = 2000


def epoch_generator(seed: int, epoch: int, *purpose: int) -> torch.Generator:
    """Return a generator that is different for each seed (not negative), epoch and purpose."""
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


class ShuffledBatches(Sampler[Tensor]):
    """Yields index tensors of shape ``(B,)`` that cover all rows once an epoch; the last may be shorter.

    As the ``sampler`` of a ``DataLoader`` with ``batch_size=None``, it makes each batch one gather. Lightning
    calls ``set_epoch``. Without such a call, each iteration has the order of the next epoch, from epoch 0 on.

    Args:
        rows: The rows, shape ``(n,)``, or their number n if they are the first n.
        batch_size: B.
        seed: Seed of the orders.
    """

    def __init__(self, rows: Tensor | int, batch_size: int, seed: int) -> None:
        require_positive(batch_size=batch_size)
        self.rows = torch.arange(rows) if isinstance(rows, int) else rows
        require_indices(rows=self.rows)
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        # Lazy, because a fit that is resumed creates the iterator before it sets the epoch.
        keys = torch.rand(len(self.rows), generator=epoch_generator(self.seed, self.epoch))
        self.epoch += 1
        yield from self.rows[keys.argsort()].split(self.batch_size)


class StackedBatches(Sampler[tuple[Tensor, Tensor]]):
    """Yields for each step the rows of each member's batch and their weights, both of shape ``(K, B)``.

    Every member has all its rows once an epoch, in an order of its own; if the first member has all n rows,
    in that of ``ShuffledBatches``. All members take as many steps as the member with the most rows. A batch
    with fewer than B rows is filled with rows of weight 0. Epochs go on as in ``ShuffledBatches``.

    Args:
        member_rows: The rows of each member: K index tensors.
        batch_size: B, the greatest number of rows of a member in a step.
        seed: Seed of the orders.
        same_order: Whether members with the same rows take them in the same order.

    Raises:
        InputError: If the batch size is not positive or a member has fewer rows than there are steps.
    """

    def __init__(
        self, member_rows: Sequence[Tensor], batch_size: int, seed: int, same_order: bool = False
    ) -> None:
        require_positive(batch_size=batch_size)
        self.seed, self.epoch, self.same_order = seed, 0, same_order
        for k, rows in enumerate(member_rows, start=1):
            require_indices(**{f"rows of member {k}": rows})
        sizes = torch.tensor([len(rows) for rows in member_rows])
        self.num_steps = -(-int(sizes.max()) // batch_size)
        if sizes.min() < self.num_steps:
            few, steps = f"a member with {sizes.min()} rows", f"{self.num_steps} steps"
            raise InputError(f"{few} cannot take part in {steps}; a larger batch_size makes them fewer")
        self.rows = torch.nn.utils.rnn.pad_sequence(list(member_rows), batch_first=True)
        self.padding = torch.arange(self.rows.shape[1]) >= sizes[:, None]
        # places[k, s, b]: the index of the shuffled row of member k at position b of step s; -1 for none.
        batch_size = min(batch_size, int(sizes.max()))
        self.places = torch.full((len(sizes), self.num_steps, batch_size), -1)
        for member, size in zip(self.places, sizes.tolist(), strict=True):
            batches: Sequence[Tensor] = torch.arange(size).split(batch_size)
            if len(batches) < self.num_steps:  # one batch is missing: spread the rows evenly
                batches = torch.arange(size).tensor_split(self.num_steps)
            for places, batch in zip(member, batches, strict=True):
                places[: len(batch)] = batch
        self.weight = (self.places >= 0).float().transpose(0, 1).contiguous()
        self.places = self.places.clamp(min=0).flatten(1)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next orders."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # Sorting random keys permutes the rows of all members in one operation; padding sorts last.
        shape = (1 if self.same_order else len(self.rows), self.rows.shape[1])
        keys = torch.rand(shape, generator=epoch_generator(self.seed, self.epoch))
        self.epoch += 1
        orders = self.rows.gather(1, keys.masked_fill(self.padding, 2.0).argsort(dim=1))
        batches = orders.gather(1, self.places).view(len(orders), self.num_steps, -1).transpose(0, 1)
        yield from zip(batches.contiguous().unbind(), self.weight.unbind(), strict=True)


class RowLoader:
    """Yields batches of rows that are gathered from tensors in memory.

    A ``DataLoader`` would need 30 microseconds more for each step. Lightning sets the sampler's epoch.

    Args:
        batches: The rows of each batch: index tensors, or a sampler that depends on the epoch.
        gather: Returns the batch with these rows.
    """

    def __init__(self, batches: Any, gather: Callable[[Any], tuple[Tensor, ...]]) -> None:
        self.batches, self.gather = batches, gather
        if hasattr(batches, "set_epoch"):
            self.sampler = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return map(self.gather, self.batches)


def gather_from(*tensors: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Return a function that gathers rows of the tensors, on their device."""

    def gather(rows: Tensor) -> tuple[Tensor, ...]:
        rows = rows.to(tensors[0].device)
        return tuple(tensor.index_select(0, rows) for tensor in tensors)  # several times faster than indexing

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
    owner: LightningDataModule, rows: Tensor | int, batch_size: int, seed: int
) -> ShuffledBatches:
    """Return the shuffled batches of a data module, whose epochs go on after those of its last ones."""
    batches = ShuffledBatches(rows, batch_size, seed)
    last = vars(owner).get("_shuffled_batches")
    batches.set_epoch(0 if last is None else last.epoch)
    vars(owner)["_shuffled_batches"] = batches
    return batches


def shuffled_loader(
    owner: LightningDataModule, batch_size: int, seed: int, *tensors: Tensor
) -> DataLoader[Any]:
    """Return the loader of a data module: shuffled batches of the tensors' rows."""
    batches = shuffled_batches(owner, len(tensors[0]), batch_size, seed)
    return DataLoader(TensorDataset(*tensors), batch_size=None, sampler=batches)


def loader_of(*batches: Any) -> DataLoader[Any]:
    """Return the loader of these batches, in this order."""
    return DataLoader(cast(Any, batches), batch_size=None)


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

    def on_device(self, *tensors: Tensor) -> Iterator[Tensor]:
        """Yield the tensors on the trainer's device, so that their rows are gathered there."""
        return (t if self.trainer is None else t.to(self.trainer.strategy.root_device) for t in tensors)
