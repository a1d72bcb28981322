"""Two chapters of Dive into Deep Learning as PyTorch Lightning software.

The names that ``__init__.pyi`` lists can be imported from here. Their modules are loaded on first use, so
importing the package itself takes next to no time.
"""

import ast
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from d2l_lightning.runs.importing import guard_imports
from d2l_lightning.runs.lean_import import import_lightning_lean

guard_imports()
import_lightning_lean()

# By default, a thread of GNU's OpenMP that waits for others keeps its core busy for milliseconds. If another
# process needs the core, steps take up to 50 times as long (docs/performance.md). OpenMP reads the variable
# when torch is loaded. That of LLVM and Intel, on macOS and Windows, lets other processes have the core.
if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# PyTorch prints stack traces of C++ where a process that trains with others is gone; a run prints one line.
if "torch" not in sys.modules and not {"LOCAL_RANK", "SLURM_PROCID"}.isdisjoint(os.environ):
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

# A script started from a notebook inherits the notebook's backend in this variable, and matplotlib raises an
# error on import if the backend's package is not installed for the script's Python.
_backend = os.environ.get("MPLBACKEND", "")
if _backend.startswith("module://"):
    _package = _backend.removeprefix("module://").split(".")[0]
    if not _package or (_package not in sys.modules and find_spec(_package) is None):
        del os.environ["MPLBACKEND"]

# The module of each public name. The stub is the only list of them; type checkers read it too.
_modules = {
    alias.name: str(statement.module)
    for statement in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(statement, ast.ImportFrom)
    for alias in statement.names
}
__all__ = sorted(_modules)


def __getattr__(name: str) -> object:
    if name not in _modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_modules[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
