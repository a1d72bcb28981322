"""A fit of a run: what training logged, and the Trainer's evaluation of the model afterwards."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor

from d2l_lightning.callbacks.history import History
from d2l_lightning.callbacks.progress import describe_metrics
from d2l_lightning.errors import DivergenceError, InputError
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.runs.signals import StopSignals


@dataclass(frozen=True)
class Fit:
    """A model that a run trains: its title in messages, its data, its Trainer and what the Trainer logs."""

    title: str
    model: SupervisedModule
    data: LightningDataModule
    trainer: Trainer
    history: History
    signals: StopSignals

    def curve(self, metric: str) -> tuple[list[int], list[float]]:
        """Return the epochs, from 1, at which a metric (without the prefix) was logged, and its values."""
        return self.history.curve(self.model.log_prefix + metric)

    def progress(self) -> str:
        """Return how far the fit is, as a line of text."""
        # Not the Trainer's metrics: to read them from another thread would change them.
        epoch, metrics = (
            self.trainer.current_epoch,
            describe_metrics(self.history.latest(), self.model.log_prefix),
        )
        return f"{self.title}: {epoch} of {self.trainer.max_epochs} epochs  {metrics}".strip()

    def validate(self) -> dict[str, Tensor]:
        """Return the model's metrics on its validation data; they are not logged a second time.

        Raises:
            InputError: If the flags leave no rows to validate on, or a metric is not finite.
        """
        loggers, self.trainer.loggers = self.trainer.loggers, []
        with self.stopping():
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
        with self.stopping():
            self.trainer.test(self.model, self.data, verbose=False)
        return self._finite_metrics(DivergenceError)

    def _finite_metrics(self, error: type[InputError]) -> dict[str, Tensor]:
        for metric, values in self.model.evaluated.items():
            given = self.model.examples[metric.partition("/")[0]] > 0
            # One of several members may have no examples of a stage.
            if not (values.isfinite() | ~given & given.any()).all():
                raise error(f"{metric} of the {self.title} is not finite in the end; a lower lr may help")
        return self.model.evaluated

    def predict(
        self, model: SupervisedModule | None = None, data: LightningDataModule | None = None
    ) -> Tensor:
        """Return the predictions for the rows to predict, of all batches in a row.

        Args:
            model: A member of the model that was trained; the model itself if not given.
            data: Data with rows to predict; those of the fit if not given.
        """
        with self.stopping():
            batches = self.trainer.predict(model or self.model, data or self.data)
            return torch.cat(cast(list[Tensor], batches))

    def stopping(self) -> AbstractContextManager[None]:
        """Return a context that turns a signal into a ``StoppedError`` that says how far the fit was."""
        trainer = self.trainer
        return self.signals.stopping(
            lambda: f"after epoch {trainer.current_epoch} of {trainer.max_epochs} of the {self.title}"
        )
