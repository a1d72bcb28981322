"""A board that draws curves while training runs: live in a notebook, as a PNG from a script."""

import io
import sys
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from torch import Tensor

from d2l_lightning.callbacks.step_hooks import NoStepHooks
from d2l_lightning.errors import InputError, require_positive
from d2l_lightning.figures import draw_curves, log_scale, panels
from d2l_lightning.files import whole_file

Scale = Literal["linear", "log"]


class ProgressBoard(NoStepHooks, Callback):  # type: ignore[misc]
    """Draws the loss of the training batches and the metrics of validation; or any points, by ``draw``.

    In a notebook the figure grows with every epoch. In a script it costs an append a step, and with a path it
    becomes a PNG when training ends, also when it ends early. Give one board to several fits to have their
    curves side by side; those of a ``SupervisedModule`` carry its ``log_prefix``. The loss of a batch is the
    one that is minimised, penalty included; of members side by side it is their mean.

    Args:
        path: Where to write the PNG when training ends; None for nowhere.
        every_n: How many batches make up one point of the curve of training: the mean of their losses.
        metrics: The metrics to draw after each validation; None for those named ``loss`` (or ``val_loss``) of
            any stage but training.
        title: The figure's title.
        xlabel: What the x axis shows.
        ylabel: What the y axis shows, with its unit.
        xscale: Whether the x axis is logarithmic.
        yscale: Whether the y axis is logarithmic.
        live: Whether to show the figure as it grows; None for: in a notebook.
        refresh_seconds: How often at most a figure is drawn anew while it grows.

    Raises:
        InputError: If ``every_n`` is not positive.

    Source: Sections 3.2.1 and 3.2.2.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        every_n: int = 1,
        metrics: Sequence[str] | None = None,
        title: str = "",
        xlabel: str = "epoch",
        ylabel: str = "loss",
        xscale: Scale = "linear",
        yscale: Scale = "linear",
        live: bool | None = None,
        refresh_seconds: float = 1.0,
    ) -> None:
        require_positive(every_n=every_n)
        self.path = None if path is None else Path(path)
        self.every_n, self.metrics, self.title = every_n, metrics, title
        self.xlabel, self.ylabel, self.xscale, self.yscale = xlabel, ylabel, xscale, yscale
        self.live = _in_notebook() if live is None else live
        self.refresh_seconds = refresh_seconds
        # Numbers alone: objects would be work for the garbage collector while training runs.
        self._curves: dict[str, tuple[array[float], array[float], int]] = {}
        self._losses: list[Tensor] = []
        self._shown = -float("inf")
        self._stale = False
        self._waits = False
        self._display: Any = None

    def draw(self, x: float, y: float, label: str, every_n: int = 1) -> None:
        """Add a point to a curve; every n points, as its first one said, become one, their mean."""
        require_positive(every_n=every_n)
        self._add([x], [y], label, every_n)
        self._show()

    def curve(self, label: str) -> tuple[list[float], list[float]]:
        """Return x and y of a curve's points as they are drawn, the last of them perhaps of fewer than n.

        Raises:
            InputError: If there is no such curve.
        """
        if label not in self._curves:
            raise InputError(f"there is no curve {label!r}; there are {', '.join(self._curves) or 'none'}")
        x, y, every_n = self._curves[label]
        return _means(x, every_n), _means(y, every_n)

    def figure(self) -> Figure:
        """Return the curves as a figure."""
        figure, (panel,) = panels([""], self.title, self.xlabel, self.ylabel)
        draw_curves(panel, [(label, *self.curve(label)) for label in self._curves])
        if self.xscale == "log":
            log_scale(panel, "x")
        if self.yscale == "log":
            log_scale(panel, "y")
        if self._curves:
            panel.legend(frameon=False)
        return figure

    def write(self) -> None:
        """Write the PNG, if there are a path and a curve."""
        if self.path is not None and self._curves:
            with whole_file(self.path) as path:
                self.figure().savefig(path)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a fit: a notebook gets a figure of its own for it."""
        self._display = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an epoch."""
        self._losses.clear()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss of the batch, as it is: reading its value would wait for the device."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None:
            self._losses.append(loss)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch's batches to the curve."""
        self._add_losses(trainer, pl_module)
        self._show()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the metrics of a validation."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        x = trainer.current_epoch + (trainer.fit_loop.batch_idx + 1) / trainer.num_training_batches
        for name, value in trainer.callback_metrics.items():
            if name in self.metrics if self.metrics is not None else _is_validation_loss(name):
                self._add([x], [value.item()], name, 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the curves as they are in the end."""
        self._finish()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draw the curves as far as they have come."""
        self._add_losses(trainer, pl_module)
        self._finish()

    def _add_losses(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._losses:
            return
        label = f"{getattr(pl_module, 'log_prefix', '')}loss of a batch"
        if self.every_n > 1:
            label += f", mean of {self.every_n}"
        # As one tensor, they come from the device at once.
        shares = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
        scale = shares / getattr(pl_module, "num_members", 1)
        losses = (torch.stack(self._losses) * scale).tolist()
        epoch, steps = trainer.current_epoch, trainer.num_training_batches
        x = [epoch + (step + 1) / steps for step in range(len(losses))]
        self._add(x, losses, label, self.every_n)
        self._losses.clear()

    def _add(self, x: Sequence[float], y: Sequence[float], label: str, every_n: int) -> None:
        xs, ys, _ = self._curves.setdefault(label, (array("d"), array("d"), every_n))
        xs.extend(x)
        ys.extend(y)

    def _show(self, at_once: bool = False) -> None:
        if not self.live:
            return
        self._stale = not at_once and time.monotonic() - self._shown <= self.refresh_seconds
        if self._stale:
            return
        from IPython import get_ipython  # only where there is a notebook
        from IPython.display import Image, display

        stream = io.BytesIO()
        self.figure().savefig(stream, format="png")
        image = Image(data=stream.getvalue())
        if self._display is None:
            self._display = display(image, display_id=True)
        else:
            self._display.update(image)
        self._shown = time.monotonic()
        shell = get_ipython()
        if shell is not None and not self._waits:
            shell.events.register("post_run_cell", self._show_rest)
            self._waits = True

    def _show_rest(self, *_: Any) -> None:
        """Draw, when a cell is done, what came too soon after the last drawing."""
        if self._stale:
            self._show(at_once=True)
        from IPython import get_ipython

        get_ipython().events.unregister("post_run_cell", self._show_rest)
        self._waits = False

    def _finish(self) -> None:
        self._show(at_once=True)
        self.write()


def _is_validation_loss(name: str) -> bool:
    *stage, metric = name.split("/")
    return metric in ("loss", "val_loss") and "train" not in stage


def _means(values: "array[float]", n: int) -> list[float]:
    return [fmean(values[start : start + n]) for start in range(0, len(values), n)]


def _in_notebook() -> bool:
    # Whoever runs in a notebook has IPython imported already.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)
