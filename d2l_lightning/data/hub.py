"""The data hub: named files, downloaded once, verified by SHA-1 and kept in a cache folder (Section 4.10.1).

The cache folder is the argument ``cache_dir``, the environment variable ``D2L_LIGHTNING_CACHE``, or the
system's folder for caches, in this order. A file is at ``<cache>/<sha1>/<file name>``, so that entries with
the same file name never share a file, and an unpacked folder always belongs to the archive beside it.
"""

import gzip
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal
from urllib.parse import urlsplit

HOUSES_URL = "http://d2l-data.s3-accelerate.amazonaws.com/kaggle_house_pred_"
# Name -> (URL, SHA-1). Add an entry to make another file available.
DATA_HUB: dict[str, tuple[str, str]] = {
    "kaggle_house_train": (HOUSES_URL + "train.csv", "585e9cc93e70b39160e7921475f9bcd7d31219ce"),
    "kaggle_house_test": (HOUSES_URL + "test.csv", "fa19780a7b011d9b009e8bff8e99922a8ee2eb90"),
}

Folder = str | os.PathLike[str]
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
# What damaged archives raise: zipfile RuntimeError for a password or an unknown compression, tarfile KeyError
# for a hard link to a missing file, gzip and zlib errors of their own.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
TAR_ERRORS = (tarfile.TarError, gzip.BadGzipFile, KeyError)


def cache_folder() -> Path:
    """Return the default cache folder."""
    import pooch

    return Path(os.environ.get("D2L_LIGHTNING_CACHE") or pooch.os_cache("d2l_lightning"))


def download(name: str, cache_dir: Folder | None = None) -> Path:
    """Download a file of ``DATA_HUB`` unless the cache has it; verify it and return its path.

    After a failed attempt or a wrong SHA-1, it tries twice more.

    Args:
        name: A key of ``DATA_HUB``.
        cache_dir: The cache folder, if not the default one.

    Raises:
        ValueError: If the name is unknown, or the server's file has another SHA-1.
        ConnectionError: If the file could not be downloaded completely.
        OSError: If the cache folder is not writable.
    """
    url, sha1, filename = _entry(name)
    # A run without downloads does not need these slow imports.
    import pooch
    from requests.exceptions import RequestException

    key = f"{sha1}/{filename}"
    registry, folder = {key: f"sha1:{sha1}"}, cache_dir or cache_folder()
    hub = pooch.create(path=folder, base_url="", registry=registry, urls={key: url}, retry_if_failed=2)
    path: Path = hub.abspath / key
    # pooch creates this folder too, but fails if another process creates it at the same moment.
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        hub.fetch(key, progressbar=True)
    except (RequestException, ValueError) as error:
        # pooch keeps a damaged file until it has a new one.
        if path.exists() and pooch.file_hash(path, alg="sha1") != sha1:
            path.unlink()
        kind = ConnectionError if isinstance(error, RequestException) else ValueError
        raise kind(
            f"cannot fetch {name!r} from {url} ({error}); try again later, or save the file by hand as {path}"
        ) from error
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
        ValueError: If the file is not such an archive, is damaged, lacks the folder, or has a member that
            could be written outside the archive's folder. Other errors are those of ``download``.
    """
    url, _, filename = _entry(name)
    suffix = next((suffix for suffix in ARCHIVES if filename.lower().endswith(suffix)), None)
    if suffix is None:
        raise ValueError(f"cannot extract {name!r}: {url} does not end in one of {', '.join(ARCHIVES)}")
    archive = download(name, cache_dir)
    root = archive.with_name("extracted")
    if not root.is_dir():
        _unpack(archive, root)
    if folder is None:
        own = root / filename[: -len(suffix)]
        return own if own.is_dir() else root
    if not (root / folder).is_dir():
        raise ValueError(f"{name!r} has no folder {folder!r}; its contents are in {root}")
    return root / folder


def download_all(cache_dir: Folder | None = None) -> list[Path]:
    """Download all files of ``DATA_HUB`` in its order; raises as ``download``."""
    return [download(name, cache_dir) for name in DATA_HUB]


def _entry(name: str) -> tuple[str, str, str]:
    """Return URL, SHA-1 and file name of an entry; raise a ValueError if there is none."""
    if name not in DATA_HUB:
        raise ValueError(f"unknown file {name!r}: DATA_HUB knows {', '.join(sorted(DATA_HUB))}")
    url, sha1 = DATA_HUB[name]
    return url, sha1, PurePosixPath(urlsplit(url).path).name


def _unpack(archive: Path, root: Path) -> None:
    """Unpack an archive into the folder ``root``, which appears when it is complete, or not at all."""
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch:
        whole = Path(scratch, "whole")
        whole.mkdir()
        try:
            if archive.suffix.lower() == ".zip":
                with zipfile.ZipFile(archive) as unzipped:
                    _refuse_outside(archive, ((member, member) for member in unzipped.namelist()))
                    unzipped.extractall(whole)
            else:
                _untar(archive, whole)
        except (*ZIP_ERRORS, *TAR_ERRORS) as error:
            raise ValueError(
                f"cannot unpack {archive} ({error}): its SHA-1 is right, so the file itself is damaged or "
                "not of the kind that its name says; correct the entry of DATA_HUB"
            ) from error
        try:
            whole.rename(root)
        except OSError:  # another process may have unpacked the same archive first
            if not root.is_dir():
                raise


def _untar(archive: Path, whole: Path) -> None:
    """Unpack a tar or tar.gz file into the folder ``whole``."""
    mode: Literal["r:", "r:gz"] = "r:" if archive.suffix.lower() == ".tar" else "r:gz"
    # errorlevel 2: any member that cannot be unpacked is an error; by default, tarfile ignores some.
    with tarfile.open(archive, mode, errorlevel=2) as tar:
        members = tar.getmembers()
        _refuse_outside(archive, ((m.name, path) for m in members for path in (m.name, m.linkname)))
        # tarfile takes a damaged header for the end, and does not read as far as gzip's checksum.
        assert tar.fileobj is not None
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("no end mark")
        while tar.fileobj.read(2**20):
            pass
        # The standard library's protection against devices, owners and modes; Python 3.11.2 lacks it.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(whole)


def _refuse_outside(archive: Path, paths: Iterable[tuple[str, str]]) -> None:
    """Raise a ValueError if the path of a (member, path) is absolute or contains ``..``, on any system.

    Without ``..`` in names and targets, no chain of links leads outside. Links with ``..`` that stay inside
    are refused too: the attempt to allow them caused CVE-2025-4330 and CVE-2025-4517 in tarfile.
    """
    for member, path in paths:
        # PureWindowsPath, because Windows has drives and accepts both slashes.
        if PureWindowsPath(path).anchor or ".." in PureWindowsPath(path).parts:
            raise ValueError(f"refused to unpack {archive}: member {member!r} could land outside its folder")
