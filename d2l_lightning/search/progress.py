"""A progress bar over the trials of a search, with the best value so far."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from d2l_lightning.runs.run import Run
from d2l_lightning.search.trials import from_optuna

if TYPE_CHECKING:
    from d2l_lightning.search.study import SearchStudy


class TrialsBar:
    """A context that shows how many trials of a study are done, and logs those of this worker.

    Args:
        study: The open study.
        run: The run of the worker.
    """

    def __init__(self, study: "SearchStudy", run: Run) -> None:
        self.study, self.run = study, run
        self._logged = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("settings"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[best]}"),
            console=Console(stderr=True),
            auto_refresh=False,  # no extra thread
            disable=run.trainer_flags.get("enable_progress_bar") is False,
        )
        self._task = self._bar.add_task("search", total=study.trials, best="")

    def __enter__(self) -> "TrialsBar":
        self._bar.start()
        self.update()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self) -> None:
        """Show the state of the study, and log the trials that this worker finished since the last call."""
        trials = from_optuna(self.study.counted())
        values = [trial.value for trial in trials if trial.state == "complete" and trial.value is not None]
        best = f"best {min(values):.6g}" if values else ""
        self._bar.update(self._task, completed=len(trials), best=best, refresh=True)
        self.run.progress = ", ".join(filter(None, (f"{len(trials)} of {self.study.trials} settings", best)))
        own = [trial for trial in trials if trial.worker == self.study.worker and trial.value is not None]
        for trial in sorted(own, key=lambda trial: (trial.ended, trial.number))[self._logged :]:
            self._logged += 1
            row = {"setting": trial.index, "value": trial.value or 0.0, "epochs": trial.epochs}
            row["done"] = self._logged
            self.run.log({f"search/{name}": value for name, value in row.items()}, axis="search/done")
