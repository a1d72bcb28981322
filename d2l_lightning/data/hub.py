"""The data hub: named files, fetched once, verified by SHA-1 and kept in a cache folder (Section 4.10.1).

The house prices are in the package and need no network. Other files are downloaded, or copied from this
machine.

The cache folder is the argument ``cache_dir``, the environment variable ``D2L_LIGHTNING_CACHE``, or the
system's folder for caches, in this order. A file is at ``<cache>/<sha1>/<file name>``, so that entries with
the same file name never share a file, and an unpacked folder always belongs to the archive beside it.

Files are downloaded and unpacked in a scratch folder beside their place. What a killed process leaves there
is removed by the next call for the same entry.
"""

import errno
import gzip
import hashlib
import io
import math
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from d2l_lightning.data.reading import reading
from d2l_lightning.data.scratch import Folder, clear_debris, scratch_folder, using_cache
from d2l_lightning.errors import InputError, absolute_path, printable

DATA_URL = "http://d2l-data.s3-accelerate.amazonaws.com/"
# Name -> (URL, SHA-1). Add an entry to make another file available; a file on this machine has a file:// URL,
# or its path in place of a URL.
DATA_HUB: dict[str, tuple[str, str]] = {
    "kaggle_house_train": (
        DATA_URL + "kaggle_house_pred_train.csv",
        "585e9cc93e70b39160e7921475f9bcd7d31219ce",
    ),
    "kaggle_house_test": (
        DATA_URL + "kaggle_house_pred_test.csv",
        "fa19780a7b011d9b009e8bff8e99922a8ee2eb90",
    ),
}

BUNDLED = Path(__file__).with_name("files")  # gzipped files of the package, by the names in their URLs
SCHEMES = ("http", "https", "ftp", "sftp", "file")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
UNPACKED_LIMIT = 4 * 10**9  # bytes
HEADER_LIMIT = 256 * 2**20  # bytes of the headers of a tar file, about half a million members
# Errors of the disk and its permissions; other errors while unpacking are the archive's.
OF_THE_DISK = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.EMFILE, errno.ENFILE),
}


def cache_folder() -> Path:
    """Return the default cache folder."""
    import pooch

    return absolute_path(os.environ.get("D2L_LIGHTNING_CACHE") or pooch.os_cache("d2l_lightning"))


def download(name: str, cache_dir: Folder | None = None) -> Path:
    """Fetch a file of ``DATA_HUB`` unless the cache has it; verify it and return its path.

    The house prices come from the package. After a failed download or a wrong SHA-1, it tries twice more.

    Args:
        name: A key of ``DATA_HUB``.
        cache_dir: The cache folder, if not the default one.

    Raises:
        InputError: If the name is unknown, its entry is not a URL and a SHA-1, the file has another SHA-1 or
            cannot be read, or the cache folder cannot be used.
        ConnectionError: If the file could not be downloaded completely.
    """
    url, sha1, filename = _entry(name)
    with using_cache(cache_dir or cache_folder()) as cache:
        path = cache / sha1 / filename
        if _verified(path, sha1):
            clear_debris(path.parent)
            return path
        with scratch_folder(path.parent) as scratch:
            if _copied(name, scratch / filename):
                (scratch / filename).replace(path)
                return path
            # A run without downloads does not need these slow imports.
            import pooch
            from requests import exceptions

            registry, urls = {filename: f"sha1:{sha1}"}, {filename: url}
            hub = pooch.create(path=scratch, base_url="", registry=registry, urls=urls, retry_if_failed=2)
            try:
                hub.fetch(filename, progressbar=True)
            except (exceptions.RequestException, ValueError) as error:
                if _verified(path, sha1):  # by another process
                    return path
                path.unlink(missing_ok=True)
                failed = isinstance(error, exceptions.RequestException)
                reason, remedy = printable(str(error)), "try again later"
                if isinstance(error, exceptions.ConnectionError):
                    reason = f"no connection to {urlsplit(url).hostname}"
                elif found := re.search("but got ([0-9a-f]{40})", reason):
                    reason = f"its SHA-1 is {found[1]}, and DATA_HUB says {sha1}"
                    remedy = "correct the entry if the file is right, or try again later"
                message = (
                    f"cannot fetch {name!r} from {url} ({reason}); {remedy}, or save the file by hand as"
                )
                raise (ConnectionError if failed else InputError)(f"{message} {path}") from error
            (scratch / filename).replace(path)
    return path


def download_extract(name: str, folder: str | None = None, cache_dir: Folder | None = None) -> Path:
    """Download a zip, tar or tar.gz file, unpack it, and return the folder with its contents.

    A later call returns the folder as it is. To unpack the archive again, delete the folder.

    Args:
        name: A key of ``DATA_HUB``.
        folder: The folder inside the archive to return. The default is the folder with the archive's name
            (``toy`` in ``toy.zip``), or the folder of all contents if there is none.
        cache_dir: The cache folder, if not the default one.

    Raises:
        InputError: If the file is not such an archive, is damaged, lacks the folder, takes more than 4 GB
            when unpacked, or has a member that could be written outside the archive's folder. Other errors
            are those of ``download``.
    """
    url, _, filename = _entry(name)
    suffix = next((suffix for suffix in ARCHIVES if filename.lower().endswith(suffix)), None)
    if suffix is None:
        raise InputError(f"cannot extract {name!r}: {url} does not end in one of {', '.join(ARCHIVES)}")
    archive = download(name, cache_dir)
    root = archive.with_name("extracted")
    if not root.is_dir():
        with using_cache(root.parent):
            _unpack(archive, root)
    if folder is None:
        own = root / filename[: -len(suffix)]
        return own if own.is_dir() else root
    if not (root / folder).is_dir():
        raise InputError(f"{name!r} has no folder {folder!r}; its contents are in {root}")
    return root / folder


def download_all(cache_dir: Folder | None = None) -> list[Path]:
    """Fetch all files of ``DATA_HUB`` in its order and return their paths; errors as in ``download``."""
    return [download(name, cache_dir) for name in DATA_HUB]


def _verified(path: Path, sha1: str) -> bool:
    return path.exists() and _sha1(path) == sha1


def _sha1(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha1").hexdigest()


def _entry(name: str) -> tuple[str, str, str]:
    """Return URL, SHA-1 and file name of an entry.

    Raises:
        InputError: If there is none, or it is not the URL of a file and a SHA-1.
    """
    if name not in DATA_HUB:
        raise InputError(f"unknown file {name!r}: DATA_HUB knows {', '.join(sorted(DATA_HUB))}")
    entry: Any = DATA_HUB[name]
    if not (isinstance(entry, tuple | list) and [type(part) for part in entry] == [str, str]):
        raise InputError(f"DATA_HUB[{name!r}] must be a URL and a SHA-1, two texts, not {entry!r}")
    url, sha1 = entry
    if not re.fullmatch("[0-9a-fA-F]{40}", sha1):
        raise InputError(
            f"the SHA-1 of {name!r} in DATA_HUB must be 40 hexadecimal digits, not {sha1!r}; "
            "sha1sum FILE prints them"
        )
    try:
        path = _path_of(url)
        urlsplit(url)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"the URL of {name!r} in DATA_HUB is wrong: {error}: {url}") from error
    if path is None and urlsplit(url).scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise InputError(f"the URL of {name!r} in DATA_HUB must begin with one of {known}: {url}")
    filename = PurePosixPath(urlsplit(url).path).name if path is None else path.name
    if not filename:
        raise InputError(f"the URL of {name!r} in DATA_HUB must end in the name of a file: {url}")
    return url, sha1.lower(), filename


def _path_of(url: str) -> Path | None:
    """Return the path of a file on this machine, given as a file:// URL or a path; None for other URLs."""
    if url.startswith("file:"):
        return absolute_path(url2pathname(urlsplit(url).path))
    return None if "://" in url else absolute_path(url)


def _copied(name: str, target: Path) -> bool:
    """Copy a file of ``DATA_HUB`` if it is on this machine or in the package; return whether it is.

    Raises:
        InputError: If a file on this machine cannot be read or has another SHA-1.
    """
    url, sha1, filename = _entry(name)
    own, packed = _path_of(url), BUNDLED / f"{filename}.gz"
    if own is None:
        if not packed.is_file():
            return False
        with gzip.open(packed) as stream, target.open("wb") as copy:
            shutil.copyfileobj(stream, copy)
        return _sha1(target) == sha1  # the user may have another file of this name in mind
    with reading(f"{own}, the file of {name!r} in DATA_HUB"):
        own.stat()
        shutil.copyfile(own, target)
    found = _sha1(target)
    if found != sha1:
        raise InputError(
            f"cannot use {own} as {name!r} (its SHA-1 is {found}, and DATA_HUB says {sha1}); correct the "
            "entry if the file is right"
        )
    return True


def _unpack(archive: Path, root: Path) -> None:
    """Unpack an archive into the folder ``root``, which appears when it is complete, or not at all."""
    with scratch_folder(root.parent) as scratch:
        whole = scratch / "whole"
        whole.mkdir()
        try:
            (_unzip if archive.suffix.lower() == ".zip" else _untar)(archive, whole)
        except InputError:
            raise
        except Exception as error:  # a damaged archive may raise anything
            if isinstance(error, OSError) and error.errno in OF_THE_DISK:
                raise
            raise InputError(
                f"cannot unpack {archive} ({error}): its SHA-1 is right, so the file itself is damaged or "
                "not of the kind that its name says; correct the entry of DATA_HUB"
            ) from error
        try:
            whole.rename(root)
        except OSError:  # another process may have unpacked the same archive first
            if not root.is_dir():
                raise


def _unzip(archive: Path, whole: Path) -> None:
    """Unpack a zip file into the folder ``whole``."""
    with zipfile.ZipFile(archive) as unzipped:
        _refuse_outside(archive, ((member, member) for member in unzipped.namelist()))
        _refuse_large(archive, sum(member.file_size for member in unzipped.infolist()))
        unzipped.extractall(whole)


class _TarBytes:
    """The bytes of a tar file, of which a limited number can be read: tarfile keeps headers in memory."""

    def __init__(self, stream: io.BufferedIOBase, limit: float) -> None:
        self.left, self.seek, self.tell = limit, stream.seek, stream.tell
        self._read = stream.read

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        self.left -= size
        if self.left < 0:
            raise tarfile.ReadError("its headers are too large")
        return self._read(size)


def _untar(archive: Path, whole: Path) -> None:
    """Unpack a tar or tar.gz file into the folder ``whole``."""
    plain = archive.suffix.lower() == ".tar"
    with closing(archive.open("rb") if plain else gzip.GzipFile(archive)) as stream:
        bounded = _TarBytes(stream, HEADER_LIMIT)
        # errorlevel 2: any member that cannot be unpacked is an error; by default, tarfile ignores some.
        with tarfile.open(fileobj=cast(Any, bounded), mode="r:", errorlevel=2) as tar:
            size = 0
            for member in tar:
                _refuse_outside(archive, ((member.name, path) for path in (member.name, member.linkname)))
                size += member.size
                _refuse_large(archive, size)
            # tarfile takes a damaged header for the end, and does not read as far as gzip's checksum.
            bounded.seek(tar.offset)
            if bounded.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("no end mark")
            while bounded.read(2**20):
                pass
            bounded.left = math.inf
            # The standard library's protection against devices, owners and modes; Python 3.11.2 lacks it.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(whole)


def _refuse_large(archive: Path, size: int) -> None:
    """Raise an InputError if the contents of an archive take too many bytes."""
    if size > UNPACKED_LIMIT:
        raise InputError(
            f"refused to unpack {archive}: its contents take more than {UNPACKED_LIMIT / 1e9:g} GB; if that "
            f"is right, unpack it by hand into {archive.with_name('extracted')}"
        )


def _refuse_outside(archive: Path, paths: Iterable[tuple[str, str]]) -> None:
    """Raise an InputError if the path of a (member, path) is absolute or contains ``..``, on any system.

    Without ``..`` in names and targets, no chain of links leads outside. Links with ``..`` that stay inside
    are refused too: the attempt to allow them caused CVE-2025-4330 and CVE-2025-4517 in tarfile.
    """
    for member, path in paths:
        # PureWindowsPath, because Windows has drives and accepts both slashes.
        if PureWindowsPath(path).anchor or ".." in PureWindowsPath(path).parts:
            raise InputError(f"refused to unpack {archive}: member {member!r} could land outside its folder")
