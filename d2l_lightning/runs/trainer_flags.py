"""The flags of Lightning's Trainer, checked before anything is trained, and the Trainer of a fit."""

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, Timer
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.utilities.model_helpers import is_overridden

from d2l_lightning.distributed.group import num_processes
from d2l_lightning.distributed.strategy import DataParallelStrategy
from d2l_lightning.errors import InputError, require_not_negative, require_positive

# The Trainer's flags where they are not given: one device, and nothing that slows down a small model.
LEAN = {"devices": 1, "enable_checkpointing": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
# The flags' own defaults otherwise.
DEFAULTS = {name: p.default for name, p in inspect.signature(Trainer).parameters.items()} | LEAN
# Flags that suit an experiment without training too.
HARMLESS = frozenset({"accelerator", "devices", "enable_progress_bar"})

STAGES = {"train": "train on", "val": "evaluate on", "test": "test on", "predict": "predict"}
POSITIVE = ("max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val", "val_check_interval")
NOT_NEGATIVE = ("min_epochs", "min_steps", "log_every_n_steps", "overfit_batches", "fast_dev_run")
# Flags for which -1 means "without end" or "all".
ENDLESS = frozenset({"max_epochs", "max_steps", "num_sanity_val_steps"})

PROFILERS: dict[str, Callable[..., Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}


def given_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags that differ from their defaults."""
    defaults = {"accelerator": "auto", **DEFAULTS}
    return {
        name: value
        for name, value in flags.items()
        if value is not None and (type(value), value) != (type(defaults.get(name)), defaults.get(name))
    }


def check_flags(flags: Mapping[str, Any]) -> None:
    """Check the flags that Lightning takes without effect, or refuses only when a fit has begun.

    Raises:
        InputError: If a value is out of its range or leaves nothing to train or evaluate on.
    """
    given = given_flags(flags)
    numbers = {name: value for name, value in given.items() if isinstance(value, int | float)}
    numbers = {name: value for name, value in numbers.items() if not (name in ENDLESS and value == -1)}
    for name, value in numbers.items():
        if isinstance(value, int) and abs(value) >= 2**63:
            raise InputError(f"--{name} must be less than 2^63, not {value}")
    for stage, what in STAGES.items():
        if given.get(f"limit_{stage}_batches") == 0:
            raise InputError(f"--limit_{stage}_batches leaves nothing to {what}")
    require_positive(**{f"--{name}": numbers[name] for name in POSITIVE if name in numbers})
    require_positive(**{"--check_val_every_n_epoch": numbers.get("check_val_every_n_epoch", 1)})
    names = (*NOT_NEGATIVE, "num_sanity_val_steps", "reload_dataloaders_every_n_epochs")
    require_not_negative(**{f"--{name}": numbers[name] for name in names if name in numbers})
    ends = numbers.keys() & {"max_steps", "fast_dev_run"} or "max_time" in given
    if given.get("max_epochs") == -1 and not ends:
        raise InputError("--max_epochs -1 trains without end; give --max_steps or --max_time too")
    if given.get("devices") in (0, "0", []):
        raise InputError(f"--devices must be a number of devices from 1 on, or auto, not {given['devices']}")
    if given.get("model_registry"):
        raise InputError("--model_registry has no effect: no checkpoint is uploaded")
    if given.get("overfit_batches"):  # Lightning would take single rows, or go on shuffling
        raise InputError("--overfit_batches does not go with batches in memory; take --limit_train_batches")
    for unit in ("epochs", "steps"):
        least, most = given.get(f"min_{unit}", 0), numbers.get(f"max_{unit}", math.inf)
        if least > most:
            raise InputError(f"--min_{unit} {least} is more than --max_{unit} {most}")


def refuse_flags(flags: Mapping[str, Any], why: str, names: Collection[str] | None = None) -> None:
    """Raise an InputError if one of these flags is given, which would have no effect.

    Args:
        flags: The run's flags of the Trainer.
        why: Why they have no effect.
        names: The flags; if not given, all but those that suit an experiment without training.
    """
    for name, value in given_flags(flags).items():
        if (name not in HARMLESS) if names is None else (name in names):
            raise InputError(f"--{name} {value} has no effect: {why}")


def refuse_precision(flags: Mapping[str, Any], precision: str, why: str) -> None:
    """Raise an InputError if this precision is given, for which the reason must be known in advance."""
    if flags.get("precision") == precision:
        raise InputError(f"--precision {precision} cannot be used here: {why}")


def make_trainer(
    folder: Path, callbacks: Sequence[Callback], name: str = "fit", **trainer_flags: Any
) -> Trainer:
    """Return a Trainer that logs nowhere yet.

    Args:
        folder: The folder for files that callbacks write. Reports of the profiler go to ``profiler`` in it.
        callbacks: Its callbacks.
        name: The fit's name, for the profiler's reports.
        trainer_flags: The flags.

    Raises:
        InputError: If a flag is out of its range, or does not suit the machine or the other flags.
    """
    check_flags(trainer_flags)
    if trainer_flags.get("enable_checkpointing") and not any(isinstance(c, Checkpoint) for c in callbacks):
        raise InputError("--enable_checkpointing has no effect: a run saves its models and its state itself")
    profiler = trainer_flags.get("profiler")
    if isinstance(profiler, str):
        if profiler not in PROFILERS:
            raise InputError(f"--profiler must be one of {', '.join(PROFILERS)}, not {profiler!r}")
        trainer_flags["profiler"] = PROFILERS[profiler](dirpath=folder / "profiler", filename=name)
    strategy = trainer_flags.get("strategy")
    if strategy not in (None, "auto") and not (
        strategy == "ddp" or str(strategy).startswith("ddp_find_unused")
    ):
        raise InputError(f"--strategy {strategy} cannot be used; take ddp, with which each process has all")
    trainer_flags["strategy"] = "auto" if num_processes() == 1 else DataParallelStrategy()
    try:
        trainer = Trainer(
            logger=False,
            callbacks=list(callbacks),
            default_root_dir=folder,
            use_distributed_sampler=False,
            enable_autolog_hparams=False,
            barebones=False,
            **trainer_flags,
        )
    except Exception as error:  # Lightning raises errors of many types here
        raise InputError(f"{_culprit(trainer_flags)}{error}") from error
    if trainer_flags.get("precision") == "16-mixed" and trainer.strategy.root_device.type == "cpu":
        trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu")  # Lightning takes bfloat16
    timers = [each for each in cast(Any, trainer).callbacks if isinstance(each, Timer)]
    if any((timer.time_remaining() or 0) <= 0 for timer in timers):
        raise InputError(f"--max_time {trainer_flags['max_time']} leaves no time to train")
    if trainer.gradient_clip_algorithm is not None and trainer.gradient_clip_val is None:
        raise InputError("--gradient_clip_algorithm has no effect without --gradient_clip_val")
    return trainer


def _culprit(flags: Mapping[str, Any]) -> str:
    """Return the flag without which the Trainer takes the others, as text before its message."""
    for name, value in given_flags(flags).items():
        others = {other: flags[other] for other in flags if other != name}
        with suppress(Exception):  # another flag is wrong, or more than one
            Trainer(**{"devices": 1, "logger": False, **others})
            return f"--{name} {value}: "
    return ""


def check_batches(flags: Mapping[str, Any], data: LightningDataModule) -> None:
    """Check the flags whose meaning depends on the number of batches.

    Raises:
        InputError: If a share of batches is less than one batch, or an epoch ends before it is validated.
    """
    given = given_flags(flags)
    if not any(
        name in given for name in (*(f"limit_{stage}_batches" for stage in STAGES), "val_check_interval")
    ):
        return
    in_epoch = flags.get("check_val_every_n_epoch", 1) is not None  # else the interval spans epochs
    data.prepare_data()
    data.setup("fit")
    for stage in STAGES:
        loader = f"{stage}_dataloader"
        total = sized_len(getattr(data, loader)()) if is_overridden(loader, data) else None
        limit = given.get(f"limit_{stage}_batches", 1.0)
        if total and isinstance(limit, float) and int(limit * total) == 0:
            raise InputError(f"--limit_{stage}_batches {limit} is less than one of {total} batches")
        if stage == "train" and total:
            steps = int(limit * total) if isinstance(limit, float) else min(limit, total)
            interval = given.get("val_check_interval", 1.0)
            if isinstance(interval, int | float) and interval > max(steps, 1) and in_epoch:
                raise InputError(
                    f"--val_check_interval {interval} is more than the {steps} batches of an epoch"
                )
