"""Backpropagation by hand: trained with it, checked against autograd, its graph and its memory (4.7)."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from d2l_lightning.classification import require_test_rows, train_and_test
from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.errors import InputError
from d2l_lightning.figures import COLOURS, draw_curves, panels
from d2l_lightning.functional.backpropagation import Function
from d2l_lightning.memory import LiveMemory
from d2l_lightning.models.backpropagation import Activation, BackpropagationMLP
from d2l_lightning.models.mlp import MLP
from d2l_lightning.run import Run, run_experiment

# Of the gradients, in double precision, against autograd's.
TOLERANCE = 1e-6
EQUATIONS = {"W1": "4.7.14", "b1": "exercise 2", "W2": "4.7.11", "b2": "exercise 2"}
MEGABYTE = 1e6


def main(
    run: Run,
    num_hiddens: int,
    activation: Activation,
    lambd: float,
    batch_size: int,
    lr: float,
    sigma: float,
    memory_batch_sizes: list[int],
    memory_depths: list[int],
    val_fraction: float,
    validate_on_test: bool,
    data_dir: str | None = None,
) -> None:
    """Train a perceptron by gradients that are computed by hand, and look behind autograd's (4.7).

    The gradients are compared with autograd's in double precision, before and after training. Memory is that
    of the tensors which are alive at once, beside parameters and batch.

    Args:
        run: The run.
        num_hiddens: Number of hidden units.
        activation: The nonlinearity.
        lambd: The regularization constant, lambda.
        batch_size: Rows in a batch.
        lr: Learning rate of minibatch SGD.
        sigma: Standard deviation of the initial weights.
        memory_batch_sizes: Batch sizes to measure memory at, as in `--memory_batch_sizes 256 1024`.
        memory_depths: Numbers of hidden layers to measure memory at.
        val_fraction: Share of the training rows that validate and are not trained on.
        validate_on_test: Train on all training rows and validate on the official test rows, as the book does.
        data_dir: A folder with the four IDX files; if not given, they are found or downloaded.
    """
    for name, values in {"memory_batch_sizes": memory_batch_sizes, "memory_depths": memory_depths}.items():
        if not values or min(values) < 1 or values != sorted(set(values)):
            raise InputError(f"{name} must be positive and grow, not {values}")
    accumulated = run.trainer_flags.get("accumulate_grad_batches") or 1
    if run.trainer_flags.get("gradient_clip_val") is not None or accumulated != 1:
        raise InputError(
            "--gradient_clip_val and --accumulate_grad_batches are for autograd's gradients; here they are "
            "computed by hand"
        )
    require_test_rows(run)
    data = FashionMNIST(data_dir, batch_size, val_fraction, validate_on_test, run.seed)
    model = BackpropagationMLP(
        num_hiddens=num_hiddens, activation=activation, lambd=lambd, lr=lr, sigma=sigma
    )
    data.prepare_data()
    data.setup()
    X, y = data.examples(data.rows["train"][:batch_size])
    memory = {
        "over_batch_size": memory_over(memory_batch_sizes, [1] * len(memory_batch_sizes), num_hiddens),
        "over_depth": memory_over([batch_size] * len(memory_depths), memory_depths, num_hiddens),
    }
    errors = {"before": gradient_errors(model, X, y)}
    results = train_and_test(run, data, {"by_hand": model}, "backpropagation by hand")
    model.cpu()
    errors["after"] = gradient_errors(model, X, y)
    largest = max(error for told in errors.values() for error in told.values())
    show_errors(run, errors, model, len(X), largest)
    run.figure(draw_graph(model, X, y), "computational_graph")
    show_memory(run, memory, num_hiddens)
    run.figure(draw_memory(memory, batch_size, num_hiddens), "memory")
    run.finish({**results, "max_gradient_error": largest, "gradient_errors": errors, "memory": memory})


def by_autograd(model: BackpropagationMLP, X: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the variables of forward propagation, by the framework's functions, and so with its graph."""
    functions: dict[str, Function] = {"relu": F.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}
    phi = functions[model.hparams["activation"]]
    leaves = {
        name: weight.detach().clone().requires_grad_() for name, weight in model.weights._asdict().items()
    }
    # X as well, so that the graph begins at it.
    X = X.flatten(1).to(model.W1, copy=True).requires_grad_()
    z = F.linear(X, leaves["W1"], leaves["b1"])
    h = phi(z)
    o = F.linear(h, leaves["W2"], leaves["b2"])
    L = F.cross_entropy(o, y)
    s = model.lambd / 2 * (leaves["W1"].square().sum() + leaves["W2"].square().sum())
    return {"X": X, **leaves, "z": z, "h": h, "o": o, "L": L, "s": s, "J": L + s}


def gradient_errors(model: BackpropagationMLP, X: Tensor, y: Tensor) -> dict[str, float]:
    """Return how far the gradient for each parameter is from autograd's at most, in double precision."""
    model, X = copy.deepcopy(model).double(), X.double()
    ours = model.gradients(X, y)[1]._asdict()
    variables = by_autograd(model, X, y)
    theirs = torch.autograd.grad(variables["J"], [variables[name] for name in ours])
    return {
        name: (gradient - expected).abs().max().item()
        for (name, gradient), expected in zip(ours.items(), theirs, strict=True)
    }


def show_errors(
    run: Run, errors: Mapping[str, Mapping[str, float]], model: BackpropagationMLP, B: int, largest: float
) -> None:
    """Print the errors of the gradients."""
    rows = [
        (name, EQUATIONS[name], str(tuple(weight.shape)), *(f"{told[name]:.1e}" for told in errors.values()))
        for name, weight in model.weights._asdict().items()
    ]
    columns = ("parameter", "equation", "shape", "before training", "after training")
    verdict = "within" if largest <= TOLERANCE else "NOT within"
    note = f"The largest is {verdict} {TOLERANCE:g}. In double precision, on {B} training rows."
    run.table("gradients, greatest distance from autograd's", columns, rows, note)


class Operator(NamedTuple):
    """What makes a variable out of others: autograd's functions on the way, the last one first."""

    functions: list[str]
    inputs: list[str]
    output: str


def operators(variables: Mapping[str, Tensor]) -> list[Operator]:
    """Read off autograd's graph how these variables depend on each other.

    Args:
        variables: Variables by name; those that the graph goes through, those that it begins at, and those
            that its functions have merely kept, such as classes.
    """
    made = {v.grad_fn: name for name, v in variables.items() if v.grad_fn is not None}
    kept = {v.untyped_storage().data_ptr(): name for name, v in variables.items() if not v.requires_grad}
    begun = {id(v): name for name, v in variables.items() if v.grad_fn is None}
    found = []
    for root, output in made.items():
        functions: list[str] = []
        inputs: list[str] = []
        ahead: list[Any] = [root]
        while ahead:
            node = ahead.pop(0)
            functions.append(node.name().removesuffix("0").removesuffix("Backward"))
            saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
            places = [tensor.untyped_storage().data_ptr() for tensor in saved if isinstance(tensor, Tensor)]
            inputs += [kept[place] for place in places if place in kept]
            for before, _ in node.next_functions:
                if before in made:
                    inputs.append(made[before])
                elif hasattr(before, "variable"):
                    inputs.append(begun[id(before.variable)])
                elif before is not None:
                    ahead.append(before)
        found.append(Operator(functions, list(dict.fromkeys(inputs)), output))
    return found


# Where the variables of the section's model stand: as in fig. 4.7.1, mostly rightward and upward.
PLACES = {
    **{"X": (0.0, 1.0), "W1": (1.0, 2.0), "b1": (1.0, 0.0), "z": (2.0, 1.0), "h": (4.0, 1.0)},
    **{"W2": (5.0, 2.0), "b2": (5.0, 0.0), "o": (6.0, 1.0), "y": (7.0, 0.0), "L": (8.0, 1.0)},
    **{"s": (8.0, 3.0), "J": (10.0, 3.0)},
}


def draw_graph(model: BackpropagationMLP, X: Tensor, y: Tensor) -> Figure:
    """Draw the graph that autograd keeps of the model, and which equation goes back through each variable."""
    variables = {**by_autograd(model, X, y), "y": y}
    figure = Figure(figsize=(12, 5.4), dpi=150, layout="constrained")
    figure.suptitle("Computational graph of forward propagation, as autograd keeps it (fig. 4.7.1)")
    panel = figure.subplots()
    panel.set(xlim=(-0.6, 10.6), ylim=(-0.75, 3.6), aspect="equal")
    panel.set_axis_off()
    gradients = {"o": "4.7.9", "s": "4.7.8", "L": "4.7.8", "h": "4.7.12", "z": "4.7.13", **EQUATIONS}
    boxes = {}
    for name, variable in variables.items():
        x, height = PLACES[name]
        symbol = name if len(name) == 1 else f"{name[0]}$^{{({name[1]})}}$"
        boxes[name] = _boxed(
            panel,
            (x, height),
            symbol,
            13,
            boxstyle="square,pad=0.45",
            facecolor="#E8F1F8",
            edgecolor=COLOURS[0],
        )
        shape = ", ".join(map(str, variable.shape)) or "scalar"
        caption = f"{shape}\n← {gradients[name]}" if name in gradients else shape
        # Where no arrow passes.
        dy, va = (0.3, "bottom") if height > 0 and name != "L" else (-0.3, "top")
        panel.text(x, height + dy, caption, ha="center", va=va, fontsize=7, color="0.3")
    for operator in operators(variables):
        x, height = PLACES[operator.output]
        label = "\n".join(dict.fromkeys(reversed(operator.functions)))
        circle = _boxed(
            panel,
            (x - 1, height),
            label,
            7,
            boxstyle="circle,pad=0.25",
            facecolor="white",
            edgecolor=COLOURS[1],
        )
        for name in operator.inputs:
            _arrow(panel, boxes[name], circle)
        _arrow(panel, circle, boxes[operator.output])
    panel.text(
        -0.5, 3.5,
        "squares: variables, with their shapes\ncircles: autograd's functions, the first one above\n"
        "←: the equation that gives the gradient of J for it",
        ha="left", va="top", fontsize=8,
    )  # fmt: skip
    return figure


def _boxed(panel: Axes, place: tuple[float, float], text: str, size: float, **bbox: Any) -> Text:
    return panel.text(*place, text, ha="center", va="center", fontsize=size, linespacing=1.3, bbox=bbox)


def _arrow(panel: Axes, start: Text, end: Text) -> None:
    # Drawn after the texts, whose outlines are known by then.
    arrow = FancyArrowPatch(
        start.get_position(), end.get_position(), arrowstyle="-|>", mutation_scale=11, color="0.35", zorder=4,
        patchA=start.get_bbox_patch(), patchB=end.get_bbox_patch(), shrinkA=2, shrinkB=2,
    )  # fmt: skip
    panel.add_patch(arrow)


def memory_of(model: MLP, X: Tensor, y: Tensor) -> dict[str, int]:
    """Return the bytes that a model holds: its ``parameters``, and what comes alive beside them.

    ``prediction`` is the peak of a prediction, ``training`` that of a training step, ``intermediates`` what
    forward propagation leaves for backpropagation.
    """
    with torch.no_grad(), LiveMemory() as live:
        model(X)
    told = {"prediction": live.peak}
    with LiveMemory() as live:
        loss = F.cross_entropy(model(X), y)
        told["intermediates"] = live.now
        loss.backward()
        del loss
    told["training"] = live.peak
    told["parameters"] = sum(p.nbytes for p in model.parameters())
    return told


def memory_over(batch_sizes: Sequence[int], depths: Sequence[int], width: int) -> list[dict[str, int]]:
    """Return ``memory_of`` perceptrons over batch sizes and numbers of hidden layers.

    Raises:
        InputError: If there is not as much.
    """
    told = []
    settings = list(zip(batch_sizes, depths, strict=True))
    for batch_size, depth in track(settings, description="memory", console=Console(stderr=True)):
        try:
            model = MLP(hidden_sizes=[width] * depth)
            X, y = torch.rand(batch_size, model.num_inputs), torch.zeros(batch_size, dtype=torch.int64)
            told.append({"batch_size": batch_size, "depth": depth, **memory_of(model, X, y)})
        except RuntimeError as error:
            raise InputError(
                f"{batch_size} rows and {depth} hidden layers of {width} units do not fit in memory"
            ) from error
    return told


def show_memory(run: Run, memory: Mapping[str, Sequence[Mapping[str, int]]], width: int) -> None:
    """Print the memory that was measured, in megabytes."""
    parts = ("parameters", "prediction", "training", "intermediates")
    rows = [
        (f"{told['depth']}", f"{told['batch_size']}", *(f"{told[part] / MEGABYTE:.2f}" for part in parts))
        for tolds in memory.values()
        for told in tolds
    ]
    note = (
        "Prediction, training: the most that is alive at once, beside parameters and batch.\n"
        "Intermediates: what forward propagation leaves for backpropagation."
    )
    columns = ("layers", "batch size", *parts)
    run.table(f"memory in MB, perceptrons with {width} units a layer", columns, rows, note)


def draw_memory(memory: Mapping[str, Sequence[Mapping[str, int]]], batch_size: int, width: int) -> Figure:
    """Draw the memory of training and prediction over batch size and depth."""
    figure, axes = panels(
        ["one hidden layer, over batch size", f"batches of {batch_size}, over depth"],
        f"Memory beside parameters and batch, {width} units a layer",
        ["batch size", "hidden layers"],
        ["MB alive at once", ""],
    )
    for panel, key, tolds in zip(axes, ("batch_size", "depth"), memory.values(), strict=True):
        x = [told[key] for told in tolds]
        kinds = {
            "training": "training",
            "kept for backpropagation": "intermediates",
            "prediction": "prediction",
        }
        draw_curves(panel, [(n, x, [t[part] / MEGABYTE for t in tolds]) for n, part in kinds.items()])
        for line in panel.lines:
            line.set_marker("o")
        panel.set_ylim(bottom=0)
    axes[0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    run_experiment(main)
