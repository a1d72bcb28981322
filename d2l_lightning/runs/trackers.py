"""Where a run's metrics, figures, tables and files go: CSV, TensorBoard, Weights & Biases."""

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from d2l_lightning.errors import InputError, require_known, without_password
from d2l_lightning.runs.folder import WANDB, RunFolder, naming
from d2l_lightning.runs.journal import Journal
from d2l_lightning.runs.report import Table, print_line
from d2l_lightning.runs.state import WANDB_ID

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TrackerName = Literal["csv", "tensorboard", "wandb", "none"]
WandbMode = Literal["online", "offline", "disabled"]
# Metrics are on disk after this time, or at the end of the epoch if that is later.
FLUSH_SECONDS = 2.0
METRICS, TENSORBOARD = "metrics.csv", "tensorboard/"
# The files of trackers in a run folder. They are in use until the trackers are closed.
TRACKED = (METRICS, TENSORBOARD, WANDB)
# The variables that set what a flag does not.
VARIABLES = {"wandb_project": "WANDB_PROJECT", "wandb_mode": "WANDB_MODE"}


class Tracker:
    """What a run sends to a tracker. As a Lightning logger, a tracker also has ``log_metrics``.

    A method does nothing where a tracker has no place for what it is given.

    Attributes:
        journal: The rows of the run.
        num_logged: The number of these rows that the tracker has already.
    """

    journal: Journal
    num_logged = 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log a row, which the journal has already, unless the tracker has it too."""
        if self.journal.place > self.num_logged:
            super().log_metrics(metrics, step)  # type: ignore[misc]

    def catch_up(self, journal: Journal) -> None:
        """Log the rows of a journal that the tracker does not have."""
        self.journal = journal
        for metrics, step in journal.rows[self.num_logged :]:
            super().log_metrics(metrics, step)  # type: ignore[misc]
        self.num_logged = max(self.num_logged, len(journal.rows))

    def flush(self) -> None:
        """Write what is in memory to files, if the last time was some seconds ago."""

    def add_axis(self, prefix: str, axis: str) -> None:
        """Draw the metrics whose names begin with a prefix over another metric."""

    def add_figure(self, name: str, figure: "Figure", path: Path) -> None:
        """Add a figure that was saved as a PNG file."""

    def add_table(self, table: Table) -> None:
        """Add a table."""

    def add_artifact(self, path: Path, name: str, kind: str) -> None:
        """Add a file."""

    def add_summary(self, results: Mapping[str, Any]) -> None:
        """Add the numbers among the results."""

    def close(self, exit_code: int) -> None:
        """End the run, whose process has an exit code."""


class CSVTracker(Tracker, CSVLogger):  # type: ignore[misc]
    """Writes metrics to ``metrics.csv``."""

    def __init__(self, folder: RunFolder) -> None:
        folder.record(METRICS)
        super().__init__(folder.path, name="", version="")
        self._flushed = time.monotonic()

    def flush(self) -> None:
        """See ``Tracker``."""
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.save()
            self._flushed = time.monotonic()

    def save(self) -> None:
        """Write the metrics."""
        with naming(Path(self.log_dir, "metrics.csv")):
            super().save()


class TensorBoardTracker(Tracker, TensorBoardLogger):  # type: ignore[misc]
    """Writes metrics and figures to the folder ``tensorboard``."""

    def __init__(self, folder: RunFolder) -> None:
        folder.record(TENSORBOARD)
        super().__init__(folder.path, name=TENSORBOARD.rstrip("/"), version="")

    def add_figure(self, name: str, figure: "Figure", path: Path) -> None:
        """See ``Tracker``."""
        self.experiment.add_figure(name, figure)


class WandbTracker(Tracker, WandbLogger):  # type: ignore[misc]
    """Sends metrics, figures, tables and files to Weights & Biases; errors as in ``open_trackers``."""

    def __init__(
        self, folder: RunFolder, config: str, project: str | None, mode: WandbMode | None, group: str
    ) -> None:
        import wandb

        by_variable = _set_by("WANDB_MODE")
        self.mode = mode or {"dryrun": "offline", "run": "online"}.get(by_variable, by_variable) or "online"
        require_known("the environment variable WANDB_MODE", self.mode, WandbMode)
        settings: dict[str, Any] = {"init_timeout": 30, "console": "off", "silent": True}
        settings = {name: value for name, value in settings.items() if not _set_by(f"WANDB_{name.upper()}")}
        self._folder = folder.target / WANDB
        self._earlier = self._runs()
        # Otherwise caches and uploads are in the home folder, where `wandb sync` misses them elsewhere.
        cache = str(self._folder.absolute() / "cache")
        self._variables = {v: cache for v in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR") if v not in os.environ}
        os.environ.update(self._variables)
        id_file = folder.path / WANDB_ID
        run_id = id_file.read_text() if id_file.exists() else None
        try:
            run = wandb.init(
                project=project or _set_by("WANDB_PROJECT") or "d2l_lightning",
                name=_set_by("WANDB_NAME") or f"{folder.experiment}/{folder.target.name}",
                group=_set_by("WANDB_RUN_GROUP") or group or folder.experiment,
                config=yaml.safe_load(config),
                mode=self.mode,
                force=True,  # the prompt for an account must not offer to go on without one
                dir=_set_by("WANDB_DIR") or folder.target,
                id=run_id,
                resume="allow" if run_id and self.mode == "online" else None,
                reinit="finish_previous",
                settings=wandb.Settings(**settings),
            )
        except BaseException as error:
            self._teardown(1)
            self._remove(self._runs() - self._earlier)
            if not isinstance(error, wandb.Error | ValueError):
                raise
            reason = str(error).split("\nConsider")[0].strip().rstrip(".")
            login = ". Log in with `wandb login` or WANDB_API_KEY, or give --wandb_mode offline"
            advice = login if self.mode == "online" else ""
            raise InputError(
                f"Weights & Biases did not start ({reason}); nothing was trained{advice}"
            ) from error
        super().__init__(experiment=run, save_dir=folder.target)
        with folder.file(WANDB_ID) as path:
            path.write_text(run.id)
        # The server keeps what it has got. An offline run begins anew, and gets all rows again.
        self.num_logged = run.step if run.resumed else 0
        run.define_metric("*", step_metric="epoch")
        for axis in ("epoch", "trainer/global_step"):
            run.define_metric(axis, hidden=True)  # no panel of its own
        if self.mode == "online":
            print_line(f"Weights & Biases: {run.url}")

    def add_axis(self, prefix: str, axis: str) -> None:
        """See ``Tracker``."""
        self.experiment.define_metric(f"{prefix}*", step_metric=axis)

    def _runs(self) -> set[Path]:
        """Return what is in the folder of Weights & Biases beside the cache."""
        return set(self._folder.glob("*")) - {self._folder / "cache"}

    def _remove(self, paths: set[Path]) -> None:
        for path in paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def add_figure(self, name: str, figure: "Figure", path: Path) -> None:
        """See ``Tracker``."""
        import wandb

        self.experiment.log({f"figures/{name}": wandb.Image(str(path))})

    def add_table(self, table: Table) -> None:
        """See ``Tracker``."""
        import wandb

        columns: list[str | int] = [column or "name" for column in table.columns]
        data: list[Any] = [
            [(without_password(cell) or None) if isinstance(cell, str) else cell for cell in row]
            for row in table.rows
        ]
        logged = wandb.Table(columns=columns, data=data, allow_mixed_types=True)
        self.experiment.log({f"tables/{table.name}": logged})

    def add_artifact(self, path: Path, name: str, kind: str) -> None:
        """See ``Tracker``."""
        self.experiment.log_artifact(str(path), name=name, type=kind)

    def add_summary(self, results: Mapping[str, Any]) -> None:
        """See ``Tracker``."""
        numbers = {name: value for name, value in results.items() if isinstance(value, int | float)}
        self.experiment.summary.update(numbers)

    def close(self, exit_code: int) -> None:
        """See ``Tracker``."""
        if exit_code > 128:
            self.experiment.mark_preempting()  # a sweep gives the run to an agent once more
        self.experiment.finish(exit_code=exit_code)
        self._teardown(exit_code)
        if exit_code == 0:
            links = {path for path in self._earlier if path.is_symlink()}  # of the newest run by now
            self._remove(self._earlier - links)
        if self.mode == "offline":
            print_line(f"to send it to Weights & Biases: wandb sync {Path(self.experiment.dir).parent}")

    def _teardown(self, exit_code: int) -> None:
        import wandb

        wandb.teardown(exit_code)
        for variable in self._variables:
            os.environ.pop(variable, None)


def _set_by(variable: str) -> Any:
    return os.environ.get(variable)


def open_trackers(
    name: TrackerName,
    folder: RunFolder,
    journal: Journal,
    config: str,
    wandb_project: str | None,
    wandb_mode: WandbMode | None,
    group: str = "",
) -> list[Tracker]:
    """Return the trackers of a run. They start anew and get the rows of the journal.

    Raises:
        InputError: If Weights & Biases does not start.
    """
    folder.clear(*TRACKED)
    trackers: list[Tracker] = []
    if name == "wandb":
        folder.record(WANDB)
        trackers.append(WandbTracker(folder, config, wandb_project, wandb_mode, group))
    if name != "none":
        trackers.append(CSVTracker(folder))
    if name == "tensorboard":
        trackers.append(TensorBoardTracker(folder))
    for tracker in trackers:
        tracker.catch_up(journal)
    return trackers
