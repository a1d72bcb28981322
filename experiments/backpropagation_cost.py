"""What second derivatives cost, and what smaller minibatches save (4.7, exercises 4 and 5)."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from d2l_lightning.benchmarks.memory import memory_of_parts
from d2l_lightning.data.batches import data_generator
from d2l_lightning.errors import InputError, require_positive
from d2l_lightning.functional import hessians as formulas
from d2l_lightning.functional.backpropagation import forward, hessian_of_output_weights
from d2l_lightning.functional.computational_graph import count_functions
from d2l_lightning.models.backpropagation import BackpropagationMLP
from d2l_lightning.models.mlp import MLP
from d2l_lightning.plots import backpropagation_cost as plots
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.trainer_flags import refuse_flags

import torch
from torch.nn import functional as F  # noqa: N812 (its usual name)

# The small perceptrons: inputs, outputs, regularization constant, rows.
INPUTS, OUTPUTS, LAMBD, ROWS = 20, 5, 0.01, 64


def main(
    run: Run,
    widths: Sequence[int] = (2, 4, 8, 16, 32),
    batch_size: int = 4096,
    parts: Sequence[int] = (1, 2, 4, 8, 16, 32),
    seconds: float = 0.2,
) -> None:
    """Measure the graph and the time of second derivatives, and the memory of a batch in parts (4.7).

    Args:
        run: The run.
        widths: Hidden units of the perceptrons whose Hessian is computed.
        batch_size: Rows of the batch that is split.
        parts: Numbers of parts to split the batch into.
        seconds: Seconds that each computation is repeated for; its time is the median.
    """
    refuse_flags(run.trainer_flags, "nothing is trained")
    require_positive(batch_size=batch_size, seconds=seconds)
    for name, values in {"widths": widths, "parts": parts}.items():
        if not values or min(values) < 1 or list(values) != sorted(set(values)):
            raise InputError(f"{name} must be positive and grow, not {list(values)}")
    if max(parts) > batch_size:
        raise InputError(f"parts must be at most the batch size, {batch_size}, not {max(parts)}")
    generator = data_generator(run.seed)
    sizes = [second_derivatives(width, seconds, generator) for width in run.track(widths, "widths")]
    split = split_batch(batch_size, parts, generator)
    run.finish(
        {"sizes": sizes, "parts": split},
        tables=[graph_table(sizes), time_table(sizes), parts_table(split, batch_size)],
        figures={
            "times": partial(plots.times, sizes),
            "memory": partial(plots.memory, split, batch_size),
        },
    )


def second_derivatives(width: int, seconds: float, generator: torch.Generator) -> dict[str, float]:
    """Return the graph and the time of gradient and Hessian, and the Hessian's error (exercise 4)."""
    model = BackpropagationMLP(INPUTS, OUTPUTS, width, "tanh", LAMBD, sigma=0.5).double()
    X = torch.randn(ROWS, INPUTS, dtype=torch.float64, generator=generator)
    y = torch.randint(OUTPUTS, (ROWS,), generator=generator)
    variables = model.autograd_variables(X, y)
    parameters, J = [variables[name] for name in model.weights._fields], variables["J"]
    gradient = formulas.flat_gradient(J, parameters, create_graph=True)
    vector = torch.ones_like(gradient)
    hessian = formulas.hessian(gradient, parameters)
    first = sum(p.numel() for p in parameters[:2])  # W2 follows W1 and b1
    block = slice(first, first + parameters[2].numel())
    with torch.no_grad():
        of_forward = forward(X, y, model.weights, model.phi, LAMBD)
        expected = hessian_of_output_weights(of_forward, LAMBD)
    times = {
        "gradient": median_time(lambda: formulas.flat_gradient(J, parameters), seconds),
        "product": median_time(
            lambda: formulas.hessian_vector_product(gradient, parameters, vector), seconds
        ),
        "hessian": median_time(lambda: formulas.hessian(gradient, parameters), seconds),
    }
    return {
        "parameters": len(gradient),
        "functions_of_J": count_functions(J),
        "functions_of_gradient": count_functions(gradient),
        **{f"{name}_seconds": time for name, time in times.items()},
        **{f"{name}_ratio": times[name] / times["gradient"] for name in ("product", "hessian")},
        "hessian_error": (hessian[block, block] - expected).abs().max().item(),
        "asymmetry": (hessian - hessian.T).abs().max().item(),
    }


def median_time(function: Callable[[], object], seconds: float) -> float:
    """Return the median time of a function that is called again and again, in seconds."""
    function()  # the first call makes what later calls use
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def split_batch(batch_size: int, parts: Sequence[int], generator: torch.Generator) -> list[dict[str, float]]:
    """Return the memory of the gradient of a batch in parts, and its relative error (exercise 5)."""
    model = MLP(784, 10, [256])
    X = torch.rand(batch_size, 784, generator=generator)
    y = torch.randint(10, (batch_size,), generator=generator)
    _, whole = memory_of_parts(model, F.cross_entropy, X, y, 1)
    measured = []
    for number in parts:
        peak, gradient = memory_of_parts(model, F.cross_entropy, X, y, number)
        error = ((gradient - whole).norm() / whole.norm()).item()
        measured.append({"parts": number, "bytes": peak, "relative_error": error})
    return measured


def graph_table(sizes: Sequence[Mapping[str, float]]) -> Table:
    """Return the size of the graphs, and the error of the Hessian."""
    rows = [
        (
            f"{each['parameters']}", f"{each['functions_of_J']}", f"{each['functions_of_gradient']}",
            f"{each['hessian_error']:.1e}", f"{each['asymmetry']:.1e}",
        )
        for each in sizes
    ]  # fmt: skip
    note = (
        "For second derivatives, backpropagation is recorded too. So the graph of the gradient has more "
        "functions than that of the objective J. Their number does not depend on that of the parameters. The "
        "error is that of the block of W2, against its formula."
    )
    columns = (
        *("parameters", "functions in the graph of J", "in the graph of its gradient"),
        *("error of the Hessian", "its asymmetry"),
    )
    return Table("computational graphs", columns, rows, note)


def time_table(sizes: Sequence[Mapping[str, float]]) -> Table:
    """Return the times of the gradient, of a product with the Hessian, and of the Hessian."""
    rows = [
        (
            f"{each['parameters']}",
            *(f"{each[f'{name}_seconds'] * 1e3:.3f} ms" for name in ("gradient", "product", "hessian")),
            *(f"{each[f'{name}_ratio']:.1f}" for name in ("product", "hessian")),
        )
        for each in sizes
    ]
    p = sum(parameter.numel() for parameter in MLP(784, 10, [256]).parameters())
    note = (
        "Ratios are of median times. A product with the Hessian takes a few times as long as a gradient, and "
        f"the Hessian of p parameters takes p products. For the {p:,} parameters of a perceptron with 784 "
        f"inputs, 256 hidden units and 10 outputs, it takes {4 * p**2 / 1e9:,.0f} GB in single precision."
    )
    columns = (
        *("parameters", "gradient", "Hessian times a vector", "Hessian"),
        *("product / gradient", "Hessian / gradient"),
    )
    return Table("time of second derivatives", columns, rows, note)


def parts_table(parts: Sequence[Mapping[str, float]], batch_size: int) -> Table:
    """Return the memory of the gradient of a batch in parts."""
    rows = [
        (
            f"{each['parts']}",
            f"{batch_size / each['parts']:.0f}",
            f"{each['bytes'] / 1e6:.2f}",
            f"{each['relative_error']:.1e}",
        )
        for each in parts
    ]
    note = (
        "Parameters and batch are not counted. The gradient that is accumulated over the parts is the same, "
        "but for rounding errors. The memory holds the intermediates of one part, its gradient, and "
        "the sum of the gradients before it."
    )
    columns = ("parts", "rows in a part", "MB", "relative error of the gradient")
    return Table(f"memory of the gradient of {batch_size} rows", columns, rows, note)


if __name__ == "__main__":
    run_experiment(main)
