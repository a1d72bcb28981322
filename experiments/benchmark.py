"""The speed of this project beside plain PyTorch and Lightning: interleaved calls in one process."""

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from d2l_lightning.benchmarks.base import Job, time_in_turn
from d2l_lightning.benchmarks.fashion_mnist import Perceptron
from d2l_lightning.benchmarks.kaggle_house import HouseFolds
from d2l_lightning.benchmarks.kaggle_house_mlp import PerceptronFolds
from d2l_lightning.benchmarks.linear_regression import LinearSteps
from d2l_lightning.benchmarks.load import machine_load
from d2l_lightning.benchmarks.many_folds import ManyFolds
from d2l_lightning.benchmarks.search import HouseSearch
from d2l_lightning.benchmarks.shared_machine import SharedMachine
from d2l_lightning.benchmarks.weight_decay import LambdaPath
from d2l_lightning.benchmarks.whole_job import WholeJob
from d2l_lightning.errors import require_positive
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table, print_line, print_warning
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import refuse_flags

import torch

JOBS: dict[str, type[Job]] = {
    "kaggle_house": HouseFolds,
    "kaggle_house_mlp": PerceptronFolds,
    "many_folds": ManyFolds,
    "whole_job": WholeJob,
    "shared_machine": SharedMachine,
    "linear_regression": LinearSteps,
    "weight_decay": LambdaPath,
    "fashion_mnist": Perceptron,
    "search": HouseSearch,
}


def main(
    run: Run,
    job: Literal[
        "kaggle_house",
        "kaggle_house_mlp",
        "many_folds",
        "whole_job",
        "shared_machine",
        "linear_regression",
        "weight_decay",
        "fashion_mnist",
        "search",
    ],
    /,
    repeats: int = 1,
    epochs: int | None = None,
) -> None:
    """Time this project beside plain PyTorch and Lightning.

    Args:
        run: The run.
        job: What to time, each implementation from the same weights and on the same batches. This project
            trains in a run with the defaults of its experiments; --accelerator gpu trains on a GPU.
            - `kaggle_house`: the 5-fold cross-validation of Section 4.10 as one stacked fit, in a run and by
            a Trainer alone; as a PyTorch loop over the folds; with a plain Trainer for each fold.
            - `kaggle_house_mlp`: the perceptron of configs/kaggle_house_mlp.yaml, stacked and as a PyTorch
            loop. Their dropout masks differ, so their metrics agree only roughly.
            - `many_folds`: 50 folds beside 5.
            - `whole_job`: kaggle_house.py, and a script in plain PyTorch that does the same, as processes.
            - `shared_machine`: the cross-validation, the perceptron of Section 4.3 and PyTorch loops, on the
            machine as it is and while another process keeps each core busy.
            - `linear_regression`: a step of Section 3.5's model with the Trainer, without it, and with a
            progress board; a step of a module that does nothing.
            - `weight_decay`: a path over 32 lambdas with the settings of Section 4.5, as one stacked fit and
            as 32 fits in turn.
            - `fashion_mnist`: the perceptron of Section 4.3 with validation, as a PyTorch loop over tensors
            in memory, and in plain Lightning with torchvision's dataset.
            - `search`: 64 settings of a house perceptron on 5 folds, with and without pruning, with two
            workers, as a stacked fit for each setting, and as plain Optuna with a Trainer for each fold.
        repeats: How often each implementation is timed, in turn.
        epochs: Epochs of each fit. If not given, 100; 1 for `fashion_mnist`; 60 for `search`. In
            `shared_machine`, the perceptron is trained for a hundredth of them, and for 1 at least.
    """
    refuse_flags(run.trainer_flags, "each implementation has settings of its own")
    require_positive(repeats=repeats, epochs=1 if epochs is None else epochs)
    epochs = JOBS[job].default_epochs if epochs is None else epochs
    scripts = Path(__file__).parent
    device = JOBS[job].device_of(run)
    run.start()
    run.record("metrics/")
    load = machine_load()
    print_line(str(load))
    if load.idle is False:
        print_warning("the machine is not idle: times on the clock are too long, and ratios uncertain")
    if JOBS[job].warm_up:
        for implementation in dict.fromkeys(JOBS[job](run, 1, scripts).implementations.values()):
            implementation()  # imports and the like, which happen once, are not timed
    timed = JOBS[job](run, epochs, scripts)
    seconds, metrics = time_in_turn(timed, run.track(range(repeats), "timing"))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios, others = timed.ratios(medians), timed.other_seconds(repeats)
    unit, scale, digits = ("seconds", 1.0, 2) if timed.steps is None else ("µs a step", 1e6 / timed.steps, 0)
    shown = list(dict.fromkeys(metric for values in metrics.values() for metric in values))
    rows = [
        (
            name,
            *(f"{time * scale:.{digits}f}" for time in (medians[name], min(times), max(times))),
            *(metrics[name].get(metric, "") for metric in shown),
        )
        for name, times in seconds.items()
    ]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    title = f"{timed.title}, {unit} for {epochs} epochs, {repeats} runs each, on {name}"
    numbers = {**ratios, **others}.items()
    found = "; ".join(f"{name.replace('_', ' ')} {number:.3f}" for name, number in numbers)
    note = f"Ratios of medians, which docs/performance.md explains, and other times: {found}."
    metric_names = {"train": "training metric", "val": "validation metric"}
    columns = ("implementation", "median", "fastest", "slowest", *(metric_names.get(m, m) for m in shown))
    run.finish(
        {
            **{"ratios": ratios, **others, "seconds": seconds, "figures": metrics, "load": asdict(load)},
            "device": name,
        },
        tables=[Table(title, columns, rows, note)],
    )


if __name__ == "__main__":
    run_experiment(main)
