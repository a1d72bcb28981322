"""Adding two vectors, number by number in a loop and at once (3.1.2)."""

from collections.abc import Sequence
from functools import partial

from d2l_lightning.errors import InputError, require_positive
from d2l_lightning.plots.style import Curve, curve_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import refuse_flags

import torch
from torch import Tensor

# What Section 3.1.2 prints for 10,000 numbers: seconds of the loop and of the sum.
BOOK = {10_000: (0.17802, 0.00036)}


def main(run: Run, n: Sequence[int] = (10, 100, 1000, 10_000, 100_000), repeats: int = 5) -> None:
    """Time the sum of two vectors, number by number in a loop and at once (3.1.2).

    Both are timed on the CPU by PyTorch's own timer: after a warm-up, in blocks that are long enough to
    measure. The result is the median of the blocks.

    Args:
        run: The run.
        n: Lengths of the vectors, as in `--n 100 1000 10000`.
        repeats: The fewest timed blocks.
    """
    refuse_flags(run.trainer_flags, "nothing is trained")
    if not n:
        raise InputError("n must name at least one length")
    require_positive(n=min(n), repeats=repeats)
    if len(set(n)) < len(n):
        raise InputError(f"n must name each length once, not {n}")
    n = sorted(n)
    torch.empty(3, n[-1])  # fails at once where there is no room for two vectors and their sum
    run.start()
    loop, vectorized = [], []
    for length in run.track(n, "timing"):
        a, b = torch.rand(length), torch.rand(length)
        if not torch.equal(add_in_loop(a, b), a + b):  # the time of a wrong sum would mean nothing
            raise AssertionError("the loop and the sum differ")
        loop.append(median_seconds("add_in_loop(a, b)", a, b, repeats))
        vectorized.append(median_seconds("a + b", a, b, repeats))

    rows = []
    for length, slow, fast in zip(n, loop, vectorized, strict=True):
        book = [f"{seconds * 1e3:.2f}" for seconds in BOOK[length]] if length in BOOK else ["", ""]
        ours = [f"{slow * 1e3:.4f}", f"{fast * 1e3:.4f}", f"{slow / fast:,.0f}"]
        rows.append([f"{length:,}", *ours, *book])
    columns = ("length", "loop (ms)", "a + b (ms)", "loop / (a + b)", "book: loop (ms)", "book: a + b (ms)")
    note = "The book's times are of one sum each, on a machine that it does not name."
    curves: list[Curve] = [("number by number in a loop", n, loop), ("at once: a + b", n, vectorized)]
    figure = ("Adding two vectors", {"": curves}, "length of the vectors, n", "time (seconds)")
    run.finish(
        {"n": n, "loop_seconds": loop, "vectorized_seconds": vectorized},
        tables=[Table("adding two vectors", columns, rows, note)],
        figures={"seconds": partial(curve_figure, *figure, xscale="log", yscale="log", markers=True)},
    )


def add_in_loop(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of two vectors of shape ``(n,)``, computed number by number."""
    c = torch.zeros_like(a)
    for i in range(len(a)):
        c[i] = a[i] + b[i]
    return c


def median_seconds(statement: str, a: Tensor, b: Tensor, repeats: int) -> float:
    """Return the median time of a statement about a and b."""
    # Imported here, because the import may log a warning about CUDA.
    from torch.utils.benchmark import Timer

    timer = Timer(statement, globals={"a": a, "b": b, "add_in_loop": add_in_loop})
    once = timer.timeit(1).median  # this also warms up
    return timer.blocked_autorange(min_run_time=max(0.05, repeats * once)).median


if __name__ == "__main__":
    run_experiment(main)
