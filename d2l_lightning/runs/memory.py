"""How the C library gives memory to tensors."""

import ctypes
import os
from contextlib import suppress

# Numbers of settings of glibc's mallopt, and the largest threshold that it takes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 2**25
KEPT = 2**28


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensors, up to 256 MB.

    By default it returns large pieces to the system at once. Then tensors of some 100 kB, which training
    creates and frees in every step, get pages that the system has to clear first. Nothing is done with
    another C library, or if the user has set how glibc gives memory.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    with suppress(OSError, AttributeError, TypeError):  # not on macOS, Windows and with musl
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, KEPT)
