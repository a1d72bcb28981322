"""A run: the context that ties an experiment to its seed, its folder, its trackers and its report."""

import logging
import os
import shlex
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import yaml
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import Logger

from d2l_lightning.callbacks.history import History
from d2l_lightning.callbacks.progress import EpochProgressBar
from d2l_lightning.ensemble.single import step_graph
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError, absolute_path, require_positive
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.execution import (
    StepsPerExecution,
    require_steps_per_execution,
    require_whole_steps,
)
from d2l_lightning.runs.checkpoints import save_checkpoint
from d2l_lightning.runs.fit import Fit
from d2l_lightning.runs.folder import CONFIG, RESULTS, NoRunFolder, RunFolder
from d2l_lightning.runs.heartbeat import Heartbeat
from d2l_lightning.runs.memory import keep_freed_memory
from d2l_lightning.runs.paths import literal_paths
from d2l_lightning.runs.place import one_voice, place_of
from d2l_lightning.runs.processes import Processes
from d2l_lightning.runs.report import (
    Item,
    Table,
    attempt,
    environment,
    print_error,
    print_line,
    print_table,
    require_finite_results,
    results_text,
    track,
)
from d2l_lightning.runs.resumable_fit import ResumableFit
from d2l_lightning.runs.signals import StoppedError, StopSignals
from d2l_lightning.runs.state import RunState, require_same_config
from d2l_lightning.runs.threads import Threads
from d2l_lightning.runs.trackers import TRACKED, Tracker, TrackerName, WandbMode, open_trackers
from d2l_lightning.runs.trainer_flags import LEAN, check_batches, check_flags, given_flags, make_trainer

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
    ".*GPU available but not used",  # other Trainers compute on the CPU
    ".*sync_dist=True",  # what is logged is the same in all processes
    ".*lr_scheduler.step.. before .optimizer.step",  # with scaled gradients, the first step may be skipped
    ".*AMP with fp16 is not supported on CPU",  # it is, see make_trainer
)


class Run:
    """One run of an experiment.

    As a context it seeds everything on entry and closes the trackers on exit. Within it, the signals SIGINT,
    SIGTERM and SIGHUP, and SIGUSR1 in a SLURM job, stop the run after its state is saved.

    Args:
        experiment: The experiment's name.
        config: The text of config.yaml, which runs the experiment again; if not given, the seed, the logger
            and the flags of the Trainer.
        seed: Seed of initial weights, row orders and all other random numbers.
        logger: Where metrics go: metrics.csv in the run folder (csv), that file and TensorBoard or Weights &
            Biases (tensorboard, wandb), or nowhere (none).
        run_dir: The run folder. If not given, runs/EXPERIMENT/TIME.
        overwrite: Whether a run in the run folder may be replaced. A finished one is replaced when the
            results of the new one are there.
        resume: Whether a run in the run folder that was stopped or killed goes on where it stood. If there is
            none, the run starts from the beginning.
        checkpoint_every: Seconds between two savings of the state that ``resume`` needs, at the ends of
            epochs; 0 for every epoch.
        steps_per_execution: How many minibatches are trained on between two turns of the Trainer, with the
            same results in less time. With `auto`, those of a whole epoch, or 1 where a callback or another
            flag needs every step.
        cuda_graphs: Whether a GPU replays steps as CUDA graphs, with the same results in less time. With
            `auto`, wherever it is possible.
        threads: The number of threads that PyTorch computes with. If not given, that of OMP_NUM_THREADS, or
            for each fit as many as its work is large enough for, within the CPUs that the run may use.
        wandb_project: The project on Weights & Biases. If not given, that of the environment variable
            WANDB_PROJECT, or d2l_lightning.
        wandb_mode: Whether Weights & Biases gets data at once (online), files for a later `wandb sync`
            (offline), or nothing (disabled). If not given, that of the environment variable WANDB_MODE, or
            online.
        source: The folder of the experiment's code, whose git commit is reported.
        command: The command line that starts the run.
        join_timeout: Seconds to wait for the other processes of the run, where several devices or machines
            train together.
        trainer_flags: Flags of Lightning's Trainer.

    Attributes:
        folder: The run folder.
        finished: Whether there is nothing to resume, because the run in the folder is finished.
        group: The group of the run on Weights & Biases; if empty, that of the experiment.
        progress: How far the run is, for the line that is printed now and then; if empty, the fit says so.

    Raises:
        InputError: If the seed or a flag is out of range, the run folder cannot be used, or the run to resume
            has another configuration.
    """

    def __init__(
        self,
        experiment: str,
        config: str = "",
        seed: int = 0,
        logger: TrackerName = "csv",
        run_dir: str | Path | None = None,
        overwrite: bool = False,
        resume: bool = False,
        checkpoint_every: float = 30.0,
        steps_per_execution: StepsPerExecution = "auto",
        cuda_graphs: bool | Literal["auto"] = "auto",
        threads: int | None = None,
        wandb_project: str | None = None,
        wandb_mode: WandbMode | None = None,
        source: Path | None = None,
        command: str = "",
        join_timeout: float = 300.0,
        **trainer_flags: Any,
    ) -> None:
        self.experiment, self.seed, self.logger = experiment, seed, logger
        self.wandb_project, self.wandb_mode = wandb_project, wandb_mode
        self.trainer_flags = trainer_flags
        self.trainer_flags.update({flag: LEAN[flag] for flag in LEAN if trainer_flags.get(flag) is None})
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        with one_voice():
            if not 0 <= seed < 2**32:
                raise InputError(f"--seed must be from 0 to {2**32 - 1}, not {seed}")
            if not checkpoint_every >= 0:
                raise InputError(f"--checkpoint_every must not be negative; it is {checkpoint_every}")
            require_positive(**{"--join_timeout": join_timeout})
            require_steps_per_execution(steps_per_execution, "--steps_per_execution")
            check_flags(self.trainer_flags)
            place = place_of(self.trainer_flags)
            rank_zero_only.rank = place.rank  # type: ignore[attr-defined]  # Lightning takes any variable's
            self._threads = Threads(threads, place.local_size)
            self._processes = Processes(place, command, join_timeout, self._lose)
        self.config = config or _settings(seed, logger, trainer_flags)
        self.steps_per_execution, self._cuda_graphs = steps_per_execution, cuda_graphs
        self._began = time.perf_counter()
        self._source = source or Path.cwd()
        self._device = torch.device("cpu")
        self._fits: set[str] = set()
        self._trackers: list[Tracker] | None = None
        self._command_line = command
        self._literal_paths = literal_paths()
        self._fit: Fit | None = None
        self.progress = self.group = ""
        self._heartbeat = Heartbeat(self._progress)
        self._done = self._together = False
        self._signals = StopSignals(self._processes)
        with self._processes.closed_on_error():
            if self._processes.join_early:
                self._processes.join()
            self._files = self._open_folder(run_dir, overwrite, resume)
            self._state = RunState(self._files, checkpoint_every)
            self._shared = self._processes.joined
            if self._shared:
                self._files.share()
            if self.finished:
                self._processes.wait()
                self._processes.close()

    def _open_folder(self, run_dir: str | Path | None, overwrite: bool, resume: bool) -> RunFolder:
        """Return the run folder; in processes other than the first, one that nothing is written to."""
        run_dir = None if run_dir is None else absolute_path(run_dir)
        if not self._processes.is_first:
            return NoRunFolder(run_dir, self.experiment)
        files = RunFolder(run_dir, self.experiment, overwrite, resume, self._command)
        try:
            if self.trial and files.path != files.target:
                raise InputError(
                    "a trial run (--fast_dev_run) does not replace a finished run; give another folder"
                )
            if files.resuming or files.finished:
                require_same_config(files.path, self.config, files.finished)
        except InputError:
            files.close()
            raise
        return files

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self._files.path

    @property
    def finished(self) -> bool:
        """Whether there is nothing to resume, because the run in the folder is finished."""
        return self._files.finished

    @property
    def started(self) -> bool:
        """Whether the run folder was created."""
        return self._trackers is not None

    @property
    def is_first(self) -> bool:
        """Whether this is the first of the processes of the run, which alone writes and prints."""
        return self._processes.is_first

    @property
    def num_processes(self) -> int:
        """The number of processes that train together."""
        return self._processes.place.size

    @property
    def trial(self) -> bool:
        """Whether the flag ``fast_dev_run`` limits training to a few batches, which makes no product."""
        return bool(self.trainer_flags.get("fast_dev_run"))

    def __enter__(self) -> "Run":
        if self.finished:
            raise InputError(f"the run in {self.folder} is finished; there is nothing to resume")
        self._literal_paths.__enter__()
        for message in IGNORED:
            warnings.filterwarnings("ignore", message)
        if not self.is_first:
            warnings.simplefilter("ignore")  # the first process has the same
        seed_everything(self.seed, workers=True, verbose=False)
        self._threads.__enter__()
        keep_freed_memory()
        self._signals.__enter__()
        if self.trainer_flags.get("enable_progress_bar") is not False and self.is_first:
            self._heartbeat.__enter__()
        return self

    def _progress(self) -> str:
        """Return how far the run is, as a line of text."""
        at = f"{self.experiment}: {time.perf_counter() - self._began:.0f} s"
        done = "" if self._fit is None else self._fit.progress()
        return ", ".join(filter(None, (at, self.progress or done)))

    def start(self) -> None:
        """Create the run folder and open the trackers; a second call does nothing.

        Raises:
            InputError: If the folder cannot be created or Weights & Biases does not start.
        """
        if self._trackers is not None:
            return
        if not self.is_first:
            self._trackers = []
            return
        self._files.create()
        self._state.load(self.trainer_flags.get("max_epochs"))
        try:
            self._trackers = open_trackers(
                self.logger,
                self._files,
                self._state.journal,
                self.config,
                self.wandb_project,
                self.wandb_mode,
                self.group,
            )
        except BaseException:
            if not self._files.resuming:
                self._files.abandon()
            raise
        with self.file(CONFIG) as path:
            path.write_text(self.config, encoding="utf-8")

    def _join(self) -> None:
        """Start together with the other processes, if there are any; a second call does nothing."""
        if self.num_processes == 1 or self._together:
            return
        if not self._shared:
            self._processes.join()
            self._files.share()
            self._shared = True
        self.start()  # the run may have started before
        self._state.share()
        self._together = True

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
        gradient_clip_val: float | None = None,
        num_validations: int | None = None,
        complete: bool = False,
        logged: bool = True,
    ) -> Fit:
        """Train a model by a Trainer of its own; the first fit starts the run.

        A resumed run calls its fits again, in the same order. One that is done is restored and not trained.
        One that was stopped is trained from its saved state.

        Args:
            name: The fit's name, which no other fit of the run has.
            model: The model.
            data: Its data.
            title: What is trained, for the progress bar and messages; the name if not given.
            prefix: Text before the names of all metrics; ``NAME/`` if not given.
            callbacks: Callbacks beside the progress bar.
            max_epochs: Epochs of this fit, if not those of the flags.
            gradient_clip_val: The norm to which gradients of this fit are clipped, if not that of the flags.
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
        self._join()
        shown = self.trainer_flags.get("enable_progress_bar") is not False and self.is_first
        bar = [EpochProgressBar(title)] if shown else []
        flags = {**self.trainer_flags, "enable_progress_bar": shown}
        if gradient_clip_val is not None:
            flags["gradient_clip_val"] = gradient_clip_val
        trainer = make_trainer(self.folder, [*callbacks, *bar], name, **flags)
        check_batches(self.trainer_flags, data)
        if self.steps_per_execution != "auto":
            model.steps_per_execution = self.steps_per_execution
        self._use_cuda_graphs(trainer, model)
        require_whole_steps(trainer, model)
        self.start()
        if self.trainer_flags.get("profiler"):
            self.record("profiler/")
        self._device = trainer.strategy.root_device
        self._threads.choose(model, data, self._device)
        resumable = ResumableFit(self._state, name, self._signals, self._flush, max_epochs is None)
        trainer.callbacks.insert(0, resumable)  # type: ignore[attr-defined]
        self._fits.add(name)
        trial = self.trial
        if max_epochs is not None and not trial:
            trainer.fit_loop.max_epochs = max_epochs
        if num_validations is not None and self.trainer_flags.get("check_val_every_n_epoch") in (None, 1):
            trainer.check_val_every_n_epoch = max(1, (trainer.max_epochs or 0) // num_validations)
        history = History()
        if logged and not trial:
            journal = self._state.journal
            for metrics, step in journal.rows[journal.place : resumable.place_of_rows]:
                history.log_metrics(metrics, step)
            trainer.loggers = cast(list[Logger], [history, journal, *(self._trackers or [])])
        model.log_prefix = f"{name}/" if prefix is None else prefix
        fit = Fit(title, model, data, trainer, history, self._signals)
        self._fit = fit
        with fit.stopping(), self._signals.deferred():
            resumable.fit(trainer, model, data)
            model.step_graph = None  # its memory on the GPU
            if trainer.global_step == 0:
                raise InputError(f"the flags end the fit of the {title} before its first step")
            epochs, last = trainer.max_epochs or 0, trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
            if complete and not trial and not (last and 0 < epochs <= trainer.current_epoch):
                raise InputError(
                    f"the flags end the fit of the {title} early; its results would be meaningless"
                )
            resumable.finish(trainer, save=not trial)
            self._signals.check()
        return fit

    def _use_cuda_graphs(self, trainer: Trainer, model: SupervisedModule) -> None:
        if self._cuda_graphs != "auto":
            model.cuda_graphs = self._cuda_graphs
        if not isinstance(model, StackedModule):
            model.step_graph = step_graph(model, trainer)
        elif model.cuda_graphs is True:
            model.require_cuda_graphs(trainer)

    def train(
        self,
        title: str,
        model: SupervisedModule,
        data: LightningDataModule,
        callbacks: Sequence[Callback] = (),
        max_epochs: int | None = None,
        ckpt_path: str | None = None,
    ) -> None:
        """Train a model in a fit that the run does not log, save or validate; its callbacks may.

        Args:
            title: What is trained, for messages.
            model: The model.
            data: Its data.
            callbacks: The callbacks.
            max_epochs: Epochs of this fit, if not those of the flags.
            ckpt_path: The checkpoint of the Trainer from which the fit goes on.

        Raises:
            InputError: As ``fit``.
            StoppedError: If the user stops the run.
        """
        self._join()
        flags = {**self.trainer_flags, "enable_progress_bar": False}
        trainer = make_trainer(self.folder, callbacks, title, **flags)
        trainer.limit_val_batches = 0
        check_batches(flags, data)
        if self.steps_per_execution != "auto":
            model.steps_per_execution = self.steps_per_execution
        self._use_cuda_graphs(trainer, model)
        require_whole_steps(trainer, model)
        self.start()
        self._device = trainer.strategy.root_device
        self._threads.choose(model, data, self._device)
        if max_epochs is not None:
            trainer.fit_loop.max_epochs = max_epochs
        # Lightning's handlers would stop the fit before its state is saved.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        # Lightning loads weights before it converts the model, which would round those of double precision.
        trainer.strategy.precision_plugin.convert_module(model)
        fit = Fit(title, model, data, trainer, History(), self._signals)
        with fit.stopping(), self._signals.deferred():
            trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
            model.step_graph = None
            self._signals.check()

    def prefer_threads(self, number: int) -> None:
        """Compute with so many threads in all fits to come, unless the user chose a number."""
        self._threads.prefer(number)

    @property
    def resuming(self) -> bool:
        """Whether the run goes on where an earlier process stopped."""
        return self._files.resuming

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of a run with the same settings, but for its folder."""
        own: dict[str, Any] = {"experiment": self.experiment, "config": self.config, "seed": self.seed}
        own |= {"logger": self.logger, "threads": self._threads.number, "source": self._source}
        own |= {"wandb_project": self.wandb_project, "wandb_mode": self.wandb_mode}
        own |= {"steps_per_execution": self.steps_per_execution, "cuda_graphs": self._cuda_graphs}
        return {**own, **self.trainer_flags}

    @property
    def device(self) -> torch.device:
        """The device on which models are trained."""
        return make_trainer(self.folder, [], "device", **self.trainer_flags).strategy.root_device

    @property
    def stopping(self) -> bool:
        """Whether a signal was received, after which the running fit ends with its epoch."""
        return self._signals.received is not None

    def check_signals(self) -> None:
        """Stop here if a signal was received."""
        self._signals.check()

    def log(self, metrics: Mapping[str, float], axis: str) -> None:
        """Log a row of metrics that belongs to no fit.

        A resumed run logs the rows again, in the same order; trackers get those that they do not have.

        Args:
            metrics: The metrics. Their names have the same first part, such as ``search/``.
            axis: The name of the metric, a whole number, over which the others are drawn.
        """
        self.start()
        self._log("axis", axis.partition("/")[0] + "/", axis)
        for logger in (self._state.journal, *(self._trackers or [])):
            cast(Any, logger).log_metrics(dict(metrics), int(metrics[axis]))
        self._flush()

    def _flush(self) -> None:
        for tracker in self._trackers or []:
            tracker.flush()

    def file(self, name: str) -> AbstractContextManager[Path]:
        """Return a context with a path to write to; the file appears in the run folder when complete."""
        self.start()
        return self._files.file(name)

    def record(self, name: str) -> Path:
        """Return the path of a file, or of a folder whose name ends in a slash, that the caller will write.

        A later run in the run folder removes it.
        """
        self.start()
        self._files.record(name)
        return self.folder / name

    def track(self, items: Iterable[Item], description: str) -> Iterable[Item]:
        """Iterate over items with a progress bar, unless the flag ``enable_progress_bar`` is false."""
        hidden = self.trainer_flags.get("enable_progress_bar") is False
        return items if hidden else track(items, description)

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
            products: Tables to write as CSV files, by the file's name; a trial run writes none.
            checkpoints: Models to write as ``checkpoints/NAME.ckpt``, by name; a trial run writes none.
            figures: Functions that draw the figures ``figures/NAME.png``, by name.
            tables: Tables to print and log; a generator is run after the results are written.
            notes: Lines to print below the tables.

        Raises:
            DivergenceError: If a number in the results is not finite.
        """
        self.start()
        if self.trial:
            checkpoints = None
            made = ", ".join(products or {})
            left_out = f"; {made} is not written" if made else ""
            notes = [*notes, f"This is a trial run (--fast_dev_run): the results mean nothing{left_out}."]
            products = None
        if not self.is_first:
            for _ in tables:  # what makes them may need all processes
                pass
            return
        require_finite_results(results)
        for name, product in (products or {}).items():
            with self.file(name) as path:
                product.to_csv(path, index=False)
        for name, model in (checkpoints or {}).items():
            with self.file(f"checkpoints/{name}.ckpt") as path:
                save_checkpoint(model, path)
        seconds = time.perf_counter() - self._began
        text = results_text(
            self.experiment,
            results,
            seconds,
            environment(self.seed, self._device, self.num_processes, self._threads.most, self._source),
            self.trial,
        )
        with self.file(RESULTS) as path:
            path.write_text(text, encoding="utf-8")
        self._files.replace(keep=TRACKED)
        self._done = True

        self._log("summary", results)
        for path in [self.folder / name for name in products or {}]:
            self._log("artifact", path, f"{self.experiment}-{path.stem}", path.stem)
        for name, draw in (figures or {}).items():
            with attempt(f"draw the figure {name}"):
                self._draw(name, draw)
        with attempt("print the tables"):
            for table in tables:
                self._log("table", table)
                if table.printed:
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
        stop: StoppedError | None = error if isinstance(error, StoppedError) else None
        gone = self._processes.is_gone(error)
        if stop is None and (self._signals.stops(error) or (gone and self._signals.received is not None)):
            stop = self._signals.stopped("outside of training" if self.started else "before training")
        try:
            # 128 plus the signal, as the exit status of a shell and of `run_experiment`.
            self._close(0 if error is None else 1 if stop is None else 128 + stop.signum)
            gone = gone or (error is None and not self._processes.wait())
        except BaseException as later:
            if not self._signals.stops(later):
                raise
            stop = stop or self._signals.stopped("while it ended")
        finally:
            self._signals.ignore()
            prints = self.is_first
            if gone or isinstance(error, Exception) or (stop is not None and prints):
                prints = self._processes.may_print_error() or (stop is not None and prints)
            self._processes.close(failed=error is not None or gone or stop is not None)
            self._literal_paths.__exit__(kind, error, trace)
            self._heartbeat.__exit__()
            self._signals.__exit__(kind, error, trace)
            self._threads.__exit__()
        if (error is not None or gone or stop is not None) and not prints:
            raise SystemExit(2 if stop is None else 128 + stop.signum) from None
        if stop is not None:
            raise stop.with_advice(self._advice()) from error
        if gone:
            raise InputError(f"another process of the run ended; {self._advice()}") from error
        if error is None and self._processes.ends_with_run:
            raise SystemExit(0)

    def _lose(self, rank: int) -> None:
        """End this process, because another one gives no sign of life and the main thread may wait for it."""
        if self._processes.may_print_error():
            text = f"{self.experiment}: process {rank} of the run is lost; {self._advice()}"
            print_error(text)
        self._processes.kill()
        os._exit(2)

    def _advice(self) -> str:
        """Return what to do after the run was stopped."""
        if not self.started:
            return f"nothing was written to {self.folder}"
        return f"to go on: {self._command(self._files.target)}"

    def _command(self, folder: Path) -> str:
        """Return how to resume the run in a folder."""
        if not self._command_line:
            return f"Run({self.experiment!r}, run_dir={str(folder)!r}, resume=True)"
        return f"{self._command_line} --run_dir {shlex.quote(str(folder))} --resume true"

    def _close(self, exit_code: int) -> None:
        for tracker in self._trackers or []:
            with attempt("close the tracker"):
                tracker.close(exit_code)
        try:
            if exit_code == 0 and self._done:
                self._files.replace()
                self._files.end()
        finally:
            self._files.close()


def _settings(seed: int, logger: str, trainer_flags: Mapping[str, Any]) -> str:
    """Return the settings of a run as YAML; of objects, the type."""
    settings = {"seed": seed, "logger": logger, **given_flags(trainer_flags)}
    plain = (str, int, float, bool)
    return yaml.safe_dump({k: v if isinstance(v, plain) else type(v).__name__ for k, v in settings.items()})
