"""Fashion-MNIST: 70,000 grey images of clothes in ten classes, kept in memory."""

import math
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from d2l_lightning.data.batches import (
    EVALUATION_BATCH,
    InMemoryData,
    RowLoader,
    data_generator,
    epoch_generator,
    gather_from,
    on_device,
    shuffled_batches,
)
from d2l_lightning.data.hub import cache_folder
from d2l_lightning.data.reading import LIMIT, listing, names_in, open_input, read_at_most, reading
from d2l_lightning.data.scratch import scratch_folder
from d2l_lightning.errors import InputError, absolute_path, require_positive

LABELS = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
# The files of images and labels: the training rows and the official test rows.
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
NAMES = [name for names in FILES.values() for name in names]
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist


class FlippingLoader(RowLoader):
    """Mirrors each image left to right with a probability of a half, by the sampler's seed and epoch."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = self.sampler
        generator = epoch_generator(batches.seed, batches.epoch, 2)
        flipped = (torch.rand(len(batches.rows), 1, 1, generator=generator) < 0.5).to(batches.device)
        for (X, y), flips in zip(super().__iter__(), flipped.split(batches.batch_size), strict=True):
            yield torch.where(flips.to(X.device), X.flip(2), X), y


class FashionMNIST(InMemoryData):
    """Fashion-MNIST, the data set of Section 3.5 of the 0.16 edition.

    Batches are images of shape ``(B, 28, 28)``, from 0 to 1, and classes of shape ``(B,)``.

    Args:
        data_dir: A folder with the four IDX files, gzipped or not, in it or in folders inside it. If not
            given, the folder of Debian's package dataset-fashion-mnist, or a download in the cache.
        batch_size: Rows in a training batch.
        val_fraction: Share of the training rows, chosen by the seed, that are for validation, not training.
        validate_on_test: Whether to train on all training rows and validate on the official test rows, as the
            book does. Settings that are chosen by this validation are fitted to the test rows.
        seed: Seed of the split, of the order of the training rows, and of their flips.
        flip: Whether each training image is mirrored left to right with a probability of a half.

    Attributes:
        class_names: The name of each class.
        images: All images, training rows first, uint8 ``(n, 28, 28)``; available after ``setup``.
        labels: Their classes, int64 ``(n,)``.
        rows: The rows of each stage: ``train``, ``val`` and ``test``, index tensors.
    """

    class_names: tuple[str, ...] = LABELS
    images: Tensor
    labels: Tensor
    rows: dict[str, Tensor]

    def __init__(
        self,
        data_dir: str | Path | None = None,
        batch_size: int = 256,
        val_fraction: float = 0.1,
        validate_on_test: bool = False,
        seed: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__()
        require_positive(batch_size=batch_size)
        if not 0 < val_fraction < 1:
            raise InputError(f"val_fraction must be between 0 and 1, not {val_fraction}")
        self.data_dir = None if data_dir is None else absolute_path(data_dir)
        self.batch_size, self.seed = batch_size, seed
        self.val_fraction, self.validate_on_test, self.flip = val_fraction, validate_on_test, flip

    def prepare_data(self) -> None:
        """Find the files, or download them."""
        if find_files(self.data_dir) is not None:
            return
        from torchvision.datasets import FashionMNIST as Torchvision

        top = cache_folder() / "FashionMNIST"
        try:
            # A download that is cut off leaves no files under the names of complete ones.
            with scratch_folder(top) as scratch:
                Torchvision(str(scratch), download=True)
                (top / "raw").mkdir(exist_ok=True)
                for file in (scratch / "FashionMNIST" / "raw").iterdir():
                    file.replace(top / "raw" / file.name)
        except (OSError, RuntimeError) as error:
            reason = (getattr(error, "strerror", None) or str(error) or repr(error)).strip().splitlines()[0]
            raise InputError(
                f"Fashion-MNIST is not on this machine and cannot be downloaded to {top} ({reason}): give "
                "its folder as --data_dir, install Debian's package dataset-fashion-mnist, or connect to the "
                "network"
            ) from error

    def _load(self) -> None:
        """Read the files and split the rows."""
        self.prepare_data()
        files = cast(dict[str, Path], find_files(self.data_dir))
        parts = [read_part(*(files[name] for name in names)) for names in FILES.values()]
        images, labels = zip(*parts, strict=True)
        n = len(labels[0])
        test = torch.arange(n, n + len(labels[1]))
        shuffled = torch.randperm(n, generator=data_generator(self.seed))
        num_val = max(1, round(self.val_fraction * n))
        if self.validate_on_test:
            self.rows = {"train": torch.arange(n), "val": test, "test": test}
        elif num_val == n:
            raise InputError(f"val_fraction {self.val_fraction} leaves none of {n} rows to train on")
        else:
            train, val = shuffled[num_val:].sort().values, shuffled[:num_val].sort().values
            self.rows = {"train": train, "val": val, "test": test}
        self.images, self.labels = torch.cat(images), torch.cat(labels)

    def train_dataloader(self) -> RowLoader:
        """Return the loader of shuffled training batches."""
        batches, gather = (
            shuffled_batches(self, self.rows["train"], self.batch_size, self.seed),
            self._gather(),
        )
        batches.device = self.images.device
        return (FlippingLoader if self.flip else RowLoader)(batches, gather)

    def val_dataloader(self) -> RowLoader:
        """Return the loader of validation batches, in the rows' order."""
        return self._in_order("val")

    def test_dataloader(self) -> RowLoader:
        """Return the loader of the official test rows, in their order."""
        return self._in_order("test")

    predict_dataloader = test_dataloader

    def _in_order(self, stage: str) -> RowLoader:
        gather = self._gather()
        return RowLoader(self.rows[stage].to(self.images.device).split(EVALUATION_BATCH), gather)

    def _gather(self) -> Any:
        # Images stay bytes; each batch is scaled after it is gathered.
        self.images, self.labels = on_device(self, (self.images, self.labels))
        return gather_from(self.images, self.labels)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Scale a batch's images to numbers from 0 to 1, in the model's type."""
        X, *others = batch
        model = None if self.trainer is None else self.trainer.lightning_module
        dtype = torch.get_default_dtype() if model is None else cast(torch.dtype, model.dtype)
        return X.to(dtype).div_(255), *others

    def examples(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return images of shape ``(B, 28, 28)``, from 0 to 1, and classes of some rows, on the CPU."""
        return self.images[rows].cpu() / 255, self.labels[rows].cpu()

    @staticmethod
    def text_labels(labels: Iterable[int]) -> list[str]:
        """Return the names of classes."""
        return [LABELS[int(label)] for label in labels]


def find_files(data_dir: Path | None) -> dict[str, Path] | None:
    """Return the path of each file by its name, or None without ``data_dir`` if they must be downloaded."""
    tops = [SYSTEM_FOLDER, cache_folder()] if data_dir is None else [Path(data_dir)]
    for folder in [folder for top in tops for folder in (top, top / "FashionMNIST" / "raw")]:
        with reading(f"the folder {folder}"):
            found = _files_in(folder, names_in(folder)) if folder.is_dir() else {}
        if len(found) == len(NAMES):
            return found
    return None if data_dir is None else _search(Path(data_dir))


def _search(top: Path) -> dict[str, Path]:
    """Return the files in a folder and in folders inside it, two levels deep."""
    there = names_in(top)
    found: dict[str, Path] = {}
    for folder, folders, names in os.walk(top):
        if len(Path(folder).relative_to(top).parts) == 2:
            folders.clear()
        for name, path in _files_in(Path(folder), names).items():
            if found.setdefault(name, path) != path:  # those of MNIST have the same names
                raise InputError(
                    f"--data_dir {top} has both {found[name]} and {path}; pass the folder of one of them"
                )
    for name in NAMES:
        if name not in found:
            raise InputError(f"--data_dir {top} lacks {name} (or {name}.gz); {listing(there)}")
    return found


def _files_in(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Return the files of the data set in a folder, by their usual names."""
    # Programs that unpack write train-images.idx3-ubyte. A file that is not gzipped precedes one that is.
    usual = {name: name.lower().removesuffix(".gz").replace(".", "-") for name in names}
    order = sorted(usual, key=lambda name: not name.lower().endswith(".gz"))
    return {usual[n]: folder / n for n in order if usual[n] in NAMES and not (folder / n).is_dir()}


def read_part(images_path: Path, labels_path: Path) -> tuple[Tensor, Tensor]:
    """Return the images, uint8 ``(n, 28, 28)``, and classes, int64 ``(n,)``, of two IDX files that match."""
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.shape[1:] != (28, 28):
        raise InputError(f"{images_path} must hold images of 28 by 28, not the shape {tuple(images.shape)}")
    if labels.ndim != 1:
        raise InputError(f"{labels_path} must hold a list of classes, not the shape {tuple(labels.shape)}")
    if len(images) != len(labels):
        raise InputError(f"{images_path} has {len(images)} images, {labels_path.name} {len(labels)} classes")
    if not len(labels):
        raise InputError(f"{labels_path} is empty")
    if labels.max() >= len(LABELS):
        raise InputError(f"{labels_path} has a class {labels.max()}; they are 0 to {len(LABELS) - 1}")
    return images, labels.long()


def read_idx(path: Path) -> Tensor:
    """Return the contents of an IDX file of bytes, gzipped or not, as a uint8 tensor."""
    # torchvision's reader does not read gzipped files, and a damaged file fails one of its assertions.
    with open_input(path) as stream:
        # The header: two zeros, 8 for bytes, the number of dimensions, and each dimension in four bytes.
        start = stream.read(4)
        count = start[3] if start[:3] == b"\0\0\x08" and len(start) == 4 else 0
        sizes = stream.read(4 * count)
        if not 1 <= count <= 3 or len(sizes) < 4 * count:
            raise InputError(f"{path} is not an IDX file of bytes with one to three dimensions")
        shape = struct.unpack(f">{count}I", sizes)
        if math.prod(size or 1 for size in shape) > LIMIT:
            raise InputError(f"{path} has the shape {shape} in its header, of more than {LIMIT / 1e6:g} MB")
        expected = math.prod(shape)
        data = read_at_most(stream, expected + 1)
    if len(data) != expected:
        size = f"more than {expected}" if len(data) > expected else len(data)
        raise InputError(f"{path} has {size} bytes of data; its header says {expected}; download it again")
    return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(shape))
