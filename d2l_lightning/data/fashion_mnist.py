"""Fashion-MNIST: 70,000 grey images of clothes in ten classes, found, checked and kept in memory."""

import gzip
import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from d2l_lightning.batches import ShuffledBatches, data_generator, epoch_generator
from d2l_lightning.data.hub import cache_folder
from d2l_lightning.errors import InputError, require_positive

LABELS = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
# Images and labels of the rows to train on and of the official test rows.
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# Where Debian's package dataset-fashion-mnist puts them.
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
SIDE = 28
# Rows of a batch where nothing is learned.
EVALUATION_BATCH = 2000


class RowLoader:
    """Gathers batches of images and classes out of tensors in memory: one gather for each.

    A ``DataLoader`` would do the same at 30 microseconds a step. Lightning sets the sampler's epoch.

    Args:
        images: Shape ``(n, h, w)``.
        labels: Shape ``(n,)``.
        rows: Which of the n rows there are to choose from, shape ``(m,)``.
        batches: The places of each batch's rows among these, index tensors: a sampler where the epoch
            decides them.
        flip: Whether images are mirrored with a probability of a half, left to right, as a function of the
            sampler's seed and epoch.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, rows: Tensor, batches: Any, flip: bool = False
    ) -> None:
        self.images, self.labels, self.rows, self.batches, self.flip = images, labels, rows, batches, flip
        if hasattr(batches, "set_epoch"):
            self.sampler = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        flips = epoch_generator(self.sampler.seed, self.sampler.epoch, 2) if self.flip else None
        for places in self.batches:
            rows = self.rows[places].to(self.images.device)
            # Several times faster than indexing with them.
            X, y = self.images.index_select(0, rows), self.labels.index_select(0, rows)
            if flips is not None:
                flipped = torch.rand(len(X), 1, 1, generator=flips) < 0.5
                X = torch.where(flipped.to(X.device), X.flip(2), X)
            yield X, y


class FashionMNIST(LightningDataModule):
    """The data set of Section 3.5 of the 0.16 edition.

    It is looked for in ``data_dir``, or, if that is not given, in the folder of Debian's package
    dataset-fashion-mnist and in the cache, whereto torchvision downloads it if need be.

    Batches are images of shape ``(B, 28, 28)``, from 0 to 1, and classes of shape ``(B,)``. Images are kept
    as bytes, on the device, and scaled batch by batch.

    Args:
        data_dir: A folder with the four IDX files, gzipped or not, or with torchvision's folders above them.
        batch_size: Rows in a training batch.
        val_fraction: Share of the training rows, chosen by the seed, that validate and are not trained on.
        validate_on_test: The book's protocol instead: train on all training rows, and validate on the
            official test rows. What is chosen by such a validation has seen the test.
        seed: Seed of the split, of the order of the training rows, and of their flips.
        flip: Whether each training image is mirrored with a probability of a half, left to right.

    Attributes:
        images: All images, training rows first, uint8 ``(n, 28, 28)``; from ``setup`` on.
        labels: Their classes, int64 ``(n,)``.
        rows: The rows of each stage: ``train``, ``val`` and ``test``, index tensors.

    Raises:
        InputError: If an argument is out of its range, or, in ``prepare_data`` and ``setup``, if files are
            missing or damaged.
    """

    def __init__(
        self,
        data_dir: str | None = None,
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
        self.data_dir, self.batch_size, self.seed = data_dir, batch_size, seed
        self.val_fraction, self.validate_on_test, self.flip = val_fraction, validate_on_test, flip
        self.images: Tensor | None = None

    def prepare_data(self) -> None:
        """Find the files; download them if they are nowhere."""
        if find_files(self.data_dir) is not None:
            return
        cache = cache_folder()
        from torchvision.datasets import FashionMNIST as Torchvision

        try:
            Torchvision(str(cache), download=True)
        except (OSError, RuntimeError) as error:
            raise InputError(
                "Fashion-MNIST is not on this machine and cannot be downloaded "
                f"({str(error).strip().splitlines()[0]}): name its folder with --data_dir, install Debian's "
                "package dataset-fashion-mnist, or connect to the network"
            ) from error

    def setup(self, stage: str | None = None) -> None:
        """Read the files and split the rows; a second call does nothing."""
        if self.images is not None:
            return
        files = find_files(self.data_dir)
        if files is None:
            self.prepare_data()
            files = cast(dict[str, tuple[Path, Path]], find_files(self.data_dir))
        parts = {name: read_part(*files[name]) for name in FILES}
        n, n_test = (len(parts[name][1]) for name in FILES)
        shuffled = torch.randperm(n, generator=data_generator(self.seed))
        num_val = max(1, round(self.val_fraction * n))
        test = torch.arange(n, n + n_test)
        if self.validate_on_test:
            self.rows = {"train": torch.arange(n), "val": test, "test": test}
        elif num_val == n:
            raise InputError(f"val_fraction {self.val_fraction} leaves none of {n} rows to train on")
        else:
            train, val = shuffled[num_val:].sort().values, shuffled[:num_val].sort().values
            self.rows = {"train": train, "val": val, "test": test}
        self.labels = torch.cat([labels for _, labels in parts.values()])
        self.images = torch.cat([images for images, _ in parts.values()])

    def train_dataloader(self) -> RowLoader:
        """Return the loader of shuffled training batches."""
        rows = self.rows["train"]
        return self._loader(rows, ShuffledBatches(len(rows), self.batch_size, self.seed), self.flip)

    def val_dataloader(self) -> RowLoader:
        """Return the loader of validation batches, in the rows' order."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> RowLoader:
        """Return the loader of the official test rows, in their order."""
        return self._evaluation_loader("test")

    predict_dataloader = test_dataloader

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Scale a batch's images to numbers from 0 to 1, of the type that the model computes in."""
        X, *others = batch
        model = None if self.trainer is None else self.trainer.lightning_module
        dtype = torch.get_default_dtype() if model is None else cast(torch.dtype, model.dtype)
        return X.to(dtype).div_(255), *others

    def examples(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return images of shape ``(B, 28, 28)``, from 0 to 1, and classes of some rows, on the CPU."""
        assert self.images is not None
        return self.images[rows].cpu() / 255, self.labels[rows].cpu()

    @staticmethod
    def text_labels(labels: Iterable[int]) -> list[str]:
        """Return the names of classes."""
        return [LABELS[int(label)] for label in labels]

    def _evaluation_loader(self, stage: str) -> RowLoader:
        rows = self.rows[stage]
        return self._loader(rows, torch.arange(len(rows)).split(EVALUATION_BATCH))

    def _loader(self, rows: Tensor, batches: Any, flip: bool = False) -> RowLoader:
        assert self.images is not None
        if self.trainer is not None:  # rows are gathered where they are used
            device = self.trainer.strategy.root_device
            self.images, self.labels = self.images.to(device), self.labels.to(device)
        return RowLoader(self.images, self.labels, rows, batches, flip)


def find_files(data_dir: str | None) -> dict[str, tuple[Path, Path]] | None:
    """Return the paths of images and labels of each part, or None if they may be downloaded.

    Raises:
        InputError: If ``data_dir`` is given and lacks one.
    """
    cache = cache_folder()
    folders = [SYSTEM_FOLDER, cache] if data_dir is None else [Path(data_dir)]
    for top in folders:
        for folder in (top, top / "FashionMNIST" / "raw"):
            found = {part: tuple(_find(folder, name) for name in names) for part, names in FILES.items()}
            if all(path is not None for paths in found.values() for path in paths):
                return cast(dict[str, tuple[Path, Path]], found)
    if data_dir is None:
        return None
    missing = next(
        name
        for names in FILES.values()
        for name in names
        if not any(_find(folder, name) for folder in (Path(data_dir), Path(data_dir, "FashionMNIST", "raw")))
    )
    raise InputError(f"--data_dir {data_dir} lacks {missing} (or {missing}.gz)")


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_part(images_path: Path, labels_path: Path) -> tuple[Tensor, Tensor]:
    """Return the images, uint8 ``(n, 28, 28)``, and classes, int64 ``(n,)``, of two IDX files.

    Raises:
        InputError: If a file is damaged, holds something else, or does not go with the other.
    """
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.shape[1:] != (SIDE, SIDE):
        raise InputError(f"{images_path} holds no images of 28 by 28 but the shape {tuple(images.shape)}")
    if labels.ndim != 1:
        raise InputError(f"{labels_path} holds no list of classes but the shape {tuple(labels.shape)}")
    if len(images) != len(labels):
        raise InputError(f"{images_path} has {len(images)} images, {labels_path.name} {len(labels)} classes")
    if not len(labels):
        raise InputError(f"{labels_path} is empty")
    if labels.max() >= len(LABELS):
        raise InputError(f"{labels_path} has a class {labels.max()}; they are 0 to {len(LABELS) - 1}")
    return images, labels.long()


def read_idx(path: Path) -> Tensor:
    """Return the bytes of an IDX file, gzipped or not, as a uint8 tensor of the shape that it names.

    torchvision's reader takes no gzipped file and fails on a damaged one by an assertion.

    Raises:
        InputError: If the file cannot be read, is cut short, or is no IDX file of bytes.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is cut short or damaged ({error}); get it anew") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    # Two zeros, 8 for bytes, the number of dimensions, and then each as four bytes.
    if data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise InputError(f"{path} is no IDX file of bytes")
    header = 4 + 4 * data[3]
    shape = struct.unpack(f">{data[3]}I", data[4:header])
    if len(data) - header != math.prod(shape):
        raise InputError(
            f"{path} has {len(data) - header} bytes of data, and its header says {math.prod(shape)}; "
            "get it anew"
        )
    if header == len(data):
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=header).view(shape)
