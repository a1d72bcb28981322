"""Concept shift: a model that trains on a drifting stream, against a frozen copy of it (4.9.3)."""

from collections.abc import Callable
from functools import partial
from typing import Any

from d2l_lightning.callbacks.prequential import PrequentialErrors
from d2l_lightning.data.streams import DriftingStream
from d2l_lightning.errors import InputError
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.plots.shift import stream_errors
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import refuse_flags

import torch


def line(num_inputs: int, **model: Any) -> LinearRegression:
    """Return the model."""
    return LinearRegression(num_inputs, **model)


def main(
    run: Run,
    frozen_after: float = 0.1,
    data: Callable[..., DriftingStream] = DriftingStream,
    model: Callable[..., LinearRegression] = line,
) -> None:
    """Predict every batch of a stream with concept shift, then train on it (4.9.3, 4.9.4).

    Args:
        run: The run.
        frozen_after: The share of the stream after which the frozen copy is made.
        data: The stream.
        model: The model.
    """
    once = "there is one pass over the stream; --num_rows sets its length"
    evaluation = {f"limit_{stage}_batches" for stage in ("val", "test", "predict")}
    refuse_flags(run.trainer_flags, once, {"max_epochs", "min_epochs", *evaluation})
    if not 0 < frozen_after < 1:
        raise InputError(f"frozen_after must be between 0 and 1, not {frozen_after}")
    stream = data(seed=run.seed)
    num_batches = len(stream.train_dataloader())
    start = round(frozen_after * num_batches)
    if not 0 < start < num_batches:
        raise InputError(f"frozen_after {frozen_after} leaves one side of {num_batches} batches empty")
    recorder = PrequentialErrors(start)
    run.fit("stream", model(stream.num_inputs), stream, prefix="", callbacks=[recorder], max_epochs=1)
    if len(recorder.errors) < num_batches:
        raise InputError("the flags end the stream early; the results need all its batches")
    frozen, online = (torch.cat(errors) for errors in zip(*recorder.errors, strict=True))
    truth = ((stream.X * stream.w).sum(dim=1) - stream.y).square()
    first = start * stream.batch_size
    models = (f"frozen copy, trained on {first} rows", "model that goes on training", "true weights")
    errors = dict(zip(models, (frozen, online, truth), strict=True))
    rows = [(name, e[first:].mean().item(), e[-first:].mean().item()) for name, e in errors.items()]
    columns = ("predictions by", "all rows after the copy", f"last {min(first, len(stream.y))} rows")
    names = ("frozen_error", "online_error", "truth_error")
    note = (
        f"The copy is made after {first} rows. Each row is predicted before the model trains on it. "
        "The error of the true weights is the noise."
    )
    run.finish(
        {name: error for name, (_, error, _) in zip(names, rows, strict=True)},
        figures={"errors": partial(stream_errors, errors, first)},
        tables=[Table("mean squared error on the stream", columns, rows, note)],
    )


if __name__ == "__main__":
    run_experiment(main)
