"""The run folder: files that appear whole, a manifest that names them, and a lock."""

import glob
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from d2l_lightning.distributed.group import broadcast
from d2l_lightning.errors import InputError

MANIFEST = "manifest.json"
CONFIG = "config.yaml"
RESULTS = "results.json"
# What an unfinished run needs to be resumed.
STATE = "state/"
# The files of Weights & Biases, which cannot be moved: they hold paths.
WANDB = "wandb/"
# The run that is to replace the finished run in the folder, until its results are there.
_NEW = ".new"
_LOCK = ".lock"
_PARTIAL = ".partial-"
# Files that operating systems and git put into folders.
_IGNORED = {
    *(".DS_Store", "._.DS_Store", "desktop.ini", "Thumbs.db", ".directory", ".gitkeep", ".gitignore"),
    *("lost+found", "@eaDir", ".Trash", ".Trashes", ".fseventsd", ".Spotlight-V100", "$RECYCLE.BIN"),
}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path to errors that do not name one, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Yield a path to write to; the file appears at the target when it is complete, or not at all.

    Raises:
        InputError: If a library added a suffix to the name, so that there is no file at the path.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, because libraries choose a format by it.
    partial = target.with_name(f"{_PARTIAL}{target.name}")
    try:
        with naming(target):
            yield partial
            renamed = [] if partial.exists() else _renamed(partial)
            if renamed:
                name = renamed[0].name.removeprefix(_PARTIAL)
                raise InputError(f"{target} has no suffix that names its format; take {name}, for example")
            with partial.open("rb") as file:
                os.fsync(file.fileno())  # otherwise a power cut may leave an empty file under the new name
        partial.replace(target)
    except BaseException:
        for path in _renamed(partial):
            path.unlink(missing_ok=True)
        raise
    finally:
        partial.unlink(missing_ok=True)


def _renamed(partial: Path) -> list[Path]:
    """Return the files that a library wrote under a partial name with a suffix of its own."""
    return [] if partial.suffix else sorted(partial.parent.glob(f"{glob.escape(partial.name)}.*"))


class RunFolder:
    """The folder that a run writes to.

    Its ``manifest.json`` lists all files that runs wrote. A later run in the same folder removes the listed
    files and nothing else. A run that replaces a finished one is in the folder ``.new`` until its results are
    there. One process owns the folder at a time.

    Args:
        path: The folder; ``runs/EXPERIMENT/TIME`` if None.
        experiment: The experiment's name.
        overwrite: Whether a run in the folder may be replaced.
        resume: Whether an unfinished run in the folder goes on.
        how_to_resume: Returns the command that resumes a run in a folder, for messages.

    Attributes:
        path: The folder that holds the files of the run at present.
        resuming: Whether the folder holds an unfinished run that goes on.
        finished: Whether there is nothing to resume, because the run in the folder is finished.

    Raises:
        InputError: If the folder is not writable, holds other files, is in use by another process, or holds a
            run and neither ``overwrite`` nor ``resume`` is true.
    """

    def __init__(
        self,
        path: str | Path | None,
        experiment: str,
        overwrite: bool = False,
        resume: bool = False,
        how_to_resume: Callable[[Path], str] = "--resume true --run_dir {}".format,
    ) -> None:
        if resume and path is None:
            raise InputError("--resume needs --run_dir, the folder of the run that is to go on")
        self.experiment, self._overwrite, self._resume = experiment, overwrite, resume
        self._timed = path is None
        # What the manifest says of the run beside its files.
        self._marks: dict[str, Any] = {"done": False}
        self._how_to_resume = how_to_resume
        self._target = _timed_folder(experiment) if path is None else Path(path)
        self._lock: FileLock | None = None
        existing = next(
            folder for folder in (self._target, *self._target.absolute().parents) if folder.exists()
        )
        if not existing.is_dir():
            raise InputError(f"--run_dir {self._target}: {existing} is a file, not a folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise InputError(f"--run_dir {self._target}: {existing} is not writable")
        try:
            self._look()
        except InputError:
            self.close()
            raise
        if self.finished:
            self.close()

    @property
    def target(self) -> Path:
        """The folder that holds the files of the run in the end."""
        return self._target

    def _look(self) -> None:
        """Set the attributes by what the folder holds now."""
        target = self.path = self._target
        self.resuming = self.finished = False
        self._names: list[str] = []
        if not target.exists():
            if target.is_symlink():
                raise InputError(f"--run_dir {target} is a link to a folder that does not exist")
            return
        if _manifest(target) is None:
            if (target / MANIFEST).exists():
                raise InputError(
                    f"--run_dir {target}: its {MANIFEST} is not that of a run; choose another folder"
                )
            ours = {_LOCK, _PARTIAL + MANIFEST}  # of a run that was killed as it began
            stray = sorted(file.name for file in target.iterdir() if file.name not in _IGNORED | ours)
            if stray:
                raise InputError(
                    f"--run_dir {target} holds {stray[0]}, which no run wrote; choose another folder"
                )
            return
        self._acquire()
        new = target / _NEW
        if (_manifest(new) or {}).get("whole"):  # killed while it replaced the earlier run
            self._replace()
        current = new if (new / MANIFEST).exists() else target
        manifest = _manifest(current) or {}
        if self._resume and manifest.get("experiment") != self.experiment:
            raise InputError(
                f"--run_dir {target} holds a run of {manifest.get('experiment')}, not of {self.experiment}"
            )
        if manifest.get("done", (current / RESULTS).exists()):
            if not self._overwrite and not self._resume:
                raise InputError(
                    f"--run_dir {target} holds a finished run; choose another folder or --overwrite true"
                )
            self.finished = not self._overwrite
            self.path = new if self._overwrite else target
            return
        if self._resume:
            self.path, self.resuming, self._names = current, True, _names(manifest)
        elif not self._overwrite:
            raise InputError(
                f"--run_dir {target} holds an unfinished run; to go on with it: "
                f"{manifest.get('resume', '--resume true')}; to start again: --overwrite true"
            )
        elif current is target:
            self._names = _names(manifest)
        else:
            self.path = new

    def _acquire(self) -> None:
        if self._lock is not None:
            return
        self._lock = FileLock(self._target / _LOCK)
        try:
            self._lock.acquire(blocking=False)
        except Timeout as error:
            self._lock = None
            raise InputError(f"--run_dir {self._target} is in use by another process") from error
        except (OSError, NotImplementedError):
            pass  # a file system without locks

    def share(self) -> None:
        """Take what process 0 of several found out about the folder."""
        self.resuming, self.finished, self._target = broadcast((self.resuming, self.finished, self._target))

    def create(self) -> None:
        """Create the folder; remove what an unfinished run left, unless it goes on.

        Raises:
            InputError: If it cannot be created, or another process came first.
        """
        self._new = not self._target.exists()
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            while self._timed:
                try:
                    self._target.mkdir()
                    break
                except FileExistsError:  # a run that started in the same second
                    self._target = self.path = _timed_folder(self.experiment)
            self._target.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot create the run folder {self._target}: {error.strerror}") from error
        if self._lock is None:
            self._acquire()
            if not self._new:
                self._look()  # another process may have used it in the meantime
        self._marks["resume"] = self._how_to_resume(self._target)
        if self.path != self._target:
            if not self.resuming:
                shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(exist_ok=True)
        if self.resuming:
            self._remove_partial_files()
        else:
            self.clear()
        self._write()

    def abandon(self) -> None:
        """Remove what this run created."""
        if self.path != self._target or self._new:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.clear()
            (self.path / MANIFEST).unlink()

    def end(self) -> None:
        """Note that the run is done, and remove what only an unfinished run needs."""
        self._marks = {"done": True}
        self.clear(STATE)

    def close(self) -> None:
        """Let other processes use the folder."""
        if self._lock is not None and self._lock.is_locked:
            with suppress(OSError):
                (self._target / _LOCK).unlink(missing_ok=True)
            self._lock.release()
        self._lock = None

    def clear(self, *names: str) -> None:
        """Remove files and folders that the manifest lists: these names, or all."""
        self._remove_partial_files()
        # The results first: a folder that is cleared in part holds no finished run.
        for name in sorted(self._names, key=lambda name: name != RESULTS):
            if name in (names or self._names):
                _remove(self.path, name)
                self._names.remove(name)
        self._write()

    def _remove_partial_files(self) -> None:
        """Remove the partial files of a run that was killed."""
        for name in (*self._names, MANIFEST):
            target = self.path / name
            if name.endswith("/"):
                for partial in target.glob(f"{_PARTIAL}*"):
                    partial.unlink(missing_ok=True)
            elif _inside(name):
                target.with_name(f"{_PARTIAL}{target.name}").unlink(missing_ok=True)

    def record(self, name: str) -> None:
        """Add a file, or a folder whose name ends in a slash, to the manifest before it is written."""
        if name not in self._names:
            self._names.append(name)
            self._write()
        if name == WANDB and self.path != self._target:  # W&B writes to the target at once
            earlier = _manifest(self._target) or {}
            names = dict.fromkeys([*_names(earlier), name])
            _write_manifest(self._target, **{**earlier, "files": list(names)})

    def _write(self) -> None:
        _write_manifest(self.path, self.experiment, self._names, **self._marks)

    def file(self, name: str) -> AbstractContextManager[Path]:
        """Return a context with a path to write to; the file appears in the folder when it is complete."""
        self.record(name)
        return whole_file(self.path / name)

    def replace(self, keep: Sequence[str] = ()) -> None:
        """Put this run, whose results are there, into the place of the finished run that it replaces.

        Args:
            keep: Files and folders that are still in use; a second call moves them.
        """
        if self.path == self._target / _NEW:
            self._marks["whole"] = str(time.time_ns())
            self._write()
        if (self._target / _NEW / MANIFEST).exists():
            self._replace(keep)

    def _replace(self, keep: Sequence[str] = ()) -> None:
        # A kill between any two steps leaves a folder in which the next call goes on.
        new, target = self._target / _NEW, self._target
        manifest, old = _manifest(new) or {}, _manifest(target) or {}
        experiment, names = manifest["experiment"], _names(manifest)
        if old.get("moving") == manifest["whole"]:
            names = _names(old)  # with those of files that were written after the first call
        else:
            for name in sorted(_names(old), key=lambda name: name != RESULTS):
                if not (name == WANDB and name in names):
                    _remove(target, name)
            _write_manifest(target, experiment, names, done=False, moving=manifest["whole"])
        for name in names:
            if (new / name).exists() and name not in keep:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (new / name).replace(target / name)
        self.path, self._names = target, names
        self._marks = {"done": False, "resume": manifest.get("resume"), "moving": manifest["whole"]}
        if not any((new / name).exists() for name in names):
            for child in new.iterdir():
                if child.is_dir():
                    shutil.rmtree(child, ignore_errors=True)
            shutil.rmtree(new, ignore_errors=True)  # the manifest last
            del self._marks["moving"]
            self._write()


class NoRunFolder(RunFolder):
    """The run folder in the processes of a run that write nothing.

    Args:
        path: The folder of the first process, if it is known.
        experiment: The experiment's name.
    """

    def __init__(self, path: Path | None, experiment: str) -> None:
        self.path = self._target = path or Path("runs", experiment)
        self.resuming = self.finished = False

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Do nothing."""

    create = abandon = end = close = clear = record = replace = _nothing

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Yield a path to write to; the file is removed."""
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, Path(name).name)


def _inside(name: str) -> bool:
    """Return whether a name of a manifest is inside the folder, as every name that a run wrote."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _remove(folder: Path, name: str) -> None:
    path = folder / name
    if not _inside(name):
        return
    if name.endswith("/") and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif path.is_file() or path.is_symlink():
        path.unlink()
        if path.parent != folder and not any(path.parent.iterdir()):
            path.parent.rmdir()


def _write_manifest(folder: Path, experiment: str, files: Sequence[str], **marks: Any) -> None:
    manifest = {**marks, "d2l_lightning": "run", "experiment": experiment, "files": list(files)}
    with whole_file(folder / MANIFEST) as path:
        path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a folder; None if the folder has no manifest of a run."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest if "d2l_lightning" in manifest and isinstance(manifest["files"], list) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _names(manifest: dict[str, Any]) -> list[str]:
    return [str(name) for name in manifest.get("files", [])]


def _timed_folder(experiment: str) -> Path:
    """Return a folder under runs/ that is named after the time and does not exist yet."""
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    names = (now, *(f"{now}_{n}" for n in range(2, 1000)))
    return next(
        folder for folder in (Path("runs", experiment, name) for name in names) if not folder.exists()
    )
