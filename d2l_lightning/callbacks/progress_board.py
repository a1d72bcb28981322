"""Curves that are drawn during training: live in a notebook, as a PNG in a script."""

import io
import sys
import time
from array import array
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from d2l_lightning.callbacks.step_hooks import NoStepHooks
from d2l_lightning.distributed.group import process
from d2l_lightning.errors import InputError, absolute_path, require_positive
from d2l_lightning.plots.style import Curve, Scale, curve_figure, default_style
from d2l_lightning.runs.folder import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SUFFIXES = (".png", ".pdf", ".svg")


class ProgressBoard(NoStepHooks, Callback):  # type: ignore[misc]
    """Draws the loss of training batches and the metrics of validation; ``draw`` adds other points.

    A notebook shows the figure during training, and for a board that is the last line of a cell. With a path,
    a picture is written when training ends, also after an error; ``write`` writes it at another time. A step
    costs one append to a list. Several fits can share a board; the names of their curves begin with the
    ``log_prefix`` of the ``SupervisedModule``. The loss of a batch is the one that training minimises, with
    its penalty; for members side by side it is their mean. Source: Sections 3.2.1 and 3.2.2.

    Args:
        xlabel: The label of the x axis.
        ylabel: The label of the y axis, with its unit.
        path: The path of the picture, which ends in .png, .pdf or .svg; None for no picture.
        every_n: Number of batches, positive, whose mean loss is one point.
        metrics: Names of the metrics to draw after each validation. None draws the metrics ``loss`` and
            ``val_loss`` of all stages but ``train``.
        title: The title of the figure.
        xscale: The scale of the x axis.
        yscale: The scale of the y axis.
        live: Whether to show the figure during training; None shows it in notebooks.
        refresh_seconds: The least time between two drawings during training.

    Raises:
        InputError: If ``every_n`` is not positive, a path has another suffix, or ``live`` is true and IPython
            is not installed.
    """

    def __init__(
        self,
        xlabel: str = "epoch",
        ylabel: str = "loss",
        *,
        path: str | Path | None = None,
        every_n: int = 1,
        metrics: Sequence[str] | None = None,
        title: str = "",
        xscale: Scale = "linear",
        yscale: Scale = "linear",
        live: bool | None = None,
        refresh_seconds: float = 1.0,
    ) -> None:
        require_positive(every_n=every_n)
        if Path(xlabel).suffix in _SUFFIXES:  # a path came first in earlier versions
            raise InputError(f"the first argument is the label of the x axis; pass path={str(xlabel)!r}")
        if path is not None and Path(path).suffix not in _SUFFIXES:
            raise InputError(f"path must end in {', '.join(_SUFFIXES)}, not {str(path)!r}")
        if live and find_spec("IPython") is None:
            raise InputError("live=True needs IPython; install it by `pip install ipython`")
        self.path = None if path is None else absolute_path(path)
        self.every_n, self.metrics, self.title = every_n, metrics, title
        self.xlabel, self.ylabel, self.xscale, self.yscale = xlabel, ylabel, xscale, yscale
        self.live = _in_notebook() if live is None else live
        self.refresh_seconds = refresh_seconds
        # Arrays of numbers give the garbage collector no work during training.
        self._curves: dict[str, tuple[array[float], array[float], int]] = {}
        self._losses: list[Tensor] = []
        self._shown = -float("inf")
        self._stale = False
        self._registered = False
        self._display: Any = None

    def draw(self, x: float, y: float, label: str, every_n: int = 1) -> None:
        """Add a point to a curve, which shows the mean of every n points; its first point sets n."""
        require_positive(every_n=every_n)
        self._add([x], [y], label, every_n)
        self._show()

    def curve(self, label: str) -> tuple[list[float], list[float]]:
        """Return x and y of the points of a curve as drawn; raise an InputError if there is no such curve."""
        if label not in self._curves:
            raise InputError(f"there is no curve {label!r}; there are {', '.join(self._curves) or 'none'}")
        x, y, every_n = self._curves[label]
        return _means(x, every_n), _means(y, every_n)

    def figure(self) -> "Figure":
        """Return the curves as a figure."""
        curves: list[Curve] = [(label, *self.curve(label)) for label in self._curves]
        with default_style():
            return curve_figure(
                self.title, {"": curves}, self.xlabel, self.ylabel, xscale=self.xscale, yscale=self.yscale,
                legend="last" if curves else "none",
            )  # fmt: skip

    def _repr_png_(self) -> bytes:
        """Return the figure as a PNG; a notebook shows it for a board that is the last line of a cell."""
        stream = io.BytesIO()
        with default_style():
            self.figure().savefig(stream, format="png")
        return stream.getvalue()

    def write(self) -> None:
        """Write the picture if there is a path and a curve; of several processes, the first one does."""
        if self.path is not None and self._curves and process() == 0:
            with whole_file(self.path) as path, default_style():
                self.figure().savefig(path)

    @property
    def state_key(self) -> str:
        """The key in checkpoints, which distinguishes the boards of a fit."""
        settings = {
            "title": self.title,
            "path": str(self.path),
            "metrics": self.metrics,
            "ylabel": self.ylabel,
        }
        return self._generate_state_key(**settings, every_n=self.every_n)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the curves."""
        return {"curves": {label: (list(x), list(y), n) for label, (x, y, n) in self._curves.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what a checkpoint kept."""
        curves = state_dict["curves"].items()
        self._curves = {label: (array("d", x), array("d", y), n) for label, (x, y, n) in curves}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a new figure in the notebook."""
        self._display = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the losses of an epoch that did not end."""
        self._losses.clear()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss of the batch as a tensor; reading its value would wait for the device."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None:
            self._losses.append(loss)

    def on_train_minibatch_end(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keep the loss of a batch that is one of several in a training step."""
        self._losses.append(loss)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the losses of the epoch to the curve."""
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

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule, *_: BaseException) -> None:
        """Draw the final curves, or those up to an error."""
        self._add_losses(trainer, pl_module)
        self._show(at_once=True)
        self.write()

    on_exception = on_train_end  # type: ignore[assignment]

    def _add_losses(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._losses:
            return
        label = f"{getattr(pl_module, 'log_prefix', '')}loss of a batch"
        if self.every_n > 1:
            label += f", mean of {self.every_n}"
        shares = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
        scale = shares / getattr(pl_module, "num_members", 1)
        losses = (torch.stack(self._losses) * scale).tolist()  # one copy from the device
        steps = trainer.num_training_batches
        x = [trainer.current_epoch + (step + 1) / steps for step in range(len(losses))]
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
        from IPython import get_ipython  # installed where notebooks are
        from IPython.display import Image, display

        image = Image(data=self._repr_png_())
        if self._display is None:
            self._display = display(image, display_id=True)
        else:
            self._display.update(image)
        self._shown = time.monotonic()
        shell = get_ipython()
        if shell is not None and not self._registered:
            shell.events.register("post_run_cell", self._show_rest)
            self._registered = True

    def _show_rest(self, *_: Any) -> None:
        """Draw the points that came too soon after the last drawing, when the cell is done."""
        if self._stale:
            self._show(at_once=True)
        from IPython import get_ipython

        get_ipython().events.unregister("post_run_cell", self._show_rest)
        self._registered = False


def _is_validation_loss(name: str) -> bool:
    *stage, metric = name.split("/")
    return metric in ("loss", "val_loss") and "train" not in stage


def _means(values: "array[float]", n: int) -> list[float]:
    return [fmean(values[start : start + n]) for start in range(0, len(values), n)]


def _in_notebook() -> bool:
    # A notebook has already imported IPython.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)
