"""Files of a user are bounded, and errors name them."""

import gzip
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from d2l_lightning.data import fashion_mnist, reading
from d2l_lightning.data.fashion_mnist import read_idx
from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.data.shifted_tables import ShiftedTables
from d2l_lightning.data.tables.reading import read_table
from d2l_lightning.errors import InputError, printable

READERS = [read_table, read_idx]
MEGABYTE = 2**20


def error_of(function: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        function()
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.fixture
def bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Write small files that unpack to more than the limit, of 3 MB here."""
    for module in (reading, fashion_mnist):
        monkeypatch.setattr(module, "LIMIT", 3 * MEGABYTE)
    csv, idx = b"a,b\n" + b"1,2\n" * 2**17, b"\0\0\x08\1\0\0\x03\xe8"
    files = {"csv": tmp_path / "bomb.csv.gz", "idx": tmp_path / "bomb.gz", "plain": tmp_path / "large.csv"}
    files["csv"].write_bytes(gzip.compress(csv) + gzip.compress(b"1,2\n" * 2**17) * 100)
    files["idx"].write_bytes(gzip.compress(idx) + gzip.compress(bytes(MEGABYTE)) * 100)
    with files["plain"].open("wb") as file:
        file.truncate(100 * MEGABYTE)
    return files


@pytest.mark.parametrize(
    ("name", "reader", "message"),
    [
        ("csv", read_table, "holds more than 3.14573 MB of text; give a file with fewer rows or columns"),
        ("plain", read_table, "holds more than 3.14573 MB of text; give a file with fewer rows or columns"),
        ("idx", read_idx, "has more than 1000 bytes of data; its header says 1000; download it again"),
    ],
)
def test_memory_is_bounded(
    name: str, reader: Callable[[Path], object], message: str, bombs: dict[str, Path]
) -> None:
    tracemalloc.start()
    error = error_of(lambda: reader(bombs[name]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error == f"{bombs[name]} {message}"
    assert peak < 8 * MEGABYTE


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@pytest.mark.parametrize("reader", READERS)
def test_pipes_and_devices_are_refused(reader: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/zero")):
        assert error_of(lambda path=path: reader(path)) == (  # type: ignore[misc]
            f"cannot read {path}: it is a pipe or a device; save its contents as a file"
        )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_in_a_folder_of_data_is_refused(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv", *fashion_mnist.NAMES):
        os.mkfifo(tmp_path / name)
    folder = str(tmp_path)
    assert "train.csv: it is a pipe" in error_of(KaggleHouse(folder).setup)
    assert "train-images-idx3-ubyte: it is a pipe" in error_of(fashion_mnist.FashionMNIST(folder).setup)
    assert "train.csv: it is a pipe" in error_of(ShiftedTables(f"{folder}/train.csv", "b", "y").setup)


@pytest.mark.parametrize("reader", READERS)
def test_names_that_cannot_be_and_errors_of_the_disk_are_one_line(
    reader: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert error_of(lambda: reader(Path("a\0b"))) == "cannot read a\\x00b: embedded null byte"
    assert error_of(lambda: reader(Path("gone\x1b[2J"))).startswith("cannot read gone\\x1b[2J: No such file")
    (tmp_path / "file").touch()

    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", fail)
    assert (
        error_of(lambda: reader(tmp_path / "file")) == f"cannot read {tmp_path / 'file'}: Permission denied"
    )


def test_a_gzipped_file_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "packed.csv").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    (tmp_path / "plain.csv.gz").write_bytes(b"a,b\n1,2\n")
    for name in ("packed.csv", "plain.csv.gz"):
        assert read_table(tmp_path / name).to_numpy().tolist() == [["1", "2"]]


def test_text_for_terminals_is_printable() -> None:
    assert printable("größe, Ω\\") == "größe, Ω\\"
    assert printable("\x1b[31m\x9b\n\t\u202e\udcff") == r"\x1b[31m\x9b\n\t\u202e\udcff"
    assert str(InputError("\x1b[2J\nline two")) == "\\x1b[2J\nline two"
