"""Where a run's metrics, figures, tables and files go: CSV, TensorBoard, Weights & Biases."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from d2l_lightning.errors import InputError
from d2l_lightning.runs.folder import RunFolder
from d2l_lightning.runs.report import Table, print_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TrackerName = Literal["csv", "tensorboard", "wandb", "none"]
WandbMode = Literal["online", "offline", "disabled"]


class Tracker:
    """What a run sends to a tracker. As a Lightning logger, a tracker also has ``log_metrics``.

    A method does nothing where a tracker has no place for what it is given.
    """

    def add_figure(self, name: str, figure: "Figure", path: Path) -> None:
        """Add a figure that was saved as a PNG file."""

    def add_table(self, table: Table) -> None:
        """Add a table."""

    def add_artifact(self, path: Path, name: str, kind: str) -> None:
        """Add a file."""

    def add_summary(self, results: Mapping[str, Any]) -> None:
        """Add the numbers among the results."""

    def close(self, failed: bool) -> None:
        """End the run, which failed or not."""


class CSVTracker(Tracker, CSVLogger):
    """Writes metrics to ``metrics.csv``."""

    def __init__(self, folder: RunFolder) -> None:
        folder.record("metrics.csv")
        super().__init__(folder.path, name="", version="")


class TensorBoardTracker(Tracker, TensorBoardLogger):
    """Writes metrics and figures to the folder ``tensorboard``."""

    def __init__(self, folder: RunFolder) -> None:
        folder.record("tensorboard/")
        super().__init__(folder.path, name="tensorboard", version="")

    def add_figure(self, name: str, figure: "Figure", path: Path) -> None:
        """See ``Tracker``."""
        self.experiment.add_figure(name, figure)


class WandbTracker(Tracker, WandbLogger):
    """Sends metrics, figures, tables and files to Weights & Biases; errors as in ``open_trackers``."""

    def __init__(self, folder: RunFolder, config: str, project: str, mode: WandbMode) -> None:
        import wandb

        self.mode = mode
        # Otherwise caches and uploads are in the home folder, where `wandb sync` misses them elsewhere.
        cache = str(folder.path.absolute() / "wandb" / "cache")
        self._variables = {v: cache for v in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR") if v not in os.environ}
        os.environ.update(self._variables)
        try:
            run = wandb.init(
                project=project,
                name=f"{folder.experiment}/{folder.path.name}",
                group=folder.experiment,
                config=yaml.safe_load(config),
                mode=mode,
                force=True,  # the prompt for an account must not offer to go on without one
                dir=folder.path,
                reinit="finish_previous",
                settings=wandb.Settings(init_timeout=30, console="off", silent=True),
            )
        except (wandb.Error, ValueError) as error:
            self._teardown(1)
            reason = str(error).split("\nConsider")[0].strip().rstrip(".")
            login = ". Log in with `wandb login` or WANDB_API_KEY, or give --wandb_mode offline"
            raise InputError(
                f"Weights & Biases did not start ({reason}); nothing was trained{login * (mode == 'online')}"
            ) from error
        except KeyboardInterrupt:
            self._teardown(1)
            raise
        super().__init__(experiment=run, save_dir=folder.path)
        run.define_metric("*", step_metric="epoch")
        for axis in ("epoch", "trainer/global_step"):
            run.define_metric(axis, hidden=True)  # no panel of its own
        if mode == "online":
            print_line(f"Weights & Biases: {run.url}")

    def add_figure(self, name: str, figure: "Figure", path: Path) -> None:
        """See ``Tracker``."""
        import wandb

        self.experiment.log({f"figures/{name}": wandb.Image(str(path))})

    def add_table(self, table: Table) -> None:
        """See ``Tracker``."""
        import wandb

        columns: list[str | int] = [column or "name" for column in table.columns]
        data: list[Any] = [[None if cell == "" else cell for cell in row] for row in table.rows]
        logged = wandb.Table(columns=columns, data=data, allow_mixed_types=True)
        self.experiment.log({f"tables/{table.name}": logged})

    def add_artifact(self, path: Path, name: str, kind: str) -> None:
        """See ``Tracker``."""
        self.experiment.log_artifact(str(path), name=name, type=kind)

    def add_summary(self, results: Mapping[str, Any]) -> None:
        """See ``Tracker``."""
        numbers = {name: value for name, value in results.items() if isinstance(value, int | float)}
        self.experiment.summary.update(numbers)

    def close(self, failed: bool) -> None:
        """See ``Tracker``."""
        self.experiment.finish(exit_code=int(failed))
        if self.mode == "offline":
            print_line(f"to send it to Weights & Biases: wandb sync {Path(self.experiment.dir).parent}")
        self._teardown(int(failed))

    def _teardown(self, exit_code: int) -> None:
        import wandb

        wandb.teardown(exit_code)
        for variable in self._variables:
            os.environ.pop(variable, None)


def open_trackers(
    name: TrackerName, folder: RunFolder, config: str, wandb_project: str, wandb_mode: WandbMode
) -> list[Tracker]:
    """Return the trackers of a new run, and clear its folder of an earlier one.

    Raises:
        InputError: If Weights & Biases does not start; the earlier run's results are still there then.
    """
    trackers: list[Tracker] = []
    if name == "wandb":
        folder.clear("wandb/")
        folder.record("wandb/")
        try:
            trackers.append(WandbTracker(folder, config, wandb_project, wandb_mode))
        except (InputError, KeyboardInterrupt):
            folder.clear("wandb/")
            raise
    folder.clear(keep=[] if name != "wandb" else ["wandb/"])
    if name != "none":
        trackers.append(CSVTracker(folder))
    if name == "tensorboard":
        trackers.append(TensorBoardTracker(folder))
    return trackers
