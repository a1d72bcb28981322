"""Layer-wise learning rates for a network whose layers have badly scaled weights (4.8.4, exercise 4)."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.errors import InputError, require_positive
from d2l_lightning.models.mlp import MLP, MLPOptimizer
from d2l_lightning.optim.lars import relative_gradients
from d2l_lightning.plots.style import Curve, curve_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.side_by_side import train_side_by_side

import torch
from torch import nn

# Training rows that the gradients before training are taken over.
NUM_ROWS = 512
Results = Mapping[str, Mapping[str, Any]]


def shared_images(**data: Any) -> FashionMNIST:
    """Return the images, none of which is mirrored, because members side by side share them."""
    return FashionMNIST(flip=False, **data)


def main(
    run: Run,
    num_layers: int = 6,
    width: int = 64,
    factor: float = 30.0,
    sgd_lrs: Sequence[float] = (1e-4, 1e-3, 1e-2, 0.1, 1.0),
    lars_lrs: Sequence[float] = (0.1, 0.3, 1.0, 3.0, 10.0),
    num_train: int = 6000,
    data: Callable[..., FashionMNIST] = shared_images,
) -> None:
    """Train a network with badly scaled layers by SGD and by layer-wise adaptive rates (4.8.4, exercise 4).

    Args:
        run: The run.
        num_layers: Layers of the perceptron, with the output layer.
        width: Units of each hidden layer.
        factor: What the initial weights of the first, third, ... layer of the rescaled network are multiplied
            by; those of the second, fourth, ... are divided by it.
        sgd_lrs: The learning rates of SGD, which train side by side.
        lars_lrs: The learning rates of LARS, which train side by side.
        num_train: The number of training rows to use at most.
        data: The data.
    """
    require_positive(width=width, factor=factor, num_train=num_train)
    if num_layers < 2:
        raise InputError(f"num_layers must be at least 2, a hidden one and the output's, not {num_layers}")
    rates: dict[MLPOptimizer, Sequence[float]] = {"sgd": sgd_lrs, "lars": lars_lrs}
    for name, lrs in rates.items():
        if not lrs or len(set(lrs)) < len(lrs):
            raise InputError(f"{name}_lrs must name at least one learning rate, and each once, not {[*lrs]}")
    factors = {"kaiming": 1.0, "rescaled": factor}

    def make(kind: str, optimizer: MLPOptimizer = "sgd", lr: float = 0.1) -> MLP:
        torch.manual_seed(run.seed)  # equal initial weights, but for the factors
        model = MLP(784, 10, [width] * (num_layers - 1), "relu", "kaiming", optimizer=optimizer, lr=lr)
        return rescale(model, factors[kind])

    images = data(seed=run.seed)
    models = {
        name: {f"{kind}_lr_{lr:g}": make(kind, name, lr) for kind in factors for lr in lrs}
        for name, lrs in rates.items()
    }
    images.setup()
    X, y = images.examples(images.rows["train"][:NUM_ROWS])
    ratios: dict[str, list[float]] = {}
    for kind in factors:
        model = make(kind)
        model.loss(X, y).backward()
        ratios[kind] = relative_gradients(model)
        if not all(map(math.isfinite, ratios[kind])):
            raise InputError(f"factor {factor} gives gradients beyond single precision; take one nearer to 1")
    results: dict[str, dict[str, Any]] = {}
    for name, lrs in rates.items():
        members = train_side_by_side(run, name, models[name], images, "val", num_train)
        for kind in factors:
            own = {lr: members[f"{kind}_lr_{lr:g}"] for lr in lrs}
            best = max(own, key=lambda lr: own[lr].accuracy or 0.0)
            results[f"{name.upper()}, {kind}"] = {
                "val_accuracy": {f"{lr:g}": member.accuracy for lr, member in own.items()},
                "best_lr": best,
                "best_accuracy": own[best].accuracy,
                "best_losses": own[best].losses,
            }
    run.finish(
        {"relative_gradients": ratios, "fits": results},
        tables=[gradient_table(ratios, factor), accuracy_table(results)],
        figures=figures(ratios, results),
    )


def rescale(model: MLP, factor: float) -> MLP:
    """Multiply the weights of odd layers by a factor, divide those of even layers by it; return the model.

    With ReLU and biases of 0, a network with an even number of layers computes the same as before. Of an odd
    number, the last layer keeps its weights.
    """
    layers = [layer for layer in model.net if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for odd, even in zip(layers[::2], layers[1::2], strict=False):
            odd.weight.mul_(factor)
            even.weight.div_(factor)
    return model


def gradient_table(ratios: Mapping[str, Sequence[float]], factor: float) -> Table:
    """Return a table of the relative gradients of the layers."""
    layers = enumerate(zip(*ratios.values(), strict=True), start=1)
    rows = [[str(i), *(f"{ratio:.3g}" for ratio in layer)] for i, layer in layers]
    note = (
        "The norm of each layer's gradient divided by the norm of its weights. Kaiming: the initial weights "
        f"suit ReLU. Rescaled: those of layers 1, 3, ... are multiplied by {factor:g}, those of layers 2, 4, "
        f"... divided by {factor:g}."
    )
    return Table("gradients before training", ("layer", *ratios), rows, note)


def accuracy_table(results: Results) -> Table:
    """Return a table of the best learning rate of each optimizer and kind of initial weights."""
    rows = []
    for name, found in results.items():
        diverged = [lr for lr, accuracy in found["val_accuracy"].items() if accuracy is None]
        accuracy = "diverged" if found["best_accuracy"] is None else f"{found['best_accuracy']:.4f}"
        rows.append([name, accuracy, f"{found['best_lr']:g}", " ".join(diverged) or "none"])
    columns = ("optimizer, initial weights", "best accuracy", "at the rate", "rates that diverged")
    note = "Accuracy on the validation rows. SGD has one learning rate, LARS scales it for each layer."
    return Table("learning rates", columns, rows, note)


def figures(ratios: Mapping[str, Sequence[float]], results: Results) -> dict[str, Callable[[], Any]]:
    """Return the functions that draw gradients over layers, accuracies over rates, and losses over epochs."""
    layers = {"": [(kind, range(1, len(values) + 1), values) for kind, values in ratios.items()]}
    accuracies: dict[str, list[Curve]] = {"SGD": [], "LARS": []}
    losses: list[Curve] = []
    for name, found in results.items():
        optimizer, kind = name.split(", ")
        kept = {float(lr): accuracy for lr, accuracy in found["val_accuracy"].items() if accuracy is not None}
        accuracies[optimizer].append((kind, list(kept), list(kept.values())))
        of_best = found["best_losses"]
        losses.append((f"{name}, rate {found['best_lr']:g}", range(1, len(of_best) + 1), of_best))
    gradients = ("Gradients of the layers before training", layers, "layer", "norm of gradient / of weights")
    rates = ["learning rate"] * 2
    over = (
        "Accuracy by learning rate, if it did not diverge",
        accuracies,
        rates,
        "validation accuracy",
    )
    epochs = ("Loss with the best learning rates", {"": losses}, "epoch", "cross-entropy in training")
    return {
        "gradients": partial(curve_figure, *gradients, yscale="log", markers=True, legend="beside"),
        "accuracies": partial(curve_figure, *over, xscale="log", markers=True),
        "losses": partial(curve_figure, *epochs, markers=True),
    }


if __name__ == "__main__":
    run_experiment(main)
