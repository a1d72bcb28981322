"""The speed of this project beside plain PyTorch and Lightning: interleaved calls in one process."""

import statistics
from pathlib import Path
from typing import Literal

from d2l_lightning.benchmarks.base import Job, time_in_turn
from d2l_lightning.benchmarks.fashion_mnist import Perceptron
from d2l_lightning.benchmarks.kaggle_house import HouseFolds
from d2l_lightning.benchmarks.linear_regression import LinearSteps
from d2l_lightning.benchmarks.weight_decay import LambdaPath
from d2l_lightning.errors import require_positive
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table, track
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import refuse_flags

JOBS: dict[str, type[Job]] = {
    "kaggle_house": HouseFolds,
    "linear_regression": LinearSteps,
    "weight_decay": LambdaPath,
    "fashion_mnist": Perceptron,
}


def main(
    run: Run,
    job: Literal["kaggle_house", "linear_regression", "weight_decay", "fashion_mnist"],
    /,
    repeats: int = 1,
    epochs: int | None = None,
) -> None:
    """Time this project beside plain PyTorch and Lightning.

    Args:
        run: The run.
        job: What to time, on the CPU, from the same weights and on the same batches. `kaggle_house`: the
            5-fold cross-validation of Section 4.10 as one stacked fit, as the same in a run whose state is
            saved, as a PyTorch loop over the folds, and with a plain Trainer for each fold.
            `linear_regression`: a step of Section 3.5's model with and without the Trainer, the same for a
            module that does nothing, and with a progress board. `weight_decay`: a path of 32 lambdas with the
            settings of Section 4.5 as one stacked fit, and as 32 fits in turn. `fashion_mnist`: Section 4.3's
            perceptron with validation, as a PyTorch loop over tensors in memory, and in plain Lightning with
            torchvision's dataset.
        repeats: How often each implementation is timed, in turn.
        epochs: Epochs of each fit; if not given, 100, or 1 of Fashion-MNIST.
    """
    refuse_flags(run.trainer_flags, "each implementation has settings of its own")
    require_positive(repeats=repeats, epochs=1 if epochs is None else epochs)
    epochs = JOBS[job].default_epochs if epochs is None else epochs
    scripts = Path(__file__).parent
    run.start()
    run.record("metrics/")
    for implementation in JOBS[job](run, 1, scripts).implementations.values():
        implementation()  # imports and the like, which happen once, are not timed
    timed = JOBS[job](run, epochs, scripts)
    seconds, metrics = time_in_turn(timed.implementations, track(range(repeats), "timing"))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios, others = timed.ratios(medians), timed.other_seconds(repeats)
    unit, scale, digits = ("s", 1.0, 2) if timed.steps is None else ("µs a step", 1e6 / timed.steps, 0)
    shown = list(dict.fromkeys(metric for values in metrics.values() for metric in values))
    rows = [
        (
            name,
            *(f"{time * scale:.{digits}f}" for time in (medians[name], min(times), max(times))),
            f"{medians['this project'] / medians[name]:.3f}",
            *(metrics[name].get(metric, "") for metric in shown),
        )
        for name, times in seconds.items()
    ]
    title = f"{timed.title}, {epochs} epochs, {repeats} runs each"
    numbers = {**ratios, **others}.items()
    note = "; ".join(f"{name.replace('_', ' ')} {number:.3f}" for name, number in numbers)
    run.finish(
        {"ratios": ratios, **others, "seconds": seconds, "figures": metrics},
        tables=[Table(title, (unit, "median", "from", "to", "ratio", *shown), rows, note)],
    )


if __name__ == "__main__":
    run_experiment(main)
