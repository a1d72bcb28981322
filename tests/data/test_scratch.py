"""Scratch folders are removed, also after a kill, and nothing else is."""

import os
import platform
import time
from pathlib import Path

import pytest

from d2l_lightning.data.scratch import DAY, SCRATCH, clear_debris, scratch_folder

SHA1 = "0123456789abcdef0123456789abcdef01234567"
HERE = f"{SCRATCH}{platform.node()}-"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / SHA1).mkdir()
    return tmp_path / SHA1


def make(path: Path, age: float = 0) -> Path:
    """Make a folder with a file, or a file if the name has a dot or is of an earlier version."""
    if path.name.startswith(SCRATCH):
        path.mkdir()
        (path / "part").write_bytes(b"part")
        os.utime(path / "part", (time.time() - age,) * 2)
    else:
        path.write_bytes(b"part")
    os.utime(path, (time.time() - age,) * 2)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_scratch_folder_is_removed_at_the_end(folder: Path) -> None:
    with scratch_folder(folder / "new") as scratch:
        (scratch / "file").touch()
        assert names(folder / "new") == [scratch.name]
    assert names(folder / "new") == []


def test_what_killed_processes_left_is_removed(folder: Path) -> None:
    make(folder / f"{HERE}dead")
    with scratch_folder(folder) as scratch:
        assert names(folder) == [scratch.name]
        alive = make(folder / f"{HERE}alive")
        with scratch_folder(folder):
            assert alive.exists()  # the lock says that a process works here
    clear_debris(folder)
    assert names(folder) == []


def test_other_machines_and_earlier_versions_have_a_day(folder: Path) -> None:
    young = [f"{SCRATCH}elsewhere-1", "tmpabcd_123"]
    for name in young:
        make(folder / name)
    old = [f"{SCRATCH}elsewhere-2", "tmpabcd_124"]
    for name in old:
        make(folder / name, age=DAY + 60)
    growing = make(folder / f"{SCRATCH}elsewhere-3", age=DAY + 60)
    (growing / "more").touch()
    os.utime(growing, (time.time() - DAY - 60,) * 2)
    clear_debris(folder)
    assert names(folder) == sorted([*young, growing.name])


def test_files_that_are_not_ours_stay(folder: Path) -> None:
    for name in (
        "tmp.csv",
        "tmpabcd",
        "tmpabcdefghi",
        "mytmpabcdefgh",
        "TMPABCDEFGH",
        "toy.csv",
        ".unfinished",
    ):
        make(folder / name, age=DAY + 60)
    before = names(folder)
    make(folder / f"{HERE}dead")
    clear_debris(folder)
    assert names(folder) == before
    # Outside the folders of the hub, anyone may have such files.
    stranger = make(folder.parent / "tmpabcdefgh", age=DAY + 60)
    clear_debris(folder.parent)
    assert stranger.exists()


def test_without_locks_only_old_folders_are_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    make(folder / f"{HERE}young")
    make(folder / f"{HERE}old", age=DAY + 60)
    with scratch_folder(folder):
        assert f"{HERE}old" not in names(folder)
    assert names(folder) == [f"{HERE}young"]
