"""What a run reports: results.json with its environment, and everything that is printed."""

import json
import math
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from d2l_lightning.distributed.group import process
from d2l_lightning.errors import DivergenceError, printable, without_password

if TYPE_CHECKING:
    import pandas as pd
    from lightning.pytorch import LightningModule
    from matplotlib.figure import Figure

# The packages whose versions a result may depend on.
PACKAGES = ("d2l_lightning", "torch", "lightning", "torchmetrics", "torchvision", "pandas", "numpy")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Table:
    """A titled table with a note below; cells that are floats are printed with six decimals."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float]]
    note: str = ""
    printed: bool = True  # or only logged

    @property
    def name(self) -> str:
        """The first words of the title, with underscores: the same for all settings of an experiment."""
        return "_".join(re.split(r"[^\w ]", self.title)[0].lower().split())


@dataclass(frozen=True)
class Report:
    """The arguments of ``Run.finish``."""

    results: Mapping[str, Any]
    products: "Mapping[str, pd.DataFrame]" = field(default_factory=dict)
    checkpoints: "Mapping[str, LightningModule]" = field(default_factory=dict)
    figures: "Mapping[str, Callable[[], Figure]]" = field(default_factory=dict)
    tables: Iterable[Table] = ()
    notes: Iterable[str] = ()


def print_table(table: Table) -> None:
    """Print a table with its note; of several processes, the first one does."""
    if process() > 0:
        return
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    def text(cell: str | float) -> Text:
        # The brackets of a unit are not markup.
        return Text(_number(cell) if isinstance(cell, float) else printable(str(cell)))

    drawn = RichTable(title=text(table.title), title_justify="left")
    for place, column in enumerate(table.columns):
        drawn.add_column(text(column), justify="left" if place == 0 else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*map(text, row))
    console = Console()
    with console.capture() as capture:  # rich itself ends the program where a pipe is closed
        console.print(drawn, *[text(table.note)] * bool(table.note), sep="\n")
    print(capture.get(), end="")


def _number(value: float) -> str:
    """Return a number with six decimals, or with six digits if it is too large or too small for them."""
    return f"{value:.6f}" if value == 0 or 1e-4 <= abs(value) < 1e6 else f"{value:.6g}"


def print_line(text: str) -> None:
    """Print a line; of several processes, the first one does."""
    if process() == 0:
        print(printable(text), flush=True)


def print_progress(text: str) -> None:
    """Print a line about the progress of a run to stderr."""
    if process() == 0:
        print(printable(text), file=sys.stderr, flush=True)


def print_warning(text: str) -> None:
    """Print a warning to stderr, as one line; of several processes, the first one does."""
    if process() == 0:
        print_error(f"warning: {text}")


def print_error(text: str) -> None:
    """Print a text to stderr as one line, whichever process this is."""
    with suppress(OSError, ValueError):
        print(one_line(text), file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """Return a text as one line of at most 1,000 characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= 1000 else f"{line[:1000]} ..."


@contextmanager
def attempt(what: str) -> Iterator[None]:
    """Turn an error inside the context into a warning: to show results must not fail a run."""
    try:
        yield
    except Exception as error:
        print_warning(f"could not {what}: {error or type(error).__name__}")


def track(items: Iterable[Item], description: str) -> Iterable[Item]:
    """Iterate over items with a progress bar on stderr, in the first of several processes."""
    if process() > 0:
        return items
    from rich.console import Console
    from rich.progress import track as rich_track

    return rich_track(items, description=printable(description), console=Console(stderr=True))


def require_finite_results(results: Any, name: str = "") -> None:
    """Raise a DivergenceError that names the first result that is infinite or not a number, which JSON lacks.

    Args:
        results: The results: dictionaries and lists of numbers and texts.
        name: The name of these results, such as ``models.scratch``.
    """
    if isinstance(results, float) and not math.isfinite(results):
        raise DivergenceError(f"the result {name} is {results}; take a lower lr, or less extreme settings")
    if isinstance(results, Mapping | list | tuple):
        pairs = results.items() if isinstance(results, Mapping) else enumerate(results)
        for key, value in pairs:
            require_finite_results(value, f"{name}.{key}" if name else str(key))


def results_text(
    experiment: str,
    results: Mapping[str, Any],
    seconds: float,
    environment: dict[str, Any],
    trial: bool = False,
) -> str:
    """Return the text of results.json, without passwords.

    Raises:
        ValueError: If a number in the results is not finite.
    """
    parts = {
        "experiment": experiment,
        **({"trial": True} if trial else {}),
        "results": results,
        "seconds": round(seconds, 3),
    }
    text = json.dumps({**parts, "environment": environment}, indent=2, allow_nan=False)
    return without_password(text) + "\n"


def environment(
    seed: int, device: torch.device, processes: int, threads: int, source: Path
) -> dict[str, Any]:
    """Return what results may depend on: device, platform, seed, versions, commit of ``source`` and so on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "device": str(device),
        "device_name": name or platform.machine(),
        "processes": processes,
        "threads": threads,
        "platform": platform.platform(),
        "seed": seed,
        "git_commit": git_commit(source),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def git_commit(source: Path) -> str | None:
    """Return the git commit of a folder, with ``-dirty`` if files differ; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        described = subprocess.run(command, cwd=source, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
