"""Rows that are drawn while they are used."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from d2l_lightning.data.batches import epoch_generator
from d2l_lightning.errors import InputError, require_not_negative, require_positive

_TRAIN, _VAL = 13, 14  # purposes of generators

Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


class DrawnBatches:
    """Yields the batches of an epoch, which are drawn as they are needed: a function of seed and epoch.

    Lightning calls ``set_epoch``. Without such a call, each iteration is the next epoch.

    Args:
        draw: Returns a number of rows by a generator.
        num_rows: Rows in an epoch.
        batch_size: Rows in a batch; the last one may be smaller.
        seed: The seed.
        purpose: Distinguishes the rows of several loaders with one seed.
        new_each_epoch: Whether each epoch has rows of its own; if not, all have those of epoch 0.
    """

    def __init__(
        self, draw: Draw, num_rows: int, batch_size: int, seed: int, purpose: int, new_each_epoch: bool
    ) -> None:
        self.draw, self.num_rows, self.batch_size, self.seed = draw, num_rows, batch_size, seed
        self.purpose, self.new_each_epoch, self.epoch = purpose, new_each_epoch, 0
        if new_each_epoch:
            self.sampler = self  # Lightning sets its epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_rows // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = epoch_generator(self.seed, self.epoch if self.new_each_epoch else 0, self.purpose)
        self.epoch += 1
        for place in range(0, self.num_rows, self.batch_size):
            size = min(self.batch_size, self.num_rows - place)
            drawn = self.draw(size, generator)
            if not isinstance(drawn, tuple) or len(drawn) != 2:
                raise InputError(f"draw must return two tensors, X and y, not {type(drawn).__name__}")
            X, y = drawn
            if not len(X) == len(y) == size:
                raise InputError(f"draw must return {size} rows, not {len(X)} of X and {len(y)} of y")
            yield X, y


class GeneratedData(LightningDataModule):
    """Rows that are drawn while they are used: no row is stored.

    With new rows in each epoch, a model never sees a row twice. So it cannot overfit, and its training loss
    is an estimate of its loss on new rows. The rows are a function of seed and epoch, so a fit can be
    repeated, and resumed at the end of an epoch. Validation rows are the same in all epochs.

    Args:
        draw: Returns features, shape ``(B, ...)``, and targets, shape ``(B,)``, of B rows. It gets B and the
            ``torch.Generator`` that all random numbers must come from.
        num_train: Training rows in an epoch.
        num_val: Validation rows; may be 0.
        batch_size: Rows in a batch; the last one of an epoch may be smaller.
        seed: Seed of all rows.
        new_each_epoch: Whether each epoch has new training rows; if not, all epochs have the same rows, in
            the same order.

    Raises:
        InputError: If a number is out of its range, or ``draw`` returns another number of rows.

    Source: Section 3.3.5, exercises 3 and 4.
    """

    def __init__(
        self,
        draw: Draw,
        num_train: int,
        num_val: int = 0,
        batch_size: int = 32,
        seed: int = 0,
        new_each_epoch: bool = True,
    ) -> None:
        super().__init__()
        require_positive(num_train=num_train, batch_size=batch_size)
        require_not_negative(num_val=num_val)
        self.num_train, self.batch_size = num_train, batch_size
        # Kept, so that in a loop of one's own a new loader goes on with the next epoch.
        self._train = DrawnBatches(draw, num_train, batch_size, seed, _TRAIN, new_each_epoch)
        self._val = DrawnBatches(draw, num_val, batch_size, seed, _VAL, new_each_epoch=False)

    def train_dataloader(self) -> DrawnBatches:
        """Return the loader of training batches."""
        return self._train

    def val_dataloader(self) -> Any:
        """Return the loader of validation batches; an empty list if there are no rows."""
        return self._val if self._val.num_rows else []
