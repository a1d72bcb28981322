"""Fashion-MNIST: found where it is, read as it is, and refused where it is something else."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.datasets.mnist import read_image_file, read_label_file

from d2l_lightning.batches import ShuffledBatches
from d2l_lightning.data import fashion_mnist
from d2l_lightning.data.fashion_mnist import FILES, LABELS, SYSTEM_FOLDER, FashionMNIST, RowLoader, read_idx
from d2l_lightning.errors import InputError
from tests.conftest import needs_fashion_mnist


def idx(values: Tensor) -> bytes:
    header = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.numpy().tobytes()


def write(folder: Path, sizes: tuple[int, int] = (50, 20), pack: bool = True) -> Path:
    """Write a tiny data set whose images say their number, and show their class, in a column of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for size, (images, labels) in zip(sizes, FILES.values(), strict=True):
        numbers = torch.arange(first, first + size)
        first += size
        pixels = torch.zeros(size, 28, 28, dtype=torch.uint8)
        pixels[:, 0, 0], pixels[:, 0, 1] = numbers.to(torch.uint8), 255
        pixels[torch.arange(size), 8:24, 2 * (numbers % 10)] = 255
        for name, values in ((images, pixels), (labels, (numbers % 10).to(torch.uint8))):
            data = idx(values)
            (folder / (f"{name}.gz" if pack else name)).write_bytes(gzip.compress(data) if pack else data)
    return folder


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if "real" not in request.keywords:
        monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", tmp_path / "system")
        monkeypatch.setenv("D2L_LIGHTNING_CACHE", str(tmp_path / "cache"))


def made(folder: Path | None = None, **settings: Any) -> FashionMNIST:
    data = FashionMNIST(None if folder is None else str(folder), **settings)
    data.prepare_data()
    data.setup()
    return data


def numbers(loader: Any) -> list[int]:
    return [int(number) for X, _ in loader for number in X[:, 0, 0]]


@pytest.mark.parametrize("pack", [True, False])
def test_files_are_found_in_a_folder_and_below_it(tmp_path: Path, pack: bool) -> None:
    for folder in (tmp_path / "flat", tmp_path / "deep" / "FashionMNIST" / "raw"):
        write(folder, pack=pack)
    for top in ("flat", "deep"):
        data = made(tmp_path / top)
        assert data.images is not None
        assert data.images.shape == (70, 28, 28)
        assert data.images.dtype == torch.uint8
        assert torch.equal(data.labels, torch.arange(70) % 10)


def test_without_a_folder_the_systems_comes_before_the_cache(tmp_path: Path) -> None:
    write(tmp_path / "cache" / "FashionMNIST" / "raw", (30, 10))
    assert len(made().labels) == 40
    write(tmp_path / "system", (20, 10))
    assert len(made().labels) == 30


def test_where_it_is_nowhere_one_line_says_the_three_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nmirror one\nmirror two")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", offline)
    with pytest.raises(InputError) as error:
        FashionMNIST().prepare_data()
    said = str(error.value)
    assert len(said.splitlines()) == 1
    assert all(way in said for way in ("--data_dir", "dataset-fashion-mnist", "network", "Error downloading"))


def test_torchvision_downloads_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(root: str, download: bool) -> None:
        assert download
        write(Path(root) / "FashionMNIST" / "raw", pack=False)

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", download)
    assert len(made().labels) == 70
    assert (tmp_path / "cache" / "FashionMNIST").is_dir()


def test_the_split_is_by_the_seed_and_leaves_no_row_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    data, same, other = (made(folder, val_fraction=0.2, seed=seed) for seed in (1, 1, 2))
    assert {stage: len(rows) for stage, rows in data.rows.items()} == {"train": 40, "val": 10, "test": 20}
    assert sorted(torch.cat(list(data.rows.values())).tolist()) == list(range(70))
    assert data.rows["test"].tolist() == list(range(50, 70))
    assert torch.equal(data.rows["val"], same.rows["val"])
    assert not torch.equal(data.rows["val"], other.rows["val"])


def test_the_books_protocol_validates_on_the_test_rows(tmp_path: Path) -> None:
    data = made(write(tmp_path / "data"), validate_on_test=True)
    assert data.rows["train"].tolist() == list(range(50))
    assert torch.equal(data.rows["val"], data.rows["test"])


@given(st.integers(1, 60), st.integers(0, 5))
def test_batches_bring_every_row_once(tmp_path_factory: Any, batch_size: int, epoch: int) -> None:
    data = FashionMNIST(batch_size=batch_size, validate_on_test=True)
    images = torch.zeros(70, 28, 28, dtype=torch.uint8)
    images[:, 0, 0] = torch.arange(70)
    data.images, data.labels = images, torch.arange(70) % 10
    data.rows = {"train": torch.arange(50), "val": torch.arange(50, 70), "test": torch.arange(50, 70)}
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    assert len(loader) == -(-50 // batch_size)
    seen = [(X, y) for X, y in loader]
    assert all(len(y) <= batch_size and torch.equal(X[:, 0, 0] % 10, y) for X, y in seen)
    assert sorted(numbers(seen)) == list(range(50))
    assert numbers(data.val_dataloader()) == numbers(data.test_dataloader()) == list(range(50, 70))


def watched() -> tuple[list[tuple[Tensor, Tensor]], Any]:
    """Return a model, and the list that it adds its training batches to."""
    from lightning.pytorch import LightningModule

    met: list[tuple[Tensor, Tensor]] = []

    class Watch(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(784, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            met.append(batch)
            return self.net(batch[0].flatten(1)).sum()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            assert (batch[0][:, 0, 1] == 1).all()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    return met, Watch()


def test_half_of_the_training_images_are_flipped_and_no_others(
    tmp_path: Path, trainer: Callable[..., Any]
) -> None:
    folder, (met, model) = str(write(tmp_path / "data", (500, 20))), watched()
    torch.manual_seed(0)
    trainer(max_epochs=4).fit(model, FashionMNIST(folder, batch_size=50, flip=True))  # validation asserts
    X = torch.cat([X for X, _ in met])
    as_it_is, flipped = X[:, 0, 1] == 1, X[:, 0, 26] == 1
    assert (as_it_is ^ flipped).all()
    assert 0.45 < flipped.float().mean() < 0.55
    plain, model = watched()
    trainer(max_epochs=1).fit(model, FashionMNIST(folder))
    assert all((X[:, 0, 1] == 1).all() for X, _ in plain)


def test_flips_are_a_function_of_seed_and_epoch(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", (200, 20))

    def flipped(epoch: int, **settings: Any) -> set[int]:
        loader = made(folder, flip=True, batch_size=32, **settings).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return {int(X[0, 27]) for batch, _ in loader for X in batch if X[0, 26] == 255}

    assert flipped(0) == flipped(0)
    assert len({frozenset(flipped(epoch, seed=seed)) for epoch in range(3) for seed in range(3)}) == 9


@pytest.mark.parametrize("flip", [False, True])
def test_rows_are_gathered_where_the_images_are(flip: bool) -> None:
    # Tensors without memory, on a device that this machine need not have.
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(10, 28, 28, dtype=torch.uint8, device="cuda")
        labels = torch.empty(10, dtype=torch.int64, device="cuda")
        loader = RowLoader(images, labels, torch.arange(4, 10), ShuffledBatches(6, 4, seed=0), flip)
        batches = list(loader)
    assert [(X.device.type, y.device.type, len(y)) for X, y in batches] == [
        ("cuda", "cuda", n) for n in (4, 2)
    ]


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true"])
def test_images_are_scaled_in_the_batch_to_what_the_model_computes_in(
    tmp_path: Path, trainer: Callable[..., Any], precision: Any
) -> None:
    met, model = watched()
    data = FashionMNIST(str(write(tmp_path / "data")), batch_size=16)
    trainer(max_epochs=1, precision=precision, limit_val_batches=0).fit(model, data)
    X, y = met[0]
    assert X.dtype == {"3": torch.float32, "6": torch.float64, "b": torch.bfloat16}[precision[0]]
    assert X.max() == 1
    assert X.min() == 0
    assert y.dtype == torch.int64
    assert data.images is not None
    assert data.images.dtype == torch.uint8
    # Held-out rows are not among those that were trained on.
    trained = {int(number) for batch, _ in met for number in (batch[:, 0, 0] * 255).round()}
    assert trained == set(data.rows["train"].tolist())


def test_examples_and_their_names(tmp_path: Path) -> None:
    data = made(write(tmp_path / "data"))
    X, y = data.examples(data.rows["test"][:3])
    assert X.shape == (3, 28, 28)
    assert X.dtype == torch.float32
    assert X.max() == 1
    assert data.text_labels(y) == ["t-shirt", "trouser", "pullover"]
    assert data.text_labels([9, 5]) == ["ankle boot", "sandal"]


def spoil(folder: Path, name: str, data: bytes) -> None:
    (folder / f"{name}.gz").unlink()
    (folder / name).write_bytes(data)


IMAGES, CLASSES = FILES["train"]
FLAT = torch.zeros(50, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (IMAGES, b"", "is no IDX file of bytes"),
        (IMAGES, b"\x89PNG and more", "is no IDX file of bytes"),
        (IMAGES, b"\0\0\x0d\x01" + struct.pack(">I", 1) + b"1234", "is no IDX file of bytes"),
        (IMAGES, b"\0\0\x08\x03" + b"\0" * 8, "is no IDX file of bytes"),
        (IMAGES, idx(torch.zeros(50, 28, 28, dtype=torch.uint8))[:-1], "39199 bytes of data, .* says 39200"),
        (IMAGES, idx(torch.zeros(50, 28, 28, dtype=torch.uint8)) + b"x", "39201 bytes of data"),
        (
            IMAGES,
            gzip.compress(idx(torch.zeros(50, 28, 28, dtype=torch.uint8)), mtime=0)[:-20],
            "cut short or damaged",
        ),
        (IMAGES, b"\x1f\x8b and no more", "cut short or damaged"),
        (IMAGES, idx(torch.zeros(50, 32, 32, dtype=torch.uint8)), "no images of 28 by 28"),
        (IMAGES, idx(torch.zeros(49, 28, 28, dtype=torch.uint8)), "has 49 images, .* 50 classes"),
        (CLASSES, idx(torch.zeros(50, 1, dtype=torch.uint8)), "no list of classes"),
        (CLASSES, idx(FLAT + 10), "has a class 10; they are 0 to 9"),
    ],
)
def test_damaged_and_foreign_files_are_told_in_a_line(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    folder = write(tmp_path / "data")
    spoil(folder, name, data)
    with pytest.raises(InputError, match=message) as error:
        made(folder)
    assert str(folder / name) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_missing_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    (folder / f"{CLASSES}.gz").unlink()
    with pytest.raises(InputError, match=f"lacks {CLASSES}"):
        made(folder)
    with pytest.raises(InputError, match=f"lacks {IMAGES}"):
        FashionMNIST(str(tmp_path / "void")).prepare_data()
    for name in FILES["train"]:
        spoil_to_empty = torch.zeros((0, 28, 28) if name == IMAGES else (0,), dtype=torch.uint8)
        (folder / name).write_bytes(idx(spoil_to_empty))
    with pytest.raises(InputError, match="is empty"):
        made(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"val_fraction": 0.0}, "val_fraction must be between 0 and 1, not 0.0"),
        ({"val_fraction": 1.0}, "val_fraction must be between 0 and 1"),
        ({"val_fraction": float("nan")}, "val_fraction must be between 0 and 1"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FashionMNIST(**settings)


def test_a_split_that_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"val_fraction 0\.9 leaves none of 2 rows"):
        made(write(tmp_path / "data", (2, 2)), val_fraction=0.9)


@pytest.mark.real
@needs_fashion_mnist
def test_the_real_data(tmp_path: Path) -> None:
    data = made()
    assert data.images is not None
    assert data.images.shape == (70_000, 28, 28)
    assert torch.bincount(data.labels).tolist() == [7000] * 10
    assert len(data.rows["test"]) == 10_000
    assert data.labels[:5].tolist() == [9, 0, 0, 3, 0]
    assert 0.28 < (data.images[:60_000].float().mean() / 255).item() < 0.29  # known: 0.2860
    for name, (images, labels) in FILES.items():
        for file, read in ((images, read_image_file), (labels, read_label_file)):
            plain = tmp_path / file
            plain.write_bytes(gzip.decompress((SYSTEM_FOLDER / f"{file}.gz").read_bytes()))
            assert torch.equal(read_idx(plain).long(), read(str(plain)).long()), name


def test_the_ten_names_are_those_of_the_data_set_in_its_order() -> None:
    assert list(LABELS) == [
        *("t-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ]
