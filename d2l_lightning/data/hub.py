"""The data hub: named files, fetched once, verified by SHA-1 and kept in a cache folder (Section 4.10.1).

The cache folder is `cache_dir` where given, else the environment variable `D2L_LIGHTNING_CACHE`, else the
system's folder for caches. A file lies in it under its digest, `<cache>/<sha1>/<file name>`, so that entries
whose URLs end alike never share a file, and what was unpacked beside an archive belongs to that very archive.
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

DATA_URL = "http://d2l-data.s3-accelerate.amazonaws.com/"

# Name -> (URL, SHA-1). Add an entry to make a file known.
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

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


def cache_folder() -> Path:
    """Return the default cache folder."""
    import pooch

    return Path(os.environ.get("D2L_LIGHTNING_CACHE") or pooch.os_cache("d2l_lightning"))


def download(name: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the path of a verified copy of a file in `DATA_HUB`, fetched only where the cache has none.

    A failed attempt, or one that brings other bytes than the digest tells, is made twice again.

    Args:
        name: A key of `DATA_HUB`.
        cache_dir: The cache folder, where not the default one.

    Raises:
        ValueError: The name is unknown, or the server's file does not have the SHA-1.
        ConnectionError: The file could not be fetched whole.
        OSError: The cache folder cannot be written.

    Source: Section 4.10.1.
    """
    url, sha1, filename = _entry(name)

    # Here, as they cost more than all else that a run without downloads would import.
    import pooch
    from requests.exceptions import RequestException

    key = f"{sha1}/{filename}"
    hub = pooch.create(
        path=cache_dir or pooch.os_cache("d2l_lightning"),
        base_url="",
        env=None if cache_dir else "D2L_LIGHTNING_CACHE",
        registry={key: f"sha1:{sha1}"},
        urls={key: url},
        retry_if_failed=2,
    )
    path: Path = hub.abspath / key
    # pooch makes this folder too, but trips when another process makes it at the same moment.
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        hub.fetch(key, progressbar=True)
    except (RequestException, ValueError) as error:
        # pooch keeps a damaged file until it has a better one, and now there is none.
        if path.exists() and pooch.file_hash(path, alg="sha1") != sha1:
            path.unlink()
        kind = ConnectionError if isinstance(error, RequestException) else ValueError
        raise kind(
            f"cannot fetch {name!r} from {url} ({error}); try again later, or save the file by hand as {path}"
        ) from error
    return path


def download_extract(
    name: str, folder: str | None = None, cache_dir: str | os.PathLike[str] | None = None
) -> Path:
    """Download a zip, tar or tar.gz file, unpack it once, and return the folder with its contents.

    An unpacked folder is used again as it stands: delete it to have it unpacked anew.

    Args:
        name: A key of `DATA_HUB`.
        folder: The folder inside the archive to return. By default, the one named like the archive (`toy` in
            `toy.zip`), or the folder that holds all the contents where the archive has none of that name.
        cache_dir: The cache folder, where not the default one.

    Raises:
        ValueError: The file is no such archive, is damaged, has no such folder, or has a member that could
            land outside the archive's folder; or as for `download`.
        ConnectionError: As for `download`.
        OSError: As for `download`.

    Source: Section 4.10.1.
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
        raise ValueError(f"{name!r} has no folder {folder!r}: see what it holds in {root}")
    return root / folder


def download_all(cache_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Download every file in `DATA_HUB`, in its order; errors as for `download` (Section 4.10.1)."""
    return [download(name, cache_dir) for name in DATA_HUB]


def _entry(name: str) -> tuple[str, str, str]:
    """Return URL, SHA-1 and file name of an entry; raise ValueError where there is none."""
    if name not in DATA_HUB:
        raise ValueError(f"unknown file {name!r}: DATA_HUB knows {', '.join(sorted(DATA_HUB))}")
    url, sha1 = DATA_HUB[name]
    return url, sha1, PurePosixPath(urlsplit(url).path).name


def _unpack(archive: Path, root: Path) -> None:
    """Unpack an archive into the folder `root`, which appears whole or not at all."""
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
        # RuntimeError is zipfile's word for a password or an unknown compression, KeyError tarfile's for a
        # hard link to nothing, BadGzipFile and zlib.error those for damaged data.
        except (
            zipfile.BadZipFile,
            tarfile.TarError,
            gzip.BadGzipFile,
            zlib.error,
            EOFError,
            RuntimeError,
            KeyError,
        ) as error:
            raise ValueError(
                f"cannot unpack {archive} ({error}): its SHA-1 is right, so the file that DATA_HUB names is "
                "itself damaged or not what its name tells; name a sound one there"
            ) from error
        try:
            whole.rename(root)
        except OSError:
            # Another process may have been first, with the same contents: the digest is the same.
            if not root.is_dir():
                raise


def _untar(archive: Path, whole: Path) -> None:
    """Unpack a tar or tar.gz file into the folder `whole`."""
    mode: Literal["r:", "r:gz"] = "r:" if archive.suffix.lower() == ".tar" else "r:gz"
    # errorlevel 2: a member that cannot be unpacked is an error, where tarfile would pass over some.
    with tarfile.open(archive, mode, errorlevel=2) as tar:
        members = tar.getmembers()
        _refuse_outside(archive, ((member.name, member.name) for member in members))
        _refuse_outside(archive, ((m.name, m.linkname) for m in members if m.issym() or m.islnk()))
        # tarfile takes a damaged header for the end, and leaves gzip's checksum at the very end unread.
        assert tar.fileobj is not None
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("no end mark")
        while tar.fileobj.read(2**20):
            pass
        # The standard library's own guard, against devices, owners and modes; Python 3.11.2 lacks it.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(whole)


def _refuse_outside(archive: Path, paths: Iterable[tuple[str, str]]) -> None:
    """Raise ValueError for a (member, path) whose path is absolute or has `..` in it, by any system's rules.

    Where no name and no link's target climbs, no chain of links leads out. That also refuses links that climb
    and stay inside; telling them apart is what tarfile's filter got wrong in CVE-2025-4330 and CVE-2025-4517.
    """
    for member, path in paths:
        # Windows's rules take both slashes for separators, and know drives.
        if PureWindowsPath(path).anchor or ".." in PureWindowsPath(path).parts:
            raise ValueError(f"refused to unpack {archive}: member {member!r} could land outside its folder")
