"""A fit of a run: what training logged, and the Trainer's evaluation of the model afterwards."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor

from d2l_lightning.callbacks.history import History
from d2l_lightning.errors import DivergenceError, InputError
from d2l_lightning.models.base import SupervisedModule


class StoppedError(KeyboardInterrupt):
    """The user stopped the run; the message says how far it was."""


# The Trainer's flags where they are not given: one device, and nothing that slows down a small model.
LEAN = {"devices": 1, "enable_checkpointing": False, "enable_model_summary": False, "num_sanity_val_steps": 0}


def make_trainer(folder: Path, callbacks: Sequence[Callback], **trainer_flags: Any) -> Trainer:
    """Return a Trainer that logs nowhere yet; ``folder`` is for files that callbacks write.

    Raises:
        InputError: If a flag does not suit the machine or the other flags.
    """
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
    except ImportError as error:
        raise InputError(f"--accelerator {trainer_flags['accelerator']}: {error}") from error
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise InputError(str(error)) from error
    if trainer.limit_val_batches == 0:
        raise InputError("--limit_val_batches leaves nothing to evaluate on")
    if trainer.world_size > 1:
        raise InputError(
            f"--devices and --num_nodes ask for {trainer.world_size} devices; models train on one here"
        )
    return trainer


@dataclass(frozen=True)
class Fit:
    """A model that a run trains: its title in messages, its data, its Trainer and what the Trainer logs."""

    title: str
    model: SupervisedModule
    data: LightningDataModule
    trainer: Trainer
    history: History

    def curve(self, metric: str) -> tuple[list[int], list[float]]:
        """Return the epochs, from 1, at which a metric (without the prefix) was logged, and its values."""
        return self.history.curve(self.model.log_prefix + metric)

    def train(self) -> None:
        """Train the model."""
        with self._stopping():
            self.trainer.fit(self.model, self.data)

    def validate(self) -> dict[str, Tensor]:
        """Return the model's metrics on its validation data; they are not logged a second time.

        Raises:
            InputError: If the flags leave no rows to validate on, or a metric is not finite.
        """
        loggers, self.trainer.loggers = self.trainer.loggers, []
        with self._stopping():
            self.trainer.validate(self.model, self.data, verbose=False)
        self.trainer.loggers = loggers
        if not self.model.evaluated:
            raise InputError("--limit_val_batches leaves nothing to evaluate on")
        return self._finite_metrics(InputError)

    def test(self) -> dict[str, Tensor]:
        """Log and return the model's metrics on the test rows.

        Raises:
            DivergenceError: If a metric is not finite.
        """
        with self._stopping():
            self.trainer.test(self.model, self.data, verbose=False)
        return self._finite_metrics(DivergenceError)

    def _finite_metrics(self, error: type[InputError]) -> dict[str, Tensor]:
        for metric, values in self.model.evaluated.items():
            if not values.isfinite().all():
                raise error(f"{metric} of the {self.title} is not finite in the end; a lower lr may help")
        return self.model.evaluated

    def predict(self) -> Tensor:
        """Return the model's predictions for the rows to predict, of all batches in a row."""
        with self._stopping():
            return torch.cat(cast(list[Tensor], self.trainer.predict(self.model, self.data)))

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Turn the exit that Lightning makes of Ctrl-C into an error that says how far the fit was."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as error:
            if isinstance(error, SystemExit) and not self.trainer.interrupted:
                raise
            epoch, epochs = self.trainer.current_epoch, self.trainer.max_epochs
            raise StoppedError(f"stopped after epoch {epoch} of {epochs} of the {self.title}") from error
