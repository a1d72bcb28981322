"""A run: its flags, its seed, its loggers, its folder, its results."""

import inspect
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_origin

import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from torch import Tensor

from d2l_lightning.callbacks.history import History
from d2l_lightning.callbacks.progress import EpochProgressBar
from d2l_lightning.errors import InputError
from d2l_lightning.files import whole_file
from d2l_lightning.module import SupervisedModule

if TYPE_CHECKING:
    import wandb
    from matplotlib.figure import Figure

CONFIGS = Path(__file__).parents[1] / "configs"
# What a run leaves in its folder, and a new run there takes away first.
OUTPUTS = (
    *("results.json", "config.yaml", "metrics.csv"),
    *("submission.csv", "weights.csv", "predictions.csv"),
)
OUTPUT_FOLDERS = ("figures", "checkpoints", "metrics", "tensorboard")
# Which versions a result may depend on.
PACKAGES = ("d2l_lightning", "torch", "lightning", "torchmetrics", "torchvision", "pandas", "numpy")

# What the Trainer does where its flags leave it open: nothing that slows down a small model.
LEAN = {"enable_checkpointing": False, "enable_model_summary": False, "num_sanity_val_steps": 0}


class Run:
    """One run of an experiment. It is a context: what goes wrong inside is told and closed properly.

    Args:
        experiment: The experiment's name.
        config: What stands in config.yaml: with it, the run can be run again.
        seed: Seed of the initial weights, the order of the rows, and all else that is random.
        logger: Where metrics go: to metrics.csv in the run folder (csv), also to TensorBoard or Weights &
            Biases (tensorboard, wandb), or nowhere (none).
        run_dir: The run folder; runs/EXPERIMENT/TIME if not given.
        overwrite: Whether a finished run in the run folder may be replaced.
        wandb_project: The project on Weights & Biases.
        wandb_mode: Whether Weights & Biases is told at once (online), gets files to be sent with
            `wandb sync` later (offline), or nothing at all (disabled).
        trainer_flags: Lightning's own.

    Raises:
        InputError: If the seed is out of range or the run folder cannot be used.
    """

    def __init__(
        self,
        experiment: str,
        config: str = "",
        seed: int = 0,
        logger: Literal["csv", "tensorboard", "wandb", "none"] = "csv",
        run_dir: str | None = None,
        overwrite: bool = False,
        wandb_project: str = "d2l_lightning",
        wandb_mode: Literal["online", "offline", "disabled"] = "online",
        **trainer_flags: Any,
    ) -> None:
        if not 0 <= seed < 2**32:
            raise InputError(f"--seed must be from 0 to {2**32 - 1}, not {seed}")
        self.began = time.perf_counter()
        self.experiment = experiment
        self.config = config
        self.seed = seed
        self.logger = logger
        self.overwrite = overwrite
        self.wandb_project = wandb_project
        self.wandb_mode = wandb_mode
        self.trainer_flags = trainer_flags
        self.trainer_flags.update({flag: LEAN[flag] for flag in LEAN if trainer_flags.get(flag) is None})
        self.history = History()
        self.title = experiment
        self._trainer: Trainer | None = None
        self._loggers: list[Logger] | None = None
        self._wandb: wandb.Run | None = None
        self._wandb_variables: list[str] = []
        self._timed = run_dir is None
        self.folder = _timed_folder(experiment) if run_dir is None else Path(run_dir)
        self._check_folder()

    def _check_folder(self) -> None:
        there = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise InputError(f"--run_dir {self.folder}: {there} is a file, not a folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise InputError(f"--run_dir {self.folder}: {there} is not writable")
        if (self.folder / "results.json").exists() and not self.overwrite:
            raise InputError(
                f"--run_dir {self.folder} holds a finished run; choose another folder or --overwrite true"
            )
        is_run = (self.folder / "config.yaml").exists()
        if self.folder.exists() and any(self.folder.iterdir()) and not is_run:
            raise InputError(f"--run_dir {self.folder} holds files that are no run's; choose another folder")

    def __enter__(self) -> "Run":
        # Said by this class in its own words, or meant for other kinds of data.
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", ".*does not have many workers")
        warnings.filterwarnings("ignore", ".*exists and is not empty")
        warnings.filterwarnings(
            "ignore", ".*number of training batches .* is smaller than the logging interval"
        )
        warnings.filterwarnings("ignore", ".*across ranks is zero")  # no validation rows were asked for
        warnings.filterwarnings("ignore", ".*have no `(validation_step|val_dataloader)`")
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # Lightning's own, with torch >= 2.14
        seed_everything(self.seed, workers=True, verbose=False)
        return self

    def start(self) -> None:
        """Make the run folder and open the loggers; a second call does nothing.

        Raises:
            InputError: If the folder cannot be made or Weights & Biases cannot be reached.
        """
        if self._loggers is not None:
            return
        new = not self.folder.exists()
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            while self._timed:
                try:
                    self.folder.mkdir()
                    break
                except FileExistsError:  # another run of this second, as a sweep's agents may start them
                    self.folder = _timed_folder(self.experiment)
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the run folder {self.folder}: {error.strerror}") from error
        shutil.rmtree(self.folder / "wandb", ignore_errors=True)
        # Before anything else goes: a run that cannot log does not cost the results of the one before it.
        try:
            self._loggers = self._open_loggers()
        except (InputError, KeyboardInterrupt):
            shutil.rmtree(self.folder if new else self.folder / "wandb", ignore_errors=True)
            raise
        for name in OUTPUTS:
            (self.folder / name).unlink(missing_ok=True)
        for name in OUTPUT_FOLDERS:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        with self.file("config.yaml") as path:
            path.write_text(self.config)

    def _open_loggers(self) -> list[Logger]:
        if self.logger == "none":
            return [self.history]
        loggers: list[Logger] = [self.history, CSVLogger(self.folder, name="", version="")]
        if self.logger == "tensorboard":
            loggers.append(TensorBoardLogger(self.folder, name="tensorboard", version=""))
        if self.logger == "wandb":
            self._wandb = self._open_wandb()
            loggers.append(WandbLogger(experiment=self._wandb, save_dir=self.folder))
            self._wandb.define_metric("*", step_metric="epoch")
            for axis in ("epoch", "trainer/global_step"):
                self._wandb.define_metric(axis, hidden=True)  # no panel of its own
        return loggers

    def _open_wandb(self) -> "wandb.Run":
        import wandb

        # Logs and what is to be uploaded lie in the home folder otherwise, whence `wandb sync` would miss it
        # on another machine or after a container is gone.
        for variable in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            if variable not in os.environ:
                os.environ[variable] = str(self.folder.absolute() / "wandb" / "cache")
                self._wandb_variables.append(variable)
        try:
            run = wandb.init(
                project=self.wandb_project,
                name=f"{self.experiment}/{self.folder.name}",
                group=self.experiment,
                config=yaml.safe_load(self.config),
                mode=self.wandb_mode,
                force=True,  # no choice, at the prompt for an account, to go on without one
                dir=self.folder,
                reinit="finish_previous",
                settings=wandb.Settings(init_timeout=30, console="off", silent=True),
            )
        except (wandb.Error, ValueError) as error:
            self._close_wandb(exit_code=1)
            reason = str(error).split("\nConsider")[0].strip().rstrip(".")
            advice = (
                ". Log in with `wandb login` or WANDB_API_KEY, or give --wandb_mode offline"
                if self.wandb_mode == "online"
                else ""
            )
            raise InputError(
                f"Weights & Biases did not start ({reason}); nothing was trained{advice}"
            ) from error
        if self.wandb_mode == "online":
            print(f"Weights & Biases: {run.url}")
        return run

    def _close_wandb(self, exit_code: int) -> None:
        import wandb

        wandb.teardown(exit_code)
        for variable in self._wandb_variables:
            del os.environ[variable]
        self._wandb_variables.clear()

    def trainer(
        self, title: str, callbacks: Sequence[Callback] = (), max_epochs: int | None = None
    ) -> Trainer:
        """Return a new Trainer with this run's flags and loggers; the first one starts the run.

        Args:
            title: What is trained, for the progress bar and messages.
            callbacks: What watches the fit, beside the progress bar.
            max_epochs: The epochs of this fit, if they are not those of the flags.

        Raises:
            InputError: If a flag does not suit this machine or the other flags, or as ``start`` says.
        """
        bar = [] if self.trainer_flags.get("enable_progress_bar") is False else [EpochProgressBar(title)]
        try:
            trainer = Trainer(
                logger=False,
                callbacks=[*callbacks, *bar],
                default_root_dir=self.folder,
                use_distributed_sampler=False,
                enable_autolog_hparams=False,
                barebones=False,
                **self.trainer_flags,
            )
        except ImportError as error:
            raise InputError(f"--accelerator {self.trainer_flags['accelerator']}: {error}") from error
        except (MisconfigurationException, ValueError, RuntimeError) as error:
            raise InputError(str(error)) from error
        if max_epochs is not None and not self.trainer_flags.get("fast_dev_run"):
            trainer.fit_loop.max_epochs = max_epochs
        if trainer.limit_val_batches == 0:
            raise InputError("--limit_val_batches leaves nothing to evaluate on")
        if trainer.world_size > 1:
            raise InputError(
                f"--devices and --num_nodes ask for {trainer.world_size} devices; models train on one here"
            )
        self.start()
        if not self.trainer_flags.get("fast_dev_run"):
            trainer.loggers = self._loggers
        self.title, self._trainer = title, trainer
        return trainer

    def evaluate(self, model: SupervisedModule, data: LightningDataModule) -> dict[str, Tensor]:
        """Return a fitted model's metrics on its validation data, without logging them a second time.

        Raises:
            InputError: If the flags leave nothing to evaluate on, or a metric is not finite.
        """
        trainer = self._trainer
        assert trainer is not None
        loggers, trainer.loggers = trainer.loggers, []
        trainer.validate(model, data, verbose=False)
        trainer.loggers = loggers
        if not model.evaluated:
            raise InputError("--limit_val_batches leaves nothing to evaluate on")
        for metric, values in model.evaluated.items():
            if not values.isfinite().all():
                raise InputError(
                    f"{metric} of the {self.title} is not finite in the end; a lower lr may help"
                )
        return model.evaluated

    def file(self, name: str) -> AbstractContextManager[Path]:
        """Give a path to write to; what was written appears in the run folder under its name, whole."""
        return whole_file(self.folder / name)

    def figure(self, figure: "Figure", name: str) -> None:
        """Save a figure as ``figures/<name>.png``, and show it where metrics are shown."""
        with self.file(f"figures/{name}.png") as path:
            figure.savefig(path)
        if self._wandb is not None:
            import wandb

            self._wandb.log({f"figures/{name}": wandb.Image(str(self.folder / "figures" / f"{name}.png"))})
        for logger in self._loggers or []:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(name, figure)

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str | float]], note: str = ""
    ) -> None:
        """Print a table of text and figures with a note below, and show it where metrics are shown."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        # As Text, in which the brackets of a unit are no markup.
        table = Table(title=Text(title), title_justify="left")
        for place, column in enumerate(columns):
            table.add_column(Text(column), justify="left" if place == 0 else "right")
        for row in rows:
            table.add_row(*(Text(f"{cell:.6f}" if isinstance(cell, float) else str(cell)) for cell in row))
        console = Console()
        console.print(table)
        if note:
            console.print(Text(note))
        if self._wandb is not None:
            import wandb

            # Named alike in every run, whatever the title says of this one's settings.
            name = "_".join(re.split(r"[^\w ]", title)[0].lower().split())
            logged = wandb.Table(
                columns=[column or "name" for column in columns],
                data=[[None if cell == "" else cell for cell in row] for row in rows],
                allow_mixed_types=True,
            )
            self._wandb.log({f"tables/{name}": logged})

    def artifact(self, name: str, kind: str) -> None:
        """Send a file of the run folder to Weights & Biases, if metrics go there."""
        if self._wandb is not None:
            self._wandb.log_artifact(
                str(self.folder / name), name=f"{self.experiment}-{Path(name).stem}", type=kind
            )

    def checkpoint(self, model: LightningModule, name: str) -> None:
        """Save a model as ``checkpoints/<name>.ckpt``, to be had back by its ``load_from_checkpoint``."""
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.strategy.connect(model)
        with self.file(f"checkpoints/{name}.ckpt") as path:
            trainer.save_checkpoint(path, weights_only=True)

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write results.json, which makes the run a finished one, and say where everything is."""
        self.start()
        report = {
            "experiment": self.experiment,
            "results": results,
            "seconds": round(time.perf_counter() - self.began, 3),
            "environment": self._environment(),
        }
        if self._wandb is not None:
            self._wandb.summary.update({k: v for k, v in results.items() if isinstance(v, int | float)})
        with self.file("results.json") as path:
            path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
        print(f"done in {report['seconds']:.1f} s; everything is in {self.folder}")

    def _environment(self) -> dict[str, Any]:
        device = self._trainer.strategy.root_device if self._trainer else torch.device("cpu")
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
        return {
            "device": str(device),
            "device_name": name or platform.machine(),
            "threads": torch.get_num_threads(),
            "platform": platform.platform(),
            "seed": self.seed,
            "git_commit": _git_commit(),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        }

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if error is None else 1)
            if self.wandb_mode == "offline":
                print(f"to send it to Weights & Biases: wandb sync {Path(self._wandb.dir).parent}")
            self._close_wandb(exit_code=0 if error is None else 1)

    def where(self) -> str:
        """Say how far the run has come, for one who stopped it."""
        trainer = self._trainer
        if self._loggers is None:
            return f"stopped before training; nothing was written to {self.folder}"
        if trainer is None:
            return f"stopped; {self.folder} holds config.yaml, no results"
        stands = f"stopped after epoch {trainer.current_epoch} of {trainer.max_epochs} of the {self.title}"
        return f"{stands}; {self.folder} holds config.yaml and what was logged, no results"


class _Parser(ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise InputError(re.sub(r'Parser key "([^"]+)":', r"\1:", message)) from ex


class _ConfigFile(ActionConfigFile):
    """A --config whose errors name the file."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except (InputError, TypeError) as error:
            raise InputError(f"--config {values}: {error}") from error


def run_parser(main: Callable[..., None], experiment: str) -> ArgumentParser:
    """Build the parser of an experiment: its own flags, those of ``Run``, and the Trainer's.

    Args:
        main: The experiment. Its first argument is the ``Run``; the others become flags, told by its
            docstring, with the values of ``configs/<experiment>.yaml`` as defaults.
        experiment: Its name.
    """
    parser = _Parser(
        description=inspect.getdoc(main),
        default_config_files=[str(CONFIGS / f"{experiment}.yaml")],
    )
    parser.add_argument(
        "--config", action=_ConfigFile, help="A YAML file of flags; those after it override it."
    )
    parameters = list(inspect.signature(main).parameters.values())[1:]
    positional = [p for p in parameters if p.kind is p.POSITIONAL_ONLY]
    for parameter in positional:
        parser.add_argument(parameter.name, type=parameter.annotation)
    parser.add_function_arguments(main, skip={"run", *(p.name for p in positional)})
    parser.add_class_arguments(Run, skip={"experiment", "config"})
    return parser


def run_experiment(main: Callable[..., None], argv: Sequence[str] | None = None) -> None:
    """Run an experiment from the command line.

    Exit status: 0 when it is done, 2 with one line when something handed in is wrong, 130 when stopped.

    Args:
        main: The experiment, see ``run_parser``.
        argv: The flags; those of the command line if not given.
    """
    experiment = Path(inspect.getfile(main)).stem
    run: Run | None = None
    try:
        parser = run_parser(main, experiment)
        flags = parser.parse_args(_join_lists(main, sys.argv[1:] if argv is None else argv))
        values = {name: value for name, value in vars(flags).items() if not name.startswith("__")}
        del values["config"]
        call = inspect.signature(main).bind_partial()
        own = {name: values.pop(name) for name in list(call.signature.parameters)[1:]}
        # What says where, not what, is left out, so that the file can be run as it is.
        for name in ("config", "run_dir", "overwrite"):
            flags.pop(name)
        config = parser.dump(flags, skip_unset=False, skip_validation=True)
        with Run(experiment, config, **values) as run:
            call.arguments = {"run": run, **own}
            main(*call.args, **call.kwargs)
    except (InputError, OSError, MisconfigurationException) as error:
        print(f"{experiment}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning turns Ctrl-C during a fit into an exit of its own.
        interrupted = run is not None and run._trainer is not None and run._trainer.interrupted
        if not isinstance(stop, KeyboardInterrupt) and not interrupted:
            raise
        print(
            f"\n{experiment}: {run.where() if run else 'stopped before anything was done'}", file=sys.stderr
        )
        sys.exit(130)


def _join_lists(main: Callable[..., None], argv: Sequence[str]) -> list[str]:
    """Turn ``--hidden_sizes 256 128`` into ``--hidden_sizes [256,128]``, the form that jsonargparse reads."""
    parameters = inspect.signature(main).parameters.values()
    lists = {f"--{p.name}": p.annotation for p in parameters if get_origin(p.annotation) is list}
    joined: list[str] = []
    items: list[str] | None = None
    for word in [*argv, "--"]:
        if items is not None and word.startswith("--"):
            if len(items) != 1 or not items[0].startswith("["):
                # Quoted, so that a text of digits or with a comma is one text.
                texts = lists[joined[-1]] == list[str]
                items = [f"[{','.join(json.dumps(item) if texts else item for item in items)}]"]
            joined += items
            items = None
        if items is not None:
            items.append(word)
        else:
            joined.append(word)
            items = [] if word in lists else None
    return joined[:-1]


def _timed_folder(experiment: str) -> Path:
    """Return a folder under runs/ that is named after the time and not there yet."""
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    names = (now, *(f"{now}_{n}" for n in range(2, 1000)))
    return next(
        folder for folder in (Path("runs", experiment, name) for name in names) if not folder.exists()
    )


def _git_commit() -> str | None:
    """Return the commit that the code is at, with a mark if it was changed since; None outside git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
