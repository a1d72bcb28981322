"""Freed memory is used again."""

import platform
import resource

import pytest
import torch

from d2l_lightning.runs import memory
from d2l_lightning.runs.memory import keep_freed_memory


def page_faults() -> int:
    """Return the page faults while 50 tensors of 8 MB, 2000 pages each, are created and freed in turn."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        torch.ones(2**21)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.parametrize("variable", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_what_the_user_has_set_stands(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("mallopt is called"))
    keep_freed_memory()


def test_tensors_get_memory_that_was_freed() -> None:
    keep_freed_memory()
    page_faults()
    # All of them would be 100,000.
    assert platform.libc_ver()[0] != "glibc" or page_faults() < 10_000


def test_another_c_library_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    keep_freed_memory()
