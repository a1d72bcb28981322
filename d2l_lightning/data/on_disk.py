"""Rows in files that may be larger than memory, read in a shuffled order with few random reads."""

import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from d2l_lightning.data.batches import epoch_generator, num_batches
from d2l_lightning.errors import InputError, absolute_path, require_positive
from d2l_lightning.functional.permutation import ROUNDS, permute

_BLOCKS, _ROWS = 11, 12  # purposes of generators: the order of blocks, and of the rows in a window

Rows = tuple[Tensor, Tensor]
# Rows from the first number up to the second.
Range = tuple[int, int]


def write_rows(X: str | Path, y: str | Path, num_rows: int, parts: Iterable[Rows]) -> None:
    """Write features and targets to two ``.npy`` files, part by part, with one part in memory at a time.

    The files appear when they are complete. So they may take the place of files that are being read.

    Args:
        X: The file of the features.
        y: The file of the targets.
        num_rows: The number of rows of all parts, positive.
        parts: Pairs of features, shape ``(m, ...)``, and targets, shape ``(m, ...)``, of one type and shape.

    Raises:
        InputError: If the parts have more or fewer rows, or differ in type or shape, or the files are one.
    """
    require_positive(num_rows=num_rows)
    targets = [absolute_path(path) for path in (X, y)]
    if targets[0] == targets[1]:
        raise InputError(f"X and y must be two files, not {X} both")
    partial = [target.with_name(f".{os.getpid()}.{target.name}") for target in targets]
    try:
        for path in partial:
            path.parent.mkdir(parents=True, exist_ok=True)
        _write(partial, num_rows, parts)
        for path, target in zip(partial, targets, strict=True):
            path.replace(target)
    finally:
        for path in partial:
            path.unlink(missing_ok=True)


def _write(paths: Sequence[Path], num_rows: int, parts: Iterable[Rows]) -> None:
    files: list[Any] = []
    place = 0
    for part in parts:
        values = [of_part.numpy() for of_part in part]
        end = place + len(values[0])
        if end > num_rows:
            raise InputError(f"num_rows is {num_rows}, and the parts have more rows")
        if not files:
            files = [
                np.lib.format.open_memmap(path, "w+", dtype=each.dtype, shape=(num_rows, *each.shape[1:]))
                for path, each in zip(paths, values, strict=True)
            ]
        for file, name, each in zip(files, "Xy", values, strict=True):
            shape = (end - place, *file.shape[1:])
            if (each.shape, each.dtype) != (shape, file.dtype):
                what = f"{name} of the part from row {place} on is {each.dtype} of shape {each.shape}"
                raise InputError(f"{what}; by X and the first part, it must be {file.dtype} of shape {shape}")
            file[place:end] = each
        place = end
    if place < num_rows:
        raise InputError(f"num_rows is {num_rows}, and the parts have {place} rows")
    for file in files:
        file.flush()


class RowFiles:
    """Features and targets in two ``.npy`` files, of which ranges of rows are read by memory maps.

    Args:
        X: The file of the features, an array of shape ``(n, ...)``.
        y: The file of the targets, an array of shape ``(n, ...)``.

    Attributes:
        num_rows: n.
        reads: The number of ranges that were read.
        bytes_read: The bytes of the pages in which these ranges lie: a disk reads whole pages.

    Raises:
        InputError: If a file is missing or not such an array, or the files differ in their number of rows.
    """

    def __init__(self, X: str | Path, y: str | Path) -> None:
        self._paths = X, y
        self.X, self.y = _open(X, "X"), _open(y, "y")
        if len(self.X) != len(self.y):
            raise InputError(f"{X} has {len(self.X)} rows and {y} has {len(self.y)}; they must have the same")
        self.num_rows, self.reads, self.bytes_read = len(self.y), 0, 0

    def __getstate__(self) -> dict[str, Any]:
        # A copy opens the files anew; a memory map would be copied as an array of all rows.
        return {**vars(self), "X": None, "y": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.X, self.y = _open(self._paths[0], "X"), _open(self._paths[1], "y")

    def read(self, rows: Range) -> Rows:
        """Return features and targets of a range of rows, in memory.

        Raises:
            InputError: If a number is not finite.
        """
        self.reads += 1
        tensors = []
        for name, file in (("X", self.X), ("y", self.y)):
            row_bytes = file.strides[0]
            begin, end = (file.offset + row * row_bytes for row in rows)
            self.bytes_read += ((end - 1) // mmap.PAGESIZE - begin // mmap.PAGESIZE + 1) * mmap.PAGESIZE
            tensor = torch.from_numpy(np.array(file[slice(*rows)]))
            wrong = (~tensor.isfinite()).nonzero()
            if len(wrong):
                row = rows[0] + int(wrong[0, 0])
                raise InputError(f"{name} of row {row} in {file.filename} must be finite")
            tensors.append(tensor)
        return tensors[0], tensors[1]


def _open(path: str | Path, name: str) -> Any:
    try:
        array = np.lib.format.open_memmap(os.fspath(path), mode="r")
        torch.from_numpy(np.empty(0, array.dtype))
    except (OSError, ValueError, TypeError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name} must be a .npy file of numbers; {path} cannot be read: {reason}") from error
    if not isinstance(array, np.memmap) or array.ndim == 0 or not array.flags.c_contiguous or not len(array):
        raise InputError(f"{path} must hold one row after the other, in C order, and at least one")
    return array


class BlockOrder:
    """Yields the windows of an epoch: which ranges of rows to read, and the order of the rows in them.

    Rows that follow each other in the file make a block. The blocks come in a pseudorandom order, for which
    no table is kept (``functional.permutation``). Some blocks fill a window, which is in memory at once, and
    the rows of a window are shuffled. Blocks begin at other rows in each epoch. All of this is a function of
    seed and epoch. Lightning calls ``set_epoch``; without such a call, each iteration is the next epoch.

    Args:
        rows: The range of rows.
        block_rows: Rows that are read at once. With 1, each row is a random read.
        window_rows: Rows that are in memory and shuffled at once: one block at least, and all blocks at most.
        seed: Seed of the orders.
        shuffle: Whether rows are shuffled; if not, they come in the order of the file.

    Source: Section 3.3.5, exercise 2.
    """

    def __init__(self, rows: Range, block_rows: int, window_rows: int, seed: int, shuffle: bool) -> None:
        self.rows, self.block_rows, self.seed, self.shuffle = rows, block_rows, seed, shuffle
        self.window_blocks, self.epoch = max(1, window_rows // block_rows), 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next order."""
        self.epoch = epoch

    @property
    def rows_in_memory(self) -> int:
        """The greatest number of rows of a window."""
        return min(self.window_blocks * self.block_rows, self.rows[1] - self.rows[0])

    def row_numbers(self) -> Tensor:
        """Return the numbers of all rows in the order of the next epoch, shape ``(n,)``; nothing is read."""
        return torch.cat(
            [torch.cat([torch.arange(*rows) for rows in ranges])[order] for ranges, order in self]
        )

    def __iter__(self) -> Iterator[tuple[list[Range], Tensor]]:
        epoch, size = self.epoch, self.block_rows
        self.epoch += 1
        start, stop = self.rows
        keys, shift = [0] * ROUNDS, 0
        if self.shuffle:
            generator = epoch_generator(self.seed, epoch, _BLOCKS)
            keys = torch.randint(2**32, (ROUNDS,), generator=generator).tolist()
            shift = int(torch.randint(size, (), generator=generator))
        first = start - shift
        count = -(-(stop - first) // size)
        for window in range(0, count, self.window_blocks):
            blocks = torch.arange(window, min(window + self.window_blocks, count))
            if self.shuffle:
                blocks = permute(blocks, count, keys)
            ranges = [
                (max(start, first + block * size), min(stop, first + (block + 1) * size))
                for block in blocks.tolist()
            ]
            num_rows = sum(end - begin for begin, end in ranges)
            order = torch.arange(num_rows)
            if self.shuffle:
                order = torch.randperm(num_rows, generator=epoch_generator(self.seed, epoch, _ROWS, window))
            yield ranges, order


class BlockLoader:
    """Yields batches of rows that are read in the order of a ``BlockOrder``.

    Args:
        files: The files.
        order: The order.
        batch_size: Rows in a batch.
        drop_last: Whether the last rows are left out if they do not fill a batch. If there are fewer rows
            in all, they make a batch.
    """

    def __init__(self, files: RowFiles, order: BlockOrder, batch_size: int, drop_last: bool) -> None:
        self.files, self.order, self.batch_size, self.drop_last = files, order, batch_size, drop_last
        if order.shuffle:
            self.sampler = order  # Lightning sets its epoch
        self.num_rows = order.rows[1] - order.rows[0]

    def __len__(self) -> int:
        return num_batches(self.num_rows, self.batch_size, self.drop_last)

    def __iter__(self) -> Iterator[Rows]:
        size, left = self.batch_size, len(self)
        rest: list[Rows] = []  # of the last window, which filled no batch
        for ranges, order in self.order:
            X, y = (torch.cat(each) for each in zip(*map(self.files.read, ranges), strict=True))
            window = [*rest, (X.index_select(0, order), y.index_select(0, order))]
            X, y = (torch.cat(each) for each in zip(*window, strict=True))
            full = len(y) // size * size
            for place in range(0, full, size):
                yield X[place : place + size], y[place : place + size]
            left -= full // size
            rest = [(X[full:], y[full:])]
        if left:
            yield rest[0]


class OnDiskData(LightningDataModule):
    """Rows in two ``.npy`` files that may be larger than memory, such as ``write_rows`` writes.

    The first rows are for training, the others for validation. One window of rows is in memory at a time.
    Each training row comes once in an epoch, in an order that is a function of seed and epoch, see
    ``BlockOrder``. A batch is X ``(B, ...)`` and y ``(B, ...)``, with the types of the files.

    Larger blocks need fewer reads. More blocks in a window mix the rows better, which matters where rows that
    are alike follow each other in the file: a window should have blocks from everywhere in it.

    Args:
        X: The file of the features, an array of shape ``(n, ...)``.
        y: The file of the targets, an array of shape ``(n, ...)``.
        num_train: Number of training rows, from 1 to n.
        batch_size: Rows in a batch.
        seed: Seed of the order of the training rows.
        block_rows: Rows that are read at once.
        window_rows: Rows that are in memory and shuffled at once, at least one block.
        drop_last: Whether the last training rows of an epoch are left out if they do not fill a batch.
        shuffle: Whether training rows are shuffled in each epoch; if not, they come in the order of the file.

    Attributes:
        files: The files, with the number of reads so far.
        order: The order of the training rows.

    Raises:
        InputError: If an argument is out of its range or a file cannot be used.

    Source: Section 3.3.5, exercise 2.
    """

    def __init__(
        self,
        X: str | Path,
        y: str | Path,
        num_train: int,
        batch_size: int = 32,
        seed: int = 0,
        block_rows: int = 256,
        window_rows: int = 16384,
        drop_last: bool = False,
        shuffle: bool = True,
    ) -> None:
        super().__init__()
        require_positive(
            num_train=num_train, batch_size=batch_size, block_rows=block_rows, window_rows=window_rows
        )
        self.files = RowFiles(X, y)
        n = self.files.num_rows
        if num_train > n:
            raise InputError(f"num_train is {num_train}, and there are {n} rows")
        self.batch_size, self.drop_last = batch_size, drop_last
        # Kept, so that in a loop of one's own a new loader goes on with the next epoch.
        self.order = BlockOrder((0, num_train), block_rows, window_rows, seed, shuffle)
        self._val = BlockOrder((num_train, n), window_rows, window_rows, seed, shuffle=False)

    def train_dataloader(self) -> BlockLoader:
        """Return the loader of shuffled training batches."""
        return BlockLoader(self.files, self.order, self.batch_size, self.drop_last)

    def val_dataloader(self) -> Any:
        """Return the loader of validation batches in the order of the file; an empty list without rows."""
        loader = BlockLoader(self.files, self._val, self.batch_size, drop_last=False)
        return loader if loader.num_rows else []
