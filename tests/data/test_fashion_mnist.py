"""Fashion-MNIST: finding, reading and checking the files; splits, batches and flips."""

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

from d2l_lightning.data import fashion_mnist
from d2l_lightning.data.batches import RowLoader, ShuffledBatches, gather_from
from d2l_lightning.data.fashion_mnist import (
    FILES,
    LABELS,
    SYSTEM_FOLDER,
    FashionMNIST,
    FlippingLoader,
    read_idx,
)
from d2l_lightning.errors import InputError
from tests.conftest import needs_fashion_mnist


def idx(values: Tensor) -> bytes:
    header = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.numpy().tobytes()


def write(folder: Path, sizes: tuple[int, int] = (50, 20), pack: bool = True) -> Path:
    """Write a tiny data set; pixel (0, 0) of an image is its number, and a bar in a column is its class."""
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
def no_installed_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if "real" not in request.keywords:
        monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", tmp_path / "system")
        monkeypatch.setenv("D2L_LIGHTNING_CACHE", str(tmp_path / "cache"))


def make(folder: Path | None = None, **settings: Any) -> FashionMNIST:
    data = FashionMNIST(None if folder is None else str(folder), **settings)
    data.prepare_data()
    data.setup()
    return data


def numbers(loader: Any) -> list[int]:
    return [int(number) for X, _ in loader for number in X[:, 0, 0]]


@pytest.mark.parametrize("pack", [True, False])
def test_files_are_found_in_a_folder_and_in_torchvisions_subfolder(tmp_path: Path, pack: bool) -> None:
    for folder in (tmp_path / "flat", tmp_path / "deep" / "FashionMNIST" / "raw"):
        write(folder, pack=pack)
    for top in ("flat", "deep"):
        data = make(tmp_path / top)
        assert data.images.shape == (70, 28, 28)
        assert data.images.dtype == torch.uint8
        assert torch.equal(data.labels, torch.arange(70) % 10)


@pytest.mark.parametrize(
    "place",
    [
        lambda name: Path(name.replace("-idx", ".idx")),
        lambda name: Path(name.replace("-idx", ".idx") + ".gz"),
        lambda name: Path("archive", "fashion", name),
        lambda name: Path(name, name),  # each file in a folder of its name
        lambda name: Path("Fashion", name.upper()),
    ],
)
def test_files_are_found_under_other_names(tmp_path: Path, place: Callable[[str], Path]) -> None:
    for name, data in (
        (file.name, file.read_bytes()) for file in write(tmp_path / "usual", pack=False).iterdir()
    ):
        path = tmp_path / "data" / place(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    (tmp_path / "data" / "notes.txt").touch()
    assert torch.equal(make(tmp_path / "data").images, make(tmp_path / "usual").images)


def test_files_are_not_searched_in_deep_folders(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "c" / "d")
    assert len(make(tmp_path / "a" / "b").labels) == 70
    with pytest.raises(InputError, match=rf"lacks {FILES['train'][0]} .*; it holds 'b'$"):
        make(tmp_path / "a")


def test_files_of_two_data_sets_are_an_error(tmp_path: Path) -> None:
    for name in ("KMNIST", "MNIST"):
        write(tmp_path / "data" / name / "raw")
    with pytest.raises(
        InputError, match=r"has both .*MNIST/raw/.* and .*MNIST/raw/.*; pass the folder of one"
    ):
        make(tmp_path / "data")
    # torchvision's folder of this data set is known.
    write(tmp_path / "data" / "FashionMNIST" / "raw", (30, 10))
    assert len(make(tmp_path / "data").labels) == 40


def test_the_system_folder_precedes_the_cache(tmp_path: Path) -> None:
    write(tmp_path / "cache" / "FashionMNIST" / "raw", (30, 10))
    assert len(make().labels) == 40
    write(tmp_path / "system", (20, 10))
    assert len(make().labels) == 30


def test_the_error_without_data_names_three_remedies_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nmirror one\nmirror two")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", offline)
    with pytest.raises(InputError) as error:
        FashionMNIST().prepare_data()
    message = str(error.value)
    assert len(message.splitlines()) == 1
    remedies = ("--data_dir", "dataset-fashion-mnist", "network", "Error downloading")
    assert all(remedy in message for remedy in remedies)


def test_torchvision_downloads_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(root: str, download: bool) -> None:
        assert download
        write(Path(root) / "FashionMNIST" / "raw", pack=False)

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", download)
    assert len(make().labels) == 70
    assert (tmp_path / "cache" / "FashionMNIST").is_dir()


def test_a_download_that_is_cut_off_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(root: str, download: bool) -> None:
        write(Path(root) / "FashionMNIST" / "raw", pack=False)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", cut_off)
    top = tmp_path / "cache" / "FashionMNIST"
    with pytest.raises(InputError, match=f"cannot be downloaded to {top} .No space left on device.: give"):
        make()
    assert list(top.iterdir()) == []


def test_the_split_depends_on_the_seed_and_has_every_row(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    data, same, other = (make(folder, val_fraction=0.2, seed=seed) for seed in (1, 1, 2))
    assert {stage: len(rows) for stage, rows in data.rows.items()} == {"train": 40, "val": 10, "test": 20}
    assert sorted(torch.cat(list(data.rows.values())).tolist()) == list(range(70))
    assert data.rows["test"].tolist() == list(range(50, 70))
    assert torch.equal(data.rows["val"], same.rows["val"])
    assert not torch.equal(data.rows["val"], other.rows["val"])


def test_validate_on_test_trains_on_all_training_rows(tmp_path: Path) -> None:
    data = make(write(tmp_path / "data"), validate_on_test=True)
    assert data.rows["train"].tolist() == list(range(50))
    assert torch.equal(data.rows["val"], data.rows["test"])


@given(st.integers(1, 60), st.integers(0, 5))
def test_batches_have_every_row_once(tmp_path_factory: Any, batch_size: int, epoch: int) -> None:
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


def recorded() -> tuple[list[tuple[Tensor, Tensor]], Any]:
    """Return a list, and a model that adds its training batches to it."""
    from lightning.pytorch import LightningModule

    batches: list[tuple[Tensor, Tensor]] = []

    class Recorder(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(784, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            batches.append(batch)
            return self.net(batch[0].flatten(1)).sum()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            assert (batch[0][:, 0, 1] == 1).all()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    return batches, Recorder()


def test_half_of_the_training_images_are_flipped_and_no_validation_images(
    tmp_path: Path, trainer: Callable[..., Any]
) -> None:
    folder, (batches, model) = str(write(tmp_path / "data", (500, 20))), recorded()
    torch.manual_seed(0)
    trainer(max_epochs=4).fit(model, FashionMNIST(folder, batch_size=50, flip=True))  # validation asserts
    X = torch.cat([X for X, _ in batches])
    original, flipped = X[:, 0, 1] == 1, X[:, 0, 26] == 1
    assert (original ^ flipped).all()
    assert 0.45 < flipped.float().mean() < 0.55
    plain, model = recorded()
    trainer(max_epochs=1).fit(model, FashionMNIST(folder))
    assert all((X[:, 0, 1] == 1).all() for X, _ in plain)


def test_flips_depend_on_seed_and_epoch(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", (200, 20))

    def flipped(epoch: int, **settings: Any) -> set[int]:
        loader = make(folder, flip=True, batch_size=32, **settings).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return {int(X[0, 27]) for batch, _ in loader for X in batch if X[0, 26] == 255}

    assert flipped(0) == flipped(0)
    assert len({frozenset(flipped(epoch, seed=seed)) for epoch in range(3) for seed in range(3)}) == 9


@pytest.mark.parametrize("flip", [False, True])
def test_rows_are_gathered_on_the_device_of_the_images(flip: bool) -> None:
    # Tensors without memory, on a device that may be absent.
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(10, 28, 28, dtype=torch.uint8, device="cuda")
        labels = torch.empty(10, dtype=torch.int64, device="cuda")
        order = ShuffledBatches(torch.arange(4, 10), 4, seed=0)
        batches = list((FlippingLoader if flip else RowLoader)(order, gather_from(images, labels)))
    assert [(X.device.type, y.device.type, len(y)) for X, y in batches] == [
        ("cuda", "cuda", n) for n in (4, 2)
    ]


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true"])
def test_batches_are_scaled_and_have_the_type_of_the_model(
    tmp_path: Path, trainer: Callable[..., Any], precision: Any
) -> None:
    batches, model = recorded()
    data = FashionMNIST(str(write(tmp_path / "data")), batch_size=16)
    trainer(max_epochs=1, precision=precision, limit_val_batches=0).fit(model, data)
    X, y = batches[0]
    assert X.dtype == {"3": torch.float32, "6": torch.float64, "b": torch.bfloat16}[precision[0]]
    assert X.max() == 1
    assert X.min() == 0
    assert y.dtype == torch.int64
    assert data.images.dtype == torch.uint8
    # Validation rows are not trained on.
    trained = {int(number) for batch, _ in batches for number in (batch[:, 0, 0] * 255).round()}
    assert trained == set(data.rows["train"].tolist())


def test_examples_and_class_names(tmp_path: Path) -> None:
    data = make(write(tmp_path / "data"))
    X, y = data.examples(data.rows["test"][:3])
    assert X.shape == (3, 28, 28)
    assert X.dtype == torch.float32
    assert X.max() == 1
    assert data.text_labels(y) == ["t-shirt", "trouser", "pullover"]
    assert data.text_labels([9, 5]) == ["ankle boot", "sandal"]


def replace_file(folder: Path, name: str, data: bytes) -> None:
    (folder / f"{name}.gz").unlink()
    (folder / name).write_bytes(data)


IMAGES, CLASSES = FILES["train"]
HUGE = b"\0\0\x08\x03" + struct.pack(">3I", 2**31, 2**31, 0)
FLAT = torch.zeros(50, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (IMAGES, b"", "is not an IDX file of bytes"),
        (IMAGES, b"\x89PNG image", "is not an IDX file of bytes"),
        (IMAGES, b"\0\0\x0d\x01" + struct.pack(">I", 1) + b"1234", "is not an IDX file of bytes"),
        (IMAGES, b"\0\0\x08\x03" + b"\0" * 8, "is not an IDX file of bytes"),
        (IMAGES, b"\0\0\x08", "is not an IDX file of bytes"),
        (IMAGES, b"\0\0\x08\x00", "is not an IDX file of bytes with one to three dimensions"),
        (IMAGES, b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"x", "is not an IDX file of bytes with one to three"),
        (IMAGES, HUGE, "has the shape .* in its header, of more than 500 MB"),
        (IMAGES, HUGE + bytes(4), "has the shape .* in its header, of more than 500 MB"),
        (CLASSES, b"\0\0\x08\x01\xff\xff\xff\xff", "has the shape .* of more than 500 MB"),
        (
            IMAGES,
            idx(torch.zeros(50, 28, 28, dtype=torch.uint8))[:-1],
            "39199 bytes of data; its header says 39200",
        ),
        (IMAGES, idx(torch.zeros(50, 28, 28, dtype=torch.uint8)) + b"x", "more than 39200 bytes of data"),
        (
            IMAGES,
            gzip.compress(idx(torch.zeros(50, 28, 28, dtype=torch.uint8)), mtime=0)[:-20],
            "truncated or damaged",
        ),
        (IMAGES, b"\x1f\x8b cut", "truncated or damaged"),
        (IMAGES, idx(torch.zeros(50, 32, 32, dtype=torch.uint8)), "must hold images of 28 by 28"),
        (IMAGES, idx(torch.zeros(49, 28, 28, dtype=torch.uint8)), "has 49 images, .* 50 classes"),
        (CLASSES, idx(torch.zeros(50, 1, dtype=torch.uint8)), "must hold a list of classes"),
        (CLASSES, idx(FLAT + 10), "has a class 10; they are 0 to 9"),
    ],
)
def test_damaged_and_foreign_files_are_an_error_of_one_line(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    folder = write(tmp_path / "data")
    replace_file(folder, name, data)
    with pytest.raises(InputError, match=message) as error:
        make(folder)
    assert str(folder / name) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_missing_and_empty_files_are_an_error(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    (folder / f"{CLASSES}.gz").unlink()
    with pytest.raises(InputError, match=f"lacks {CLASSES}"):
        make(folder)
    with pytest.raises(InputError, match=r"^cannot read the folder .*void: No such file or directory$"):
        FashionMNIST(str(tmp_path / "void")).prepare_data()
    (tmp_path / "void").mkdir()
    with pytest.raises(InputError, match=rf"lacks {IMAGES} \(or {IMAGES}\.gz\); it is empty$"):
        FashionMNIST(str(tmp_path / "void")).prepare_data()
    for name in ("\x1b[2J", "a.txt", "b.txt", "c.txt"):
        (tmp_path / "void" / name).touch()
    with pytest.raises(InputError, match=r"; it holds '\\x1b\[2J', 'a\.txt', 'b\.txt' \(and 1 more\)$"):
        FashionMNIST(str(tmp_path / "void")).prepare_data()
    for name in FILES["train"]:
        empty = torch.zeros((0, 28, 28) if name == IMAGES else (0,), dtype=torch.uint8)
        (folder / name).write_bytes(idx(empty))
    with pytest.raises(InputError, match="is empty"):
        make(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"val_fraction": 0.0}, "val_fraction must be between 0 and 1, not 0.0"),
        ({"val_fraction": 1.0}, "val_fraction must be between 0 and 1"),
        ({"val_fraction": float("nan")}, "val_fraction must be between 0 and 1"),
    ],
)
def test_bad_settings_are_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FashionMNIST(**settings)


def test_a_split_without_training_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"val_fraction 0\.9 leaves none of 2 rows"):
        make(write(tmp_path / "data", (2, 2)), val_fraction=0.9)


@pytest.mark.real
@needs_fashion_mnist
def test_the_real_data_equals_torchvisions(tmp_path: Path) -> None:
    data = make()
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


def test_labels_are_the_names_of_the_classes_in_their_order() -> None:
    assert list(LABELS) == [
        *("t-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ]
