"""The state of a run in its folder: with it, a run that was killed goes on as if it had not been."""

import re
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from d2l_lightning.distributed.group import broadcast, num_processes, process
from d2l_lightning.errors import InputError
from d2l_lightning.runs.folder import CONFIG, STATE, RunFolder, whole_file
from d2l_lightning.runs.journal import Journal, Row
from d2l_lightning.runs.report import print_warning

# The file that has the id of the run on Weights & Biases.
WANDB_ID = f"{STATE}wandb_id"
# Flags that change no result; the number of threads may change last bits, which is a warning.
_HOW = {
    *("checkpoint_every", "enable_progress_bar", "steps_per_execution", "threads"),
    *("wandb_mode", "wandb_project", "devices", "num_nodes", "strategy", "join_timeout", "cuda_graphs"),
}
# The entry of a fit's checkpoint that Lightning does not have.
ENTRY = "d2l_lightning"


@dataclass
class SavedFit:
    """What was saved of a fit.

    Attributes:
        path: The checkpoint.
        finished: Whether the fit was done.
        error: Why the fit diverged; empty if it did not.
        max_epochs: The number of epochs, if the flags set it; else None.
        versions: Those of the packages, and the number of threads.
        first_row: The number of rows of the journal up to the end of the fit before.
        rows: The rows after them.
        rng: The states of the random number generators.
        has_validated: Whether the loader of validation data was created.
        reloaded: The epochs in which the loaders of training and validation data were created.
        module: The ``fit_state`` of the model.
    """

    path: Path
    finished: bool
    error: str
    max_epochs: int | None
    versions: dict[str, str]
    first_row: int
    rows: list[Row]
    rng: dict[str, Any]
    has_validated: bool
    reloaded: tuple[float, float]
    module: dict[str, torch.Tensor]

    @property
    def place(self) -> int:
        """The number of rows of the journal up to then."""
        return self.first_row + len(self.rows)


class RunState:
    """The state of a run: a checkpoint of every fit that began, and the one before it.

    Args:
        folder: The run folder.
        seconds: The least time between two checkpoints within a fit.

    Attributes:
        journal: The metrics that the run logged.
    """

    def __init__(self, folder: RunFolder, seconds: float) -> None:
        self.journal = Journal()
        self._folder, self._seconds = folder, seconds
        self._saved_at = time.monotonic()
        # By the order of the fits: the names, what was saved, and the rows that the fits before had logged.
        self._names: list[str] = []
        self._saved: list[SavedFit] = []
        self._first_rows = [0]
        self._damaged: set[Path] = set()
        self._warned = False

    def load(self, max_epochs: int | None) -> None:
        """Read what an earlier process saved.

        Args:
            max_epochs: The flag. Fits to which it applies, and which are done with fewer epochs, go on.
        """
        rows = self.journal.rows
        for place in range(10_000):
            saved = self._read(place)
            if saved is None:
                break
            rows += saved.rows
            if saved.finished and None not in (max_epochs, saved.max_epochs):
                saved.finished = max_epochs <= saved.max_epochs  # type: ignore[operator]
                if not saved.finished:  # the rows of later fits are on the server
                    (self._folder.path / WANDB_ID).unlink(missing_ok=True)
            self._saved.append(saved)
            if not saved.finished:
                break
        self._discard(len(self._saved))

    def share(self) -> None:
        """Take what process 0 has read, if there are several."""
        self._saved, self.journal.rows = broadcast((self._saved, self.journal.rows))

    def begin(self, name: str) -> int:
        """Begin the next fit; return its place among the fits."""
        self._names.append(name)
        place = len(self._names) - 1
        saved = self.saved(place)  # compared now, because each fit has its number of threads
        if saved is not None and not self._warned:
            self._warned = _warn_of_other_versions(saved.versions)
        return place

    def saved(self, place: int) -> SavedFit | None:
        """Return what was saved of the fit at a place; None if nothing was."""
        return self._saved[place] if place < len(self._saved) else None

    @property
    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self._saved_at >= self._seconds

    def write(self, place: int, entry: dict[str, Any], save: Callable[[Path], None]) -> None:
        """Write the checkpoint of a fit; of several processes, the first one does.

        Args:
            place: The place of the fit.
            entry: The fields of ``SavedFit``; the rows of the journal are added.
            save: Writes the checkpoint, with the entry, to a path.
        """
        self._saved_at = time.monotonic()
        if process() > 0:
            return
        first = self._first_rows[place]
        entry |= {
            "versions": versions(),
            "first_row": first,
            "rows": self.journal.rows[first : self.journal.place],
        }
        self._folder.record(STATE)
        path, previous = self._paths(place)
        with whole_file(path) as partial:
            save(partial)
            if path.exists() and path not in self._damaged:
                path.replace(previous)
        self._damaged.discard(path)

    def end(self, place: int) -> None:
        """Note that the fit is done: its rows are not saved again."""
        self._first_rows[place + 1 :] = [self.journal.place]

    def _paths(self, place: int) -> tuple[Path, Path]:
        """Return the paths of a fit's checkpoint and of the one before it."""
        stem = f"{place + 1:02d}_{re.sub(r'[^A-Za-z0-9_-]+', '_', self._names[place])}"
        folder = self._folder.path / STATE
        return folder / f"{stem}.ckpt", folder / f"{stem}.previous.ckpt"

    def _read(self, place: int) -> SavedFit | None:
        """Return the latest state of a fit that can be read; None if there is none."""
        files = sorted((self._folder.path / STATE).glob(f"{place + 1:02d}_*.ckpt"), key=_is_previous)
        for path in files:
            try:
                return _load(path)
            except Exception as error:  # torch raises errors of many kinds for damaged files
                self._damaged.add(path)
                before = "the state before it" if path != files[-1] else "the beginning of the fit"
                print_warning(f"{path} is damaged ({type(error).__name__}); the run goes on from {before}")
        return None

    def _discard(self, place: int) -> None:
        """Remove the checkpoints of the fits from a place on."""
        for path in (self._folder.path / STATE).glob("[0-9]*_*.ckpt"):
            if int(re.match(r"\d+", path.name)[0]) > place:  # type: ignore[index]
                path.unlink()


def versions() -> dict[str, str]:
    """Return what the last bits of a fit depend on, beside its settings."""
    packages = {name: version(name) for name in ("torch", "lightning")}
    return {**packages, "threads": str(torch.get_num_threads()), "processes": str(num_processes())}


def _warn_of_other_versions(before: dict[str, str]) -> bool:
    now = versions()
    before = {"processes": "1", **before}
    changed = ", ".join(
        f"{name} {before.get(name)} -> {now[name]}" for name in now if now[name] != before.get(name)
    )
    if changed:
        print_warning(f"the resumed run began with other versions ({changed}); last bits may differ")
    return bool(changed)


def _is_previous(path: Path) -> bool:
    return path.name.endswith(".previous.ckpt")


def _load(path: Path) -> SavedFit:
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():  # torch does not compare the checksums
            raise ValueError(damaged)
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return SavedFit(path=path, **checkpoint[ENTRY])


def require_same_config(folder: Path, config: str, finished: bool) -> None:
    """Check that a run is resumed with its configuration; ``max_epochs`` may grow unless it is finished.

    Raises:
        InputError: If anything else differs that results may depend on, or the file cannot be read.
    """
    path = folder / CONFIG
    advice = "the run cannot be resumed; start it again with --overwrite true"
    try:
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if any((folder / STATE).glob("*.ckpt")):
            raise InputError(f"{path} is missing; {advice}") from error
        return  # killed before it was written
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} is damaged; {advice}") from error
    now = yaml.safe_load(config)
    if not isinstance(before, dict) or not isinstance(now, dict):
        raise InputError(f"{path} is damaged; {advice}")
    for name in (*before, *(name for name in now if name not in before)):
        old, new = before.get(name), now.get(name)
        if old == new or name in _HOW:
            continue
        grows = name == "max_epochs" and isinstance(old, int) and isinstance(new, int) and -1 < old < new
        if grows and not finished:
            continue
        raise InputError(
            f"the run to resume has --{name} {old}, not {new}; give the same settings or another folder"
        )
