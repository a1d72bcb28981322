"""Which rows make up each batch of an epoch, as a function of a seed and the epoch."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from d2l_lightning.errors import InputError, require_positive


def epoch_generator(seed: int, epoch: int, *purpose: int) -> torch.Generator:
    """Return a generator of its own for each seed (not negative) and epoch, and for each purpose if told."""
    # A sequence of numbers: their sum would give seed 0, epoch 1 the order of seed 1, epoch 0.
    state = np.random.SeedSequence((seed, epoch, *purpose)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


def data_generator(seed: int) -> torch.Generator:
    """Return the generator of a data set's random numbers; no epoch's order has the same ones."""
    return epoch_generator(seed, 0, 1)


def shuffled_order(n: int, seed: int, epoch: int) -> Tensor:
    """Return the order, shape ``(n,)``, in which an epoch goes through n rows."""
    return torch.rand(n, generator=epoch_generator(seed, epoch)).argsort()


class ShuffledBatches(Sampler[Tensor]):
    """Yields index tensors of shape ``(B,)`` that go through n rows once an epoch; the last may be shorter.

    As the ``sampler`` of a ``DataLoader`` with ``batch_size=None`` it makes a batch one gather. Lightning
    calls ``set_epoch``.

    Args:
        n: Number of rows.
        batch_size: B.
        seed: What, with the epoch, decides the order.

    Raises:
        InputError: If the batch size is not positive.
    """

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        require_positive(batch_size=batch_size)
        self.n, self.batch_size, self.seed, self.epoch = n, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        # Lazily: where a fit goes on from a checkpoint, Lightning asks for the iterator, then sets the epoch.
        yield from torch.split(shuffled_order(self.n, self.seed, self.epoch), self.batch_size)


class StackedBatches(Sampler[tuple[Tensor, Tensor]]):
    """Yields, step by step, the rows of each member's next batch and their weights, both of shape ``(K, B)``.

    Every member goes through its rows once an epoch, in an order of its own; with all n rows, the first has
    that of ``ShuffledBatches``. All take the same number of steps, that of the member with the most rows. A
    batch with fewer than B rows is filled up with rows of weight 0.

    Args:
        member_rows: The rows of each member: K index tensors.
        batch_size: B, the most rows of a member in a step.
        seed: What, with the epoch, decides the orders.
        same_order: Whether members with the same rows take them in the same order, so that they differ in
            their settings alone.

    Raises:
        InputError: If the batch size is not positive or a member has fewer rows than there are steps.
    """

    def __init__(
        self, member_rows: Sequence[Tensor], batch_size: int, seed: int, same_order: bool = False
    ) -> None:
        require_positive(batch_size=batch_size)
        self.seed, self.epoch, self.same_order = seed, 0, same_order
        sizes = torch.tensor([len(rows) for rows in member_rows])
        self.num_steps = -(-int(sizes.max()) // batch_size)
        if sizes.min() < self.num_steps:
            raise InputError(
                f"a member with {sizes.min()} rows cannot take part in {self.num_steps} steps; a larger "
                "batch_size makes them fewer"
            )
        self.rows = torch.nn.utils.rnn.pad_sequence(list(member_rows), batch_first=True)
        self.padding = torch.arange(self.rows.shape[1]) >= sizes[:, None]
        # places[k, s, b]: which of member k's shuffled rows stands at place b of step s; -1 for none.
        batch_size = min(batch_size, int(sizes.max()))
        self.places = torch.full((len(sizes), self.num_steps, batch_size), -1)
        for places, size in zip(self.places, sizes.tolist(), strict=True):
            batches: Sequence[Tensor] = torch.split(torch.arange(size), batch_size)
            if len(batches) < self.num_steps:  # one row less can mean one batch less: spread the rows evenly
                batches = torch.arange(size).tensor_split(self.num_steps)
            for step, batch in enumerate(batches):
                places[step, : len(batch)] = batch
        self.weight = (self.places >= 0).float().transpose(0, 1).contiguous()
        self.places = self.places.clamp(min=0).flatten(1)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose orders come next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # Sorting random keys permutes the rows of all members at once; padding sorts last.
        shape = (1 if self.same_order else len(self.rows), self.rows.shape[1])
        keys = torch.rand(shape, generator=epoch_generator(self.seed, self.epoch))
        orders = self.rows.gather(1, keys.masked_fill(self.padding, 2.0).argsort(dim=1))
        batches = orders.gather(1, self.places).view(len(orders), self.num_steps, -1).transpose(0, 1)
        yield from zip(batches.contiguous().unbind(), self.weight.unbind(), strict=True)
