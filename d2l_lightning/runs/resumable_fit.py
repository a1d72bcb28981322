"""A fit that saves its state at the ends of epochs, and goes on from it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from d2l_lightning.callbacks.step_hooks import NoStepHooks
from d2l_lightning.errors import DivergenceError
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.runs.report import print_warning
from d2l_lightning.runs.rng import rng_state, set_rng_state
from d2l_lightning.runs.signals import StopSignals
from d2l_lightning.runs.state import ENTRY, RunState, SavedFit


class ResumableFit(NoStepHooks, Callback):  # type: ignore[misc]
    """Saves the state of a fit at the ends of epochs, and trains from the saved state.

    Args:
        state: The state of the run.
        name: The name of the fit.
        signals: The signals that stop the run.
        flush: Writes metrics that are in memory to files.
        epochs_of_flags: Whether the flags set the number of epochs.
    """

    def __init__(
        self,
        state: RunState,
        name: str,
        signals: StopSignals,
        flush: Callable[[], None],
        epochs_of_flags: bool,
    ) -> None:
        self.state, self.signals, self.flush, self.epochs_of_flags = state, signals, flush, epochs_of_flags
        self.place = state.begin(name)
        self.saved = state.saved(self.place)
        self._entry: dict[str, Any] = {}

    @property
    def place_of_rows(self) -> int:
        """The number of rows of the journal up to the saved state; without one, that of the fits before."""
        return self.state.journal.place if self.saved is None else self.saved.place

    def fit(self, trainer: Trainer, model: SupervisedModule, data: LightningDataModule) -> None:
        """Train the model, from the saved state if there is one; a finished fit is only restored.

        Raises:
            DivergenceError: If the model diverges or did so before.
        """
        saved = self.saved
        # Lightning's handlers would stop the fit before its state is saved.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        if saved is None:
            self._train(trainer, model, data)
            return
        self.state.journal.place = saved.place
        # Lightning loads weights before it converts the model, which would round those of double precision.
        trainer.strategy.precision_plugin.convert_module(model)
        if saved.error:
            set_rng_state(saved.rng)
            self.state.end(self.place)
            raise DivergenceError(saved.error)
        model.load_fit_state(saved.module)
        if not saved.finished:
            self._train(trainer, model, data, ckpt_path=saved.path, weights_only=True)
            if self.saved is not None:  # there was no epoch left
                set_rng_state(saved.rng)
            return
        trainer.fit(model, data, ckpt_path=saved.path, weights_only=True)
        set_rng_state(saved.rng)

    def _train(self, *arguments: Any, **settings: Any) -> None:
        trainer = arguments[0]
        try:
            trainer.fit(*arguments[1:], **settings)
        except DivergenceError as error:
            entry = {**self._describe(trainer), "finished": True, "error": str(error)}
            with unless_the_disk_is_full():
                self.state.write(self.place, entry, lambda path: torch.save({ENTRY: entry}, path))
            self.state.end(self.place)
            raise

    def finish(self, trainer: Trainer, save: bool = True) -> None:
        """Save the state of the fit that is done, unless it was only restored or is not worth it."""
        if save and (self.saved is None or not self.saved.finished):
            self._save(trainer, finished=True)
        self.state.end(self.place)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train no more if the saved fit is finished."""
        if self.saved is not None and self.saved.finished:
            trainer.limit_train_batches = 0  # not before: a schedule depends on the number of steps

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state after the epoch before, or set what was saved."""
        # Lightning's hooks at the end of an epoch come before its schedulers and the last metrics.
        if self.saved is not None and not self.saved.finished:
            self._go_on(trainer, self.saved)
            self.saved = None
        elif trainer.fit_loop.epoch_progress.current.completed > 0:
            if self.signals.agree(self.state.due) or self.signals.agreed:
                self._save(trainer, finished=False)
            self.flush()
            self.signals.stop()
        else:
            self.signals.check()

    def _go_on(self, trainer: Trainer, saved: SavedFit) -> None:
        """Put the loops and the random number generators into the state in which the next epoch began."""
        loop = trainer.fit_loop
        validation = loop.epoch_loop.val_loop
        # The end of the epoch is no restart; otherwise Lightning would skip a step of the schedulers.
        for each in (loop, loop.epoch_loop, validation):
            each.on_iteration_done()
        # The creation of a loader takes a random number.
        if not saved.has_validated:
            validation._combined_loader = None
        elif validation._combined_loader is None:
            trainer.validating = True
            validation.setup_data()
            trainer.training = True
        loop._last_train_dl_reload_epoch, validation._last_val_dl_reload_epoch = saved.reloaded
        set_rng_state(saved.rng)

    def _describe(self, trainer: Trainer) -> dict[str, Any]:
        loop = trainer.fit_loop
        validation = loop.epoch_loop.val_loop
        return {
            "error": "",
            "rng": rng_state(),
            "has_validated": validation._combined_loader is not None,
            "reloaded": (loop._last_train_dl_reload_epoch, validation._last_val_dl_reload_epoch),
            "module": cast(SupervisedModule, trainer.lightning_module).fit_state(),
            "max_epochs": trainer.max_epochs if self.epochs_of_flags else None,
        }

    def _save(self, trainer: Trainer, finished: bool) -> None:
        self._entry = {**self._describe(trainer), "finished": finished}
        with unless_the_disk_is_full():
            self.state.write(self.place, self._entry, partial(_save_alone, trainer))
        self._entry = {}

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the entry to a checkpoint of the state; other checkpoints stay as they are."""
        if not self._entry:
            return
        checkpoint[ENTRY] = self._entry
        checkpoint.pop(pl_module.CHECKPOINT_HYPER_PARAMS_KEY, None)  # may be objects; not needed to go on


def _save_alone(trainer: Any, path: Path) -> None:
    """Save a checkpoint in this process alone: ``Trainer.save_checkpoint`` waits for the others."""
    trainer.strategy.save_checkpoint(trainer._checkpoint_connector.dump_checkpoint(), path)


@contextmanager
def unless_the_disk_is_full() -> Iterator[None]:
    """Turn an error of the disk into a warning: a state that cannot be saved must not end a run."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch raises RuntimeErrors
        print_warning(f"the state of the run cannot be saved: {error}")
