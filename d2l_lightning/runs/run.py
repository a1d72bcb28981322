"""A run: the context that ties an experiment to its seed, its folder, its trackers and its report."""

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, seed_everything
from lightning.pytorch.loggers import Logger

from d2l_lightning.callbacks.history import History
from d2l_lightning.callbacks.progress import EpochProgressBar
from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.runs.checkpoints import save_checkpoint
from d2l_lightning.runs.fit import LEAN, Fit, make_trainer
from d2l_lightning.runs.folder import RESULTS, RunFolder
from d2l_lightning.runs.report import (
    Table,
    attempt,
    environment,
    print_line,
    print_table,
    results_text,
)
from d2l_lightning.runs.trackers import Tracker, TrackerName, WandbMode, open_trackers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Warnings of Lightning's that do not apply here.
IGNORED = (
    ".*does not have many workers",
    ".*exists and is not empty",
    ".*number of training batches .* is smaller than the logging interval",
    ".*across ranks is zero",  # no validation rows were asked for
    ".*have no `(validation_step|val_dataloader)`",
    ".*LeafSpec",  # with torch >= 2.14
)


class Run:
    """One run of an experiment.

    As a context it seeds everything on entry and closes the trackers on exit.

    Args:
        experiment: The experiment's name.
        config: The text of config.yaml, which runs the experiment again.
        seed: Seed of initial weights, row orders and all other random numbers.
        logger: Where metrics go: metrics.csv in the run folder (csv), that file and TensorBoard or Weights &
            Biases (tensorboard, wandb), or nowhere (none).
        run_dir: The run folder; runs/EXPERIMENT/TIME if not given.
        overwrite: Whether a finished run in the run folder may be replaced.
        wandb_project: The project on Weights & Biases.
        wandb_mode: Whether Weights & Biases gets data at once (online), files for a later `wandb sync`
            (offline), or nothing (disabled).
        source: The folder of the experiment's code, whose git commit is reported.
        trainer_flags: Flags of Lightning's Trainer.

    Attributes:
        folder: The run folder.

    Raises:
        InputError: If the seed is out of range or the run folder cannot be used.
    """

    def __init__(
        self,
        experiment: str,
        config: str = "",
        seed: int = 0,
        logger: TrackerName = "csv",
        run_dir: str | None = None,
        overwrite: bool = False,
        wandb_project: str = "d2l_lightning",
        wandb_mode: WandbMode = "online",
        source: Path | None = None,
        **trainer_flags: Any,
    ) -> None:
        if not 0 <= seed < 2**32:
            raise InputError(f"--seed must be from 0 to {2**32 - 1}, not {seed}")
        self.experiment, self.config, self.seed, self.logger = experiment, config, seed, logger
        self.wandb_project, self.wandb_mode = wandb_project, wandb_mode
        self.trainer_flags = trainer_flags
        self.trainer_flags.update({flag: LEAN[flag] for flag in LEAN if trainer_flags.get(flag) is None})
        self._began = time.perf_counter()
        self._source = source or Path.cwd()
        self._device = torch.device("cpu")
        self._fits: set[str] = set()
        self._trackers: list[Tracker] | None = None
        self._files = RunFolder(run_dir, experiment, overwrite)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self._files.path

    @property
    def started(self) -> bool:
        """Whether the run folder was created."""
        return self._trackers is not None

    def __enter__(self) -> "Run":
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        for message in IGNORED:
            warnings.filterwarnings("ignore", message)
        seed_everything(self.seed, workers=True, verbose=False)
        return self

    def start(self) -> None:
        """Create the run folder and open the trackers; a second call does nothing.

        Raises:
            InputError: If the folder cannot be created or Weights & Biases does not start.
        """
        if self._trackers is not None:
            return
        self._files.create()
        try:
            self._trackers = open_trackers(
                self.logger, self._files, self.config, self.wandb_project, self.wandb_mode
            )
        except (InputError, KeyboardInterrupt):
            self._files.abandon()
            raise
        with self.file("config.yaml") as path:
            path.write_text(self.config, encoding="utf-8")

    def fit(
        self,
        name: str,
        model: SupervisedModule,
        data: LightningDataModule,
        *,
        title: str | None = None,
        prefix: str | None = None,
        callbacks: Sequence[Callback] = (),
        max_epochs: int | None = None,
        num_validations: int | None = None,
        complete: bool = False,
        logged: bool = True,
    ) -> Fit:
        """Train a model by a Trainer of its own; the first fit starts the run.

        Args:
            name: The fit's name, which no other fit of the run has.
            model: The model.
            data: Its data.
            title: What is trained, for the progress bar and messages; the name if not given.
            prefix: Text before the names of all metrics; ``NAME/`` if not given.
            callbacks: Callbacks beside the progress bar.
            max_epochs: Epochs of this fit, if not those of the flags.
            num_validations: How often the fit is validated at most; the flag ``check_val_every_n_epoch``
                overrides it.
            complete: Whether flags that end the fit early are an error.
            logged: Whether metrics are logged.

        Raises:
            InputError: If a flag does not suit the machine or the other flags, or as ``start``.
            StoppedError: If the user stops the run.
        """
        if name in self._fits:
            raise ValueError(f"the run has a fit {name!r} already")
        title = name.replace("_", " ") if title is None else title
        bar = [] if self.trainer_flags.get("enable_progress_bar") is False else [EpochProgressBar(title)]
        trainer = make_trainer(self.folder, [*callbacks, *bar], **self.trainer_flags)
        self.start()
        self._fits.add(name)
        self._device = trainer.strategy.root_device
        trial = bool(self.trainer_flags.get("fast_dev_run"))
        if max_epochs is not None and not trial:
            trainer.fit_loop.max_epochs = max_epochs
        if num_validations is not None and self.trainer_flags.get("check_val_every_n_epoch") in (None, 1):
            trainer.check_val_every_n_epoch = max(1, (trainer.max_epochs or 0) // num_validations)
        history = History()
        if logged and not trial:
            trainer.loggers = cast(list[Logger], [history, *(self._trackers or [])])
        model.log_prefix = f"{name}/" if prefix is None else prefix
        fit = Fit(title, model, data, trainer, history)
        fit.train()
        epochs, last = trainer.max_epochs or 0, trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if complete and not trial and not (last and 0 < epochs <= trainer.current_epoch):
            raise InputError(f"the flags end the fit of the {title} early; its results would be meaningless")
        return fit

    def file(self, name: str) -> AbstractContextManager[Path]:
        """Return a context with a path to write to; the file appears in the run folder when complete."""
        return self._files.file(name)

    def record(self, name: str) -> Path:
        """Return the path of a file, or of a folder whose name ends in a slash, that the caller will write.

        A later run in the run folder removes it.
        """
        self._files.record(name)
        return self.folder / name

    def finish(
        self,
        results: Mapping[str, Any],
        *,
        products: "Mapping[str, pd.DataFrame] | None" = None,
        checkpoints: Mapping[str, LightningModule] | None = None,
        figures: "Mapping[str, Callable[[], Figure]] | None" = None,
        tables: Iterable[Table] = (),
        notes: Iterable[str] = (),
    ) -> None:
        """End the run: write products, checkpoints and results, then draw, then print.

        What comes after results.json only shows results. An error there becomes a warning.

        Args:
            results: The results of results.json.
            products: Tables to write as CSV files, by the file's name.
            checkpoints: Models to write as ``checkpoints/NAME.ckpt``, by name.
            figures: Functions that draw the figures ``figures/NAME.png``, by name.
            tables: Tables to print and log; a generator is run after the results are written.
            notes: Lines to print below the tables.

        Raises:
            ValueError: If a number in the results is not finite.
        """
        self.start()
        for name, product in (products or {}).items():
            with self.file(name) as path:
                product.to_csv(path, index=False)
        for name, model in (checkpoints or {}).items():
            with self.file(f"checkpoints/{name}.ckpt") as path:
                save_checkpoint(model, path)
        seconds = time.perf_counter() - self._began
        text = results_text(
            self.experiment, results, seconds, environment(self.seed, self._device, self._source)
        )
        with self.file(RESULTS) as path:
            path.write_text(text, encoding="utf-8")

        self._log("summary", results)
        for path in [self.folder / name for name in products or {}]:
            self._log("artifact", path, f"{self.experiment}-{path.stem}", path.stem)
        for name, draw in (figures or {}).items():
            with attempt(f"draw the figure {name}"):
                self._draw(name, draw)
        with attempt("print the tables"):
            for table in tables:
                self._log("table", table)
                print_table(table)
            for note in notes:
                print_line(note)
        with attempt("print the run folder"):
            print_line(f"done in {seconds:.1f} s; everything is in {self.folder}")

    def _draw(self, name: str, draw: "Callable[[], Figure]") -> None:
        from d2l_lightning.plots.style import default_style

        with default_style():
            figure = draw()
            with self.file(f"figures/{name}.png") as partial_path:
                figure.savefig(partial_path)
            self._log("figure", name, figure, self.folder / "figures" / f"{name}.png")

    def _log(self, kind: str, *values: Any) -> None:
        for tracker in self._trackers or []:
            with attempt(f"log the {kind}"):
                getattr(tracker, f"add_{kind}")(*values)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in self._trackers or []:
            with attempt("close the tracker"):
                tracker.close(failed=error is not None)
