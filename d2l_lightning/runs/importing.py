"""The imports of an experiment: one line instead of a traceback, and no collection of garbage."""

import gc
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import NoReturn

IMPORTLIB = "<frozen importlib._bootstrap>"
_collection_paused = False


def guard_imports() -> None:
    """Let a script of an experiment end with one line where its imports would end with a traceback.

    Ctrl-C ends it with exit status 130, until ``stop_guarding``, and a working folder that was deleted with
    exit status 2: torch cannot be imported there. Garbage is not collected until ``collect_garbage``. Other
    programs that import this package are left alone.
    """
    global _collection_paused
    if not _runs_an_experiment():
        return
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):  # libraries read them as they are imported
        if not os.environ.get(name, "0").isdecimal():
            _end(f"the environment variable {name} must be a number from 0 on, not {os.environ[name]!r}", 2)
    try:
        Path.cwd()
    except FileNotFoundError:
        _end("the working folder was deleted; change to another folder", 2)
    main_thread = threading.current_thread() is threading.main_thread()
    if main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_import)
    if main_thread and os.getpid() == 1:  # in a container, where a signal without a handler is ignored
        signal.signal(signal.SIGTERM, _end_import)
    if gc.isenabled() and "lightning" not in sys.modules:
        gc.disable()
        _collection_paused = True


def collect_garbage() -> None:
    """Collect garbage again, but never look for it among what is imported: that is most of all objects."""
    global _collection_paused
    if _collection_paused:
        gc.freeze()
        gc.enable()
        _collection_paused = False


def stop_guarding() -> None:
    """Let Ctrl-C raise a KeyboardInterrupt again, and garbage be collected."""
    collect_garbage()
    if signal.getsignal(signal.SIGINT) is _end_import:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _runs_an_experiment() -> bool:
    try:
        script = Path(sys.modules["__main__"].__file__ or "")
        return "run_experiment(" in script.read_text(encoding="utf-8", errors="replace")
    except (AttributeError, OSError):  # a notebook has no script
        return False


def _end_import(number: int, frame: FrameType | None) -> None:
    while frame is not None and frame.f_code.co_filename != IMPORTLIB:
        frame = frame.f_back
    if frame is None and number == signal.SIGINT:
        raise KeyboardInterrupt
    _end("stopped before anything was done", 128 + number)


def _end(text: str, status: int) -> NoReturn:
    # An exception could be caught by any of the modules that are being imported.
    os.write(2, f"{Path(sys.argv[0]).stem}: {text}\n".encode(errors="replace"))
    os._exit(status)
