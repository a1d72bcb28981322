"""Backpropagation by hand: training, a check against autograd, the computational graph, memory (4.7)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from d2l_lightning.benchmarks.memory import memory_of
from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.errors import InputError
from d2l_lightning.functional.computational_graph import operators
from d2l_lightning.models.backpropagation import BackpropagationMLP, gradient_errors
from d2l_lightning.models.mlp import MLP
from d2l_lightning.plots import backpropagation as plots
from d2l_lightning.runs.classification import train_and_test
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run

import torch
from torch.nn import functional as F  # noqa: N812

# Of the gradients in double precision against autograd's.
TOLERANCE = 1e-6
# The equations of the gradients.
PARAMETERS = {"W1": "4.7.14", "b1": "exercise 2", "W2": "4.7.11", "b2": "exercise 2"}
EQUATIONS = {"o": "4.7.9", "s": "4.7.8", "L": "4.7.8", "h": "4.7.12", "z": "4.7.13", **PARAMETERS}


def model_by_hand(**model: Any) -> BackpropagationMLP:
    """Return the model, for Fashion-MNIST."""
    return BackpropagationMLP(784, 10, **model)


def main(
    run: Run,
    memory_batch_sizes: Sequence[int] = (64, 256, 512, 1024, 2048, 4096),
    memory_depths: Sequence[int] = (1, 2, 4, 6, 8, 10),
    data: Callable[..., FashionMNIST] = FashionMNIST,
    model: Callable[..., BackpropagationMLP] = model_by_hand,
) -> None:
    """Train a perceptron by gradients from formulas, and examine the graph and memory of autograd (4.7).

    The gradients are compared with autograd's in double precision, before and after training. Memory is the
    size of the tensors that are alive at the same time, beside parameters and batch.

    Args:
        run: The run.
        memory_batch_sizes: Batch sizes to measure memory for, as in `--memory_batch_sizes 256 1024`.
        memory_depths: Numbers of hidden layers to measure memory for.
        data: The data.
        model: The model.
    """
    for name, values in {"memory_batch_sizes": memory_batch_sizes, "memory_depths": memory_depths}.items():
        if not values or min(values) < 1 or list(values) != sorted(set(values)):
            raise InputError(f"{name} must be positive and grow, not {list(values)}")
    accumulated = run.trainer_flags.get("accumulate_grad_batches") or 1
    if run.trainer_flags.get("gradient_clip_val") is not None or accumulated != 1:
        raise InputError("--gradient_clip_val and --accumulate_grad_batches are for autograd's gradients")
    images, by_hand = data(seed=run.seed), model()
    images.setup()
    width, batch_size = by_hand.hparams["num_hiddens"], images.batch_size
    X, y = images.examples(images.rows["train"][:batch_size])
    memory = {
        "over_batch_size": measure_memory(run, [(size, 1) for size in memory_batch_sizes], width),
        "over_depth": measure_memory(run, [(batch_size, depth) for depth in memory_depths], width),
    }
    errors = {"before": gradient_errors(by_hand, X, y)}
    trained = train_and_test(run, images, {"by_hand": by_hand}, "backpropagation by hand")
    errors["after"] = gradient_errors(by_hand.cpu(), X, y)
    largest = max(max(by_parameter.values()) for by_parameter in errors.values())
    variables = {**by_hand.autograd_variables(X, y), "y": y}
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    graph = partial(plots.computational_graph, shapes, operators(variables), EQUATIONS)
    title = f"Memory beside parameters and batch, {width} units a layer"
    draw_memory = partial(plots.memory, title=title, **memory)
    run.finish(
        {**trained.results, "max_gradient_error": largest, "gradient_errors": errors, "memory": memory},
        checkpoints=trained.checkpoints,
        tables=[*trained.tables, gradient_table(errors, shapes, len(X)), memory_table(memory, width)],
        figures={**trained.figures, "computational_graph": graph, "memory": draw_memory},
    )


def measure_memory(run: Run, settings: Sequence[tuple[int, int]], width: int) -> list[dict[str, int]]:
    """Return ``memory_of`` perceptrons for batch sizes and depths; raise an InputError if it is too much."""
    measured = []
    for size, depth in run.track(settings, "memory"):
        try:
            model = MLP(784, 10, [width] * depth)
            X, y = torch.rand(size, 784), torch.zeros(size, dtype=torch.int64)
            memory = memory_of(model, F.cross_entropy, X, y)
        except RuntimeError as error:
            what = f"{size} rows and {depth} hidden layers of {width} units"
            raise InputError(f"{what} do not fit in memory") from error
        measured.append({"batch_size": size, "depth": depth, **memory})
    return measured


def gradient_table(
    errors: Mapping[str, Mapping[str, float]], shapes: Mapping[str, tuple[int, ...]], num_rows: int
) -> Table:
    """Return a table of the errors of the gradients for each parameter."""
    rows = [
        (name, equation, str(shapes[name]), *(f"{of_time[name]:.1e}" for of_time in errors.values()))
        for name, equation in {**PARAMETERS, "X": "exercise 1"}.items()
    ]
    columns = ("variable", "equation", "shape of variable and gradient", "before training", "after training")
    largest = max(max(of_time.values()) for of_time in errors.values())
    verdict = "All errors are below" if largest <= TOLERANCE else "NOT all errors are below"
    note = f"{verdict} {TOLERANCE:g}. They are computed in double precision, on {num_rows} training rows."
    return Table("gradients by formulas, largest errors against autograd's", columns, rows, note)


def memory_table(memory: Mapping[str, Sequence[Mapping[str, int]]], width: int) -> Table:
    """Return a table of memory in megabytes."""
    parts = ("parameters", "prediction", "training", "intermediates")
    rows = [
        (str(each["depth"]), str(each["batch_size"]), *(f"{each[p] / plots.MEGABYTE:.2f}" for p in parts))
        for measured in memory.values()
        for each in measured
    ]
    rows = list(dict.fromkeys(rows))  # both series have one network
    note = (
        "Prediction and training: the most memory in use at the same time, beside parameters and batch. "
        "Intermediates: what forward propagation keeps for backpropagation."
    )
    columns = ("hidden layers", "batch size", *parts)
    return Table(f"memory in MB, perceptrons with {width} units a layer", columns, rows, note)


if __name__ == "__main__":
    run_experiment(main)
