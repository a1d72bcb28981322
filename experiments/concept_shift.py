"""Concept shift: a model that goes on learning on a drifting stream, against one that is frozen (4.9.3)."""

import copy
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from d2l_lightning.data.streams import DriftingStream
from d2l_lightning.errors import InputError
from d2l_lightning.figures import draw_curves, log_scale, panels
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.run import Run, run_experiment

# Points of the curves: each is the mean over so large a share of the stream.
POINTS = 50


def main(
    run: Run,
    num_inputs: int,
    num_rows: int,
    turn: float,
    noise: float,
    batch_size: int,
    lr: float,
    frozen_after: float,
) -> None:
    """Test, then train, on every batch of a stream whose dependency drifts (4.9.3, 4.9.4).

    The stream comes once, whatever `--max_epochs` says.

    Args:
        run: The run.
        num_inputs: Number of features.
        num_rows: Rows of the stream.
        turn: By how many radians the true weights turn over the stream.
        noise: Standard deviation of the targets' noise.
        batch_size: Rows that come at a time.
        lr: Learning rate of minibatch SGD.
        frozen_after: The share of the stream after which the frozen model learns no more.
    """
    if not 0 < frozen_after < 1:
        raise InputError(f"frozen_after must be between 0 and 1, not {frozen_after}")
    data = DriftingStream(num_inputs, num_rows, turn, noise, batch_size, run.seed)
    num_batches = len(data.train_dataloader())
    start = round(frozen_after * num_batches)
    if not 0 < start < num_batches:
        raise InputError(f"frozen_after {frozen_after} leaves one side of {num_batches} batches empty")
    model = LinearRegression(num_inputs, lr)
    watch = TestThenTrain(start)
    run.trainer("stream", [watch], max_epochs=1).fit(model, data)
    if len(watch.errors) < num_batches:
        raise InputError("the flags end the stream early; it must be gone through once")
    rows = data.X.split(batch_size)
    truth = [
        ((X * w).sum(dim=1) - y).square()
        for X, w, y in zip(rows, data.w.split(batch_size), data.y.split(batch_size), strict=True)
    ]
    errors = {
        "frozen": torch.cat([frozen for frozen, _ in watch.errors]),
        "online": torch.cat([online for _, online in watch.errors]),
        "truth": torch.cat(truth),
    }
    first = start * batch_size
    told = {f"{name}_error": values[first:].mean().item() for name, values in errors.items()}
    names = {
        "frozen": f"frozen after {first} rows",
        "online": "online: goes on learning",
        "truth": "knows the true weights",
    }
    tables = [
        (names[name], told[f"{name}_error"], values[-first:].mean().item()) for name, values in errors.items()
    ]
    note = (
        "Each row is predicted before it is learned from. The last part is as long as that before the freeze."
    )
    run.table("mean squared error on the stream", ("", "after the freeze", "last part"), tables, note)
    run.figure(draw(errors, names, first), "errors")
    run.finish(told)


class TestThenTrain(Callback):
    """Predicts every batch before it is learned from, by the model as it is and as it was when frozen.

    Args:
        start: The batch before which the model is frozen.

    Attributes:
        errors: The squared errors of each batch's rows: frozen, online. Before the freeze both are one.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self.errors: list[tuple[Tensor, Tensor]] = []
        self._frozen: LightningModule | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Predict the batch."""
        X, y = batch
        if batch_idx == self.start:
            self._frozen = copy.deepcopy(pl_module)
        with torch.no_grad():
            online = (pl_module(X) - y).square().cpu()
            frozen = online if self._frozen is None else (self._frozen(X) - y).square().cpu()
        self.errors.append((frozen, online))


def draw(errors: dict[str, Tensor], names: dict[str, str], first: int) -> Figure:
    """Draw the errors along the stream."""
    title = "Predicting a stream whose dependency drifts"
    figure, (panel,) = panels([""], title, "row of the stream", "mean squared error")
    curves = []
    for name, values in errors.items():
        parts = values.tensor_split(min(POINTS, len(values)))
        ends = torch.tensor([len(part) for part in parts]).cumsum(dim=0)
        curves.append((names[name], ends.tolist(), [part.mean().item() for part in parts]))
    draw_curves(panel, curves)
    panel.axvline(first, color="0.6", linewidth=1, label="freeze")
    log_scale(panel)
    panel.legend(frameon=False)
    return figure


if __name__ == "__main__":
    run_experiment(main)
