"""Paths that libraries take as they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec.core


@contextmanager
def literal_paths() -> Iterator[None]:
    """Let fsspec take an absolute path as it is, within the context.

    Lightning opens all files through fsspec, which reads ``/runs/lr=5::a`` as a chain of file systems.
    """
    split = fsspec.core._un_chain

    def split_url(path: str, kwargs: Any) -> Any:
        return [(path, "file", kwargs)] if Path(path).is_absolute() else split(path, kwargs)

    fsspec.core._un_chain = split_url
    try:
        yield
    finally:
        fsspec.core._un_chain = split
