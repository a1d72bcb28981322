"""Folders in which a file is made before it takes its place in the cache, and what killed processes left."""

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from d2l_lightning.errors import InputError

Folder = str | os.PathLike[str]
SCRATCH = ".unfinished-"
EARLIER = re.compile("tmp[a-z0-9_]{8}")  # the scratch files and folders of earlier versions
DAY = 24 * 3600


@contextmanager
def using_cache(cache: Folder) -> Iterator[Path]:
    """Yield the cache folder's full path; errors of the disk inside the context are an InputError."""
    try:
        yield Path(os.path.abspath(os.path.expanduser(cache)))  # noqa: PTH100, PTH111 (as pooch does)
    except ConnectionError:
        raise
    except OSError as error:
        raise InputError(
            f"cannot use the cache folder {cache}: {error.strerror or error}; change that, or name another "
            "folder in the environment variable D2L_LIGHTNING_CACHE"
        ) from error


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder inside another, which is created; it is removed at the end.

    What killed processes left there is removed first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clear_debris(folder)
    prefix = f"{SCRATCH}{platform.node()}-"
    with _lock(folder, shared=True), tempfile.TemporaryDirectory(prefix=prefix, dir=folder) as scratch:
        yield Path(scratch)


@contextmanager
def _lock(folder: Path, shared: bool) -> Iterator[bool]:
    """Lock a folder, which dies with the process; yield whether the system can and no other lock is there."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield False
        return
    handle = os.open(folder, os.O_RDONLY)
    locked = False
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        yield locked
    finally:
        os.close(handle)


def clear_debris(folder: Path) -> None:
    """Remove what killed processes left in a folder, as far as that can be, and nothing of others."""
    of_the_hub = re.fullmatch("[0-9a-f]{40}", folder.name)
    ours: list[Path] = []
    with suppress(OSError):
        ours += [path for path in folder.iterdir() if path.name.startswith(SCRATCH)]
        ours += [path for path in folder.iterdir() if of_the_hub and EARLIER.fullmatch(path.name)]
    if not ours:
        return
    with _lock(folder, shared=False) as alone:
        for path in ours:
            with suppress(OSError):  # another process may remove it too
                # Processes of other machines, on a folder that is shared by network, may not see the lock.
                dead = alone and path.name.startswith(f"{SCRATCH}{platform.node()}-")
                newest = max(part.lstat().st_mtime for part in (path, *path.rglob("*")))
                if dead or time.time() - newest > DAY:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
