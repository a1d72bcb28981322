"""The run folder: files that appear whole, and a manifest that names them."""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from d2l_lightning.errors import InputError

MANIFEST = "manifest.json"
RESULTS = "results.json"


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Yield a path to write to; the file appears at the target when it is complete, or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, because libraries choose a format by it.
    partial = target.with_name(f".partial-{target.name}")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


class RunFolder:
    """The folder that a run writes to.

    Its ``manifest.json`` lists all files that runs wrote. A later run in the same folder removes the listed
    files and nothing else.

    Args:
        path: The folder; ``runs/EXPERIMENT/TIME`` if None.
        experiment: The experiment's name.
        overwrite: Whether a finished run in the folder may be replaced.

    Attributes:
        path: The folder.

    Raises:
        InputError: If the folder is not writable, holds other files, or holds a finished run and
            ``overwrite`` is False.
    """

    def __init__(self, path: str | None, experiment: str, overwrite: bool = False) -> None:
        self.experiment = experiment
        self._timed = path is None
        self.path = _timed_folder(experiment) if path is None else Path(path)
        self._names = _manifest(self.path) or []
        existing = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not existing.is_dir():
            raise InputError(f"--run_dir {self.path}: {existing} is a file, not a folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise InputError(f"--run_dir {self.path}: {existing} is not writable")
        if not self.path.exists() or not any(self.path.iterdir()):
            return
        if _manifest(self.path) is None:
            raise InputError(f"--run_dir {self.path} holds files of no run; choose another folder")
        if (self.path / RESULTS).exists() and not overwrite:
            raise InputError(
                f"--run_dir {self.path} holds a finished run; choose another folder or --overwrite true"
            )

    def create(self) -> None:
        """Create the folder.

        Raises:
            InputError: If it cannot be created.
        """
        self._new = not self.path.exists()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while self._timed:
                try:
                    self.path.mkdir()
                    break
                except FileExistsError:  # a run that started in the same second
                    self.path = _timed_folder(self.experiment)
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot create the run folder {self.path}: {error.strerror}") from error

    def abandon(self) -> None:
        """Remove the folder if this run created it."""
        if self._new:
            shutil.rmtree(self.path, ignore_errors=True)

    def clear(self, *names: str, keep: Sequence[str] = ()) -> None:
        """Remove files and folders that the manifest lists: these names, or all but those to keep."""
        # The results first: a folder that is cleared in part holds no finished run.
        for name in sorted(self._names, key=lambda name: name != RESULTS):
            if name in (names or self._names) and name not in keep:
                self._remove(name)
                self._names.remove(name)
        self._write()

    def _remove(self, name: str) -> None:
        path = self.path / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return  # not written by a run
        if name.endswith("/") and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file() or path.is_symlink():
            path.unlink()
            if path.parent != self.path and not any(path.parent.iterdir()):
                path.parent.rmdir()

    def record(self, name: str) -> None:
        """Add a file, or a folder whose name ends in a slash, to the manifest before it is written."""
        if name not in self._names:
            self._names.append(name)
            self._write()

    def _write(self) -> None:
        manifest = {"d2l_lightning": "run", "experiment": self.experiment, "files": self._names}
        with whole_file(self.path / MANIFEST) as path:
            path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    def file(self, name: str) -> AbstractContextManager[Path]:
        """Return a context with a path to write to; the file appears in the folder when it is complete."""
        self.record(name)
        return whole_file(self.path / name)


def _manifest(folder: Path) -> list[str] | None:
    """Return the names that a folder's manifest lists; None if the folder has no manifest of a run."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return [str(name) for name in manifest["files"]] if "d2l_lightning" in manifest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _timed_folder(experiment: str) -> Path:
    """Return a folder under runs/ that is named after the time and does not exist yet."""
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    names = (now, *(f"{now}_{n}" for n in range(2, 1000)))
    return next(
        folder for folder in (Path("runs", experiment, name) for name in names) if not folder.exists()
    )
