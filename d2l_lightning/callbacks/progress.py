"""A progress bar that is updated once an epoch, so that it does not slow down training."""

import time
from collections.abc import Mapping

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from d2l_lightning.callbacks.step_hooks import NoStepHooks
from d2l_lightning.errors import printable


def describe_metrics(metrics: Mapping[str, float | Tensor], prefix: str) -> str:
    """Return the metrics whose names begin with a prefix as a short text."""
    named = {name.removeprefix(prefix): metrics[name] for name in metrics if name.startswith(prefix)}
    latest = {name: value for name, value in named.items() if name.count("/") < 2}  # no single members
    # The text is short: accuracies and the like rather than losses, validation rather than training.
    names = [name for name in latest if not name.endswith("/loss")] or list(latest)
    names = [name for name in names if not name.startswith("train/")] or names
    return "  ".join(f"{name} {latest[name]:.4g}" for name in names)


class EpochProgressBar(NoStepHooks, ProgressBar):  # type: ignore[misc]
    """Shows the epochs of a fit, the remaining time and the latest metrics.

    Args:
        title: What is trained.
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = printable(title)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._enabled = True

    def disable(self) -> None:
        """Hide the bar; Lightning calls this on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the bar."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[metrics]}"),
            console=Console(stderr=True),
            auto_refresh=False,  # no extra thread
            disable=not self._enabled,
        )
        total = None if trainer.max_epochs in (None, -1) else trainer.max_epochs
        # A resumed fit does not start at epoch 0.
        done = trainer.current_epoch
        self._task = self._progress.add_task(self.title, total=total, completed=done, metrics="")
        self._progress.start()
        self._drawn = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Advance the bar and redraw it, at most ten times a second."""
        if self._progress is None or not self._enabled:
            return
        self._progress.update(self._task, advance=1)
        if time.monotonic() - self._drawn > 0.1:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bar with the metrics of the last epoch, and stop it."""
        if self._progress is not None and self._enabled:
            self._draw(trainer, pl_module)
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop the bar, so that the error message has a line of its own."""
        self._stop()

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Redraw the bar with the latest metrics."""
        assert self._progress is not None
        prefix = getattr(pl_module, "log_prefix", "")  # the bar's title names the fit
        metrics = printable(describe_metrics(trainer.callback_metrics, prefix))
        self._progress.update(self._task, metrics=metrics, refresh=True)
        self._drawn = time.monotonic()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
