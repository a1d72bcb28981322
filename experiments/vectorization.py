"""Adding two vectors, number by number in a loop and at once: what vectorisation is worth (3.1.2)."""

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.benchmark import Timer

from d2l_lightning.errors import InputError, require_positive
from d2l_lightning.figures import draw_curves, log_scale, panels
from d2l_lightning.run import Run, run_experiment

# What Section 3.1.2 prints for 10,000 numbers: seconds of the loop and of the sum.
BOOK = {10_000: (0.17802, 0.00036)}


def main(run: Run, n: list[int], repeats: int) -> None:
    """Time the sum of two vectors, number by number in a loop and at once (3.1.2).

    Both are timed on the CPU by PyTorch's own timer: warmed up, then in blocks long enough to be told, of
    which the median counts.

    Args:
        run: The run.
        n: Lengths of the vectors, as in `--n 100 1000 10000`.
        repeats: How many blocks are timed, at least.
    """
    if not n:
        raise InputError("n must name at least one length")
    require_positive(n=min(n), repeats=repeats)
    if len(set(n)) < len(n):
        raise InputError(f"n must name each length once, not {n}")
    n = sorted(n)
    run.start()
    loop, vectorized = [], []
    for length in track(n, description="timing", console=Console(stderr=True)):
        a, b = torch.rand(length), torch.rand(length)
        if not torch.equal(add_in_loop(a, b), a + b):  # a time is worth nothing if the sum is wrong
            raise AssertionError("the loop and the sum differ")
        loop.append(median_seconds("add_in_loop(a, b)", a, b, repeats))
        vectorized.append(median_seconds("a + b", a, b, repeats))

    rows = [
        (
            f"{length:,}",
            *(f"{seconds * 1e3:.4f}" for seconds in (slow, fast)),
            f"{slow / fast:,.0f}",
            *(f"{seconds * 1e3:.2f}" for seconds in BOOK.get(length, ())),
        )
        for length, slow, fast in zip(n, loop, vectorized, strict=True)
    ]
    columns = ("n", "loop, ms", "a + b, ms", "loop / (a + b)", "book: loop", "a + b")
    note = "The book times once; its machine and its versions are not told."
    run.table("adding two vectors", columns, [(*row, *[""] * (6 - len(row))) for row in rows], note)
    run.figure(times(n, loop, vectorized), "seconds")
    run.finish({"n": n, "loop_seconds": loop, "vectorized_seconds": vectorized})


def add_in_loop(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of two vectors of shape ``(n,)``, computed number by number."""
    c = torch.zeros_like(a)
    for i in range(len(a)):
        c[i] = a[i] + b[i]
    return c


def median_seconds(statement: str, a: Tensor, b: Tensor, repeats: int) -> float:
    """Return the median of how long a statement about a and b takes."""
    timer = Timer(statement, globals={"a": a, "b": b, "add_in_loop": add_in_loop})
    once = timer.timeit(1).median  # which warms up, too
    return timer.blocked_autorange(min_run_time=max(0.05, repeats * once)).median


def times(n: list[int], loop: list[float], vectorized: list[float]) -> Figure:
    """Draw the times over the length."""
    figure, (panel,) = panels([""], "Adding two vectors", "length of the vectors, n", "time (seconds)")
    draw_curves(panel, [("number by number in a loop", n, loop), ("at once: a + b", n, vectorized)])
    for line in panel.lines:
        line.set_marker("o")
    log_scale(panel, "x")
    log_scale(panel, "y")
    panel.legend(frameon=False)
    return figure


if __name__ == "__main__":
    run_experiment(main)
