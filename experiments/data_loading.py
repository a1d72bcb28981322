"""Batches of rows in memory, on disk and made on the fly: the last batch, shuffling, seeds (3.3)."""

import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from d2l_lightning.data.batches import data_generator
from d2l_lightning.data.generated import GeneratedData
from d2l_lightning.data.on_disk import OnDiskData, write_rows
from d2l_lightning.data.regression import RegressionData, synthetic_rows
from d2l_lightning.errors import InputError, require_not_negative, require_positive
from d2l_lightning.functional.permutation import unevenness
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.plots.data_order import orders_figure
from d2l_lightning.plots.style import Curve, curve_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run

import torch
from torch import Tensor

EPOCHS = 3  # whose batches are counted
VAL_ROWS = 1000  # generated rows to validate on
ORDERS = {
    "file": "as in the file",
    "block": "block by block",
    "window": "in blocks and windows",
    "row": "row by row",
    "memory": "all in memory",
}
SOURCES = {"new": "new rows in each epoch", "same": "the same rows in each epoch"}
Make = Callable[[], LinearRegression]


def main(
    run: Run,
    num_rows: int = 20_010,
    num_inputs: int = 8,
    noise: float = 1.0,
    batch_size: int = 32,
    lr: float = 0.03,
    block_rows: int = 32,
    window_rows: int = 2048,
    generated_rows: int = 16,
    generated_epochs: int = 200,
) -> None:
    """Count the rows of the last batch, shuffle rows on disk, and make rows on the fly (3.3.5).

    Args:
        run: The run.
        num_rows: Rows in memory and in the files, which are sorted by their targets.
        num_inputs: Number of features.
        noise: Standard deviation of the targets' noise.
        batch_size: Rows in a batch.
        lr: The learning rate of minibatch SGD.
        block_rows: Rows that are read from the files at once.
        window_rows: Rows from the files that are in memory and shuffled at once.
        generated_rows: Rows in an epoch of rows that are made on the fly.
        generated_epochs: Epochs of the fits on such rows. (`--max_epochs` is for the others.)
    """
    require_positive(num_rows=num_rows, num_inputs=num_inputs, block_rows=block_rows, batch_size=batch_size)
    require_positive(generated_rows=generated_rows, generated_epochs=generated_epochs)
    require_not_negative(noise=noise)
    if not (block_rows <= window_rows <= num_rows and 2 * batch_size <= num_rows):
        sizes = f"num_rows {num_rows}, window_rows {window_rows}, block_rows {block_rows}"
        raise InputError(f"{sizes}: there must be two batches and a window of rows, and a block in a window")
    generator = data_generator(run.seed)
    w = torch.randn(num_inputs, generator=generator)
    draw = partial(synthetic_rows, w=w, b=0.0, noise=noise)
    make = partial(LinearRegression, num_inputs, lr)
    make()  # an error in the settings appears at once
    X, y = draw(num_rows, generator)
    by_target = y.argsort()
    memory = partial(RegressionData, X[by_target], y[by_target], num_rows, batch_size, run.seed)
    batches = {name: count(memory(drop_last=drop)) for name, drop in (("kept", False), ("dropped", True))}
    disk, orders = from_disk(run, memory(), make, w, block_rows, window_rows)
    generate = partial(GeneratedData, draw, generated_rows, VAL_ROWS, batch_size)
    fits, panels = on_the_fly(run, generate, make, generated_epochs)
    results = {
        "batches": batches,
        "disk": disk,
        "generated": fits,
        "first_targets": first_targets(generate, run.seed),
    }
    title = f"{generated_rows} rows in an epoch, made on the fly: loss after each epoch"
    run.finish(
        results,
        tables=tables(results, num_rows, batch_size),
        figures={
            "orders": partial(orders_figure, orders),
            "learning_curves": partial(curve_figure, title, panels, "epoch", "squared error", yscale="log"),
        },
    )


def count(data: RegressionData) -> dict[str, float]:
    """Return what the batches of an epoch are, and how many rows are left out (exercise 1)."""
    epochs = [[y for _, y in data.train_dataloader()] for _ in range(EPOCHS)]
    used = torch.cat([torch.cat(batches) for batches in epochs])
    last = len(epochs[0][-1])
    return {
        "batches": len(epochs[0]),
        "last": last,
        "weight_of_last": data.batch_size / last,
        "left_out": len(data.y) - sum(map(len, epochs[0])),
        "never_used": int((~torch.isin(data.y, used)).sum()),
    }


def from_disk(
    run: Run, memory: RegressionData, make: Make, w: Tensor, block_rows: int, window_rows: int
) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    """Train on rows from files, read in several orders, and on rows in memory (exercise 2).

    Returns what an epoch reads and the error of the weights, by order, and the orders by their titles.
    """
    results: dict[str, dict[str, Any]] = {}
    n, orders = memory.num_train, {}
    folder = run.record("rows/") if run.is_first else None  # other processes have files of their own
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as scratch:
        X, y = Path(scratch, "X.npy"), Path(scratch, "y.npy")
        write_rows(X, y, n, memory.parts(4096))
        read = partial(OnDiskData, X, y, n, memory.batch_size, run.seed)
        sources: dict[str, OnDiskData | RegressionData] = {
            "file": read(block_rows, window_rows, shuffle=False),
            "block": read(block_rows, block_rows),
            "window": read(block_rows, window_rows),
            "row": read(1, window_rows),
            "memory": memory,
        }
        for name, data in sources.items():
            found: dict[str, Any] = {"reads": 0, "megabytes": 0.0, "rows_in_memory": n}
            if isinstance(data, OnDiskData):
                order = data.order.row_numbers()
                deque(data.train_dataloader(), maxlen=0)  # an epoch, to count what it reads
                found = {"reads": data.files.reads, "megabytes": data.files.bytes_read / 1e6}
                found["rows_in_memory"] = data.order.rows_in_memory
            else:
                order = torch.cat(list(memory.train_dataloader().sampler))
            model = make()
            run.fit(name, model, data, title=f"rows {ORDERS[name]}")
            found["each_row_once"] = order.sort().values.equal(torch.arange(n))
            found["unevenness"] = unevenness(order, memory.batch_size)
            found["w_error"] = (w - model.get_w_b()[0].cpu()).norm().item()
            results[name], orders[ORDERS[name]] = found, order
    del orders[ORDERS["memory"]]
    if folder:
        shutil.rmtree(folder, ignore_errors=True)  # also what a killed process left there
    return results, orders


def on_the_fly(
    run: Run, generate: Callable[..., GeneratedData], make: Make, epochs: int
) -> tuple[dict[str, dict[str, float | None]], dict[str, list[Curve]]]:
    """Train on new rows in each epoch, and on the same rows; return losses and curves (exercise 3)."""
    results: dict[str, dict[str, float | None]] = {}
    panels: dict[str, list[Curve]] = {}
    last = max(1, epochs // 5)
    for name, title in SOURCES.items():
        data = generate(seed=run.seed, new_each_epoch=name == "new")
        fit = run.fit(f"{name}_rows", make(), data, title=title, max_epochs=epochs)
        train, val = fit.curve("train/loss"), fit.curve("val/loss")
        curves = {"train_loss": train[1][-last:], "val_loss": val[1][-last:]}
        # A trial run has no curves.
        losses = {loss: mean(values) if values else None for loss, values in curves.items()}
        results[name] = {"rows_seen": data.num_train * (epochs if name == "new" else 1), **losses}
        panels[title] = [("training rows", *train), ("validation rows", *val)]
    return results, panels


def first_targets(generate: Callable[..., GeneratedData], seed: int) -> dict[str, list[float]]:
    """Return the first targets of epochs 1, 2 and 1 again, and of epoch 1 with the next seed (exercise 4)."""
    targets: dict[str, list[float]] = {name: [] for name in SOURCES}
    for name, of_name in targets.items():
        for own_seed, epoch in ((seed, 0), (seed, 1), (seed, 0), (seed + 1, 0)):
            loader = generate(seed=own_seed, new_each_epoch=name == "new").train_dataloader()
            loader.set_epoch(epoch)
            of_name.append(next(iter(loader))[1][0].item())
    return targets


def tables(results: Mapping[str, Any], num_rows: int, batch_size: int) -> Iterator[Table]:
    """Yield a table for each exercise."""
    rows = []
    for name, r in results["batches"].items():
        weight, left_out = f"{r['weight_of_last']:.1f}", [str(r["left_out"]), str(r["never_used"])]
        rows.append([name, str(r["batches"]), str(r["last"]), weight, *left_out])
    note = (
        "Weight: of a row of the last batch in a step, as a multiple of other rows. Left out: rows of an "
        f"epoch. Never used: rows that all of {EPOCHS} epochs left out."
    )
    columns = ["last batch", "batches", "rows in it", "their weight", "left out", "never used"]
    yield Table(f"{num_rows:,} rows in batches of {batch_size}", columns, rows, note)

    rows = []
    for name, r in results["disk"].items():
        read = [f"{r['reads']:,}", f"{r['megabytes']:.2f}", f"{r['rows_in_memory']:,}"]
        rows.append([ORDERS[name], *read, f"{r['unevenness']:.2f}", f"{r['w_error']:.3f}"])
    columns = ["order of the rows", "reads", "MB read", "rows in memory", "unevenness", "error of w"]
    once = all(r["each_row_once"] for r in results["disk"].values())
    note = (
        f"{'Each' if once else 'Not each'} order has every row once. Reads and MB: in an epoch; a disk reads "
        "whole pages. Unevenness: how much the mean row number of a batch varies, as a multiple of a fair "
        "shuffle. Error of w: distance from the true weights; shuffled orders differ by chance. The files "
        "are sorted by target."
    )
    yield Table("rows from disk", columns, rows, note)

    rows = [
        [SOURCES[name], f"{r['rows_seen']:,}", *("" if loss is None else f"{loss:.3f}" for loss in losses)]
        for name, r in results["generated"].items()
        for losses in [(r["train_loss"], r["val_loss"])]
    ]
    note = "Losses: squared errors, mean of the last fifth of the epochs; on training rows before each step."
    yield Table("rows made on the fly", ("", "different rows", "train loss", "val loss"), rows, note)

    targets = results["first_targets"].items()
    rows = [[SOURCES[name], *(f"{y:.4f}" for y in of_name)] for name, of_name in targets]
    columns = ["", "epoch 1", "epoch 2", "epoch 1 again", "next seed"]
    yield Table("the first target of an epoch", columns, rows)


if __name__ == "__main__":
    run_experiment(main)
