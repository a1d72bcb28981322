"""Numerical stability and initialization: vanishing and exploding gradients (4.8)."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.errors import DivergenceError, InputError, require_positive
from d2l_lightning.functional import initialization as formulas
from d2l_lightning.functional.activations import sigmoid, sigmoid_derivative
from d2l_lightning.models.layers import Activation, layer_variances
from d2l_lightning.models.mlp import MLP
from d2l_lightning.plots.initialization import Variances, variance_figure
from d2l_lightning.plots.style import curve_figure
from d2l_lightning.runs.classification import learning_curves, test_metrics
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.fit import Fit
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Training rows that variances are taken over.
NUM_ROWS = 512


def main(
    run: Run,
    num_layers: int = 10,
    width: int = 128,
    activation: Activation = "relu",
    sigmas: Sequence[float] = (0.01, 1.0),
    activations: Sequence[Activation] = ("identity", "relu", "tanh", "sigmoid"),
    depths: Sequence[int] = (2, 5, 10, 20, 30),
    lr: float = 0.1,
    data: Callable[..., FashionMNIST] = FashionMNIST,
) -> None:
    """Show the effect of initial weights on a deep network before and during training (4.8).

    Args:
        run: The run.
        num_layers: Layers of the perceptron that is trained from each kind of initial weights, with the
            output layer.
        width: Units of each hidden layer.
        activation: The nonlinearity of the perceptron that is trained.
        sigmas: Standard deviations of normal initial weights, which are compared with the other kinds.
        activations: The nonlinearities to measure variances for, as in `--activations relu tanh`.
        depths: Numbers of hidden layers to measure variances for, beside that of the trained perceptron.
        lr: Learning rate of minibatch SGD.
        data: The data.
    """
    require_positive(width=width)
    if num_layers < 2:
        raise InputError(f"num_layers must be at least 2, a hidden one and the output's, not {num_layers}")
    if not activations or len(set(activations)) < len(activations):
        raise InputError(f"activations must name each once, not {list(activations)}")
    if any(depth < 1 for depth in depths):
        raise InputError(f"depths must be positive, not {list(depths)}")
    schemes = make_schemes(sigmas)
    depth = num_layers - 1
    models = {name: MLP(784, 10, [width] * depth, activation, lr=lr, **s) for name, s in schemes.items()}
    images = data(seed=run.seed)
    images.setup()
    X, y = images.examples(images.rows["train"][:NUM_ROWS])
    phis = list(dict.fromkeys([*activations, activation]))
    variances = measure(run, schemes, phis, sorted({*depths, depth}), width, X, y)
    for name, model in models.items():
        variances[activation][name][depth] = layer_variances(copy.deepcopy(model).net, X, y)
    weights = weight_table(models)
    fits, training = train(run, models, images)
    results = {
        "schemes": {
            name: {
                phi: {key: {"first": v[0], "last": v[-1]} for key, v in by_name[name][depth].items()}
                for phi, by_name in variances.items()
            }
            for name in schemes
        },
        "training": training,
    }
    curves = learning_curves(fits, f"{num_layers} layers, {activation}", images.validate_on_test)
    run.finish(
        results,
        tables=[weights, variance_table(results, activation, depth)],
        figures={**figures(variances, width), "learning_curves": curves},
    )


def make_schemes(sigmas: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Return the arguments of ``MLP`` for each kind of initial weights, by name."""
    if len(set(sigmas)) < len(sigmas) or any(not 0 < sigma < math.inf for sigma in sigmas):
        raise InputError(f"sigmas must be positive and differ, not {list(sigmas)}")
    normal = {f"normal_{sigma:g}": {"initialization": "normal", "sigma": sigma} for sigma in sigmas}
    if len(normal) < len(sigmas):
        raise InputError(f"sigmas must differ in their first six digits, not {list(sigmas)}")
    others = {name: {"initialization": name} for name in ("xavier_uniform", "xavier_normal", "kaiming")}
    return {"default": {"initialization": "default"}, **normal, **others}


def measure(
    run: Run, schemes: Mapping[str, Mapping[str, Any]], activations: Sequence[Activation],
    depths: Sequence[int], width: int, X: Tensor, y: Tensor,
) -> Variances:  # fmt: skip
    """Return the variances in new perceptrons; raise an InputError if one is out of double precision."""
    variances: Variances = {phi: {name: {} for name in schemes} for phi in activations}
    settings = [(phi, name, depth) for phi in activations for name in schemes for depth in depths]
    for phi, name, depth in run.track(settings, "variances"):
        measured = layer_variances(MLP(784, 10, [width] * depth, phi, **schemes[name]).net, X, y)
        for key, values in measured.items():
            if not all(0 < value < math.inf for value in values):
                what = f"the {key} of {depth} layers, {name}, {phi}, leaves the range of double precision"
                raise InputError(f"{what}; take smaller --depths or other --sigmas")
        variances[phi][name][depth] = measured
    return variances


def train(
    run: Run, models: Mapping[str, MLP], images: FashionMNIST
) -> tuple[dict[str, Fit | None], dict[str, dict[str, Any]]]:
    """Train and test each model; return its fit, or None if it diverged, and its results."""
    fits: dict[str, Fit | None] = dict.fromkeys(models)
    diverged = {"diverged": True, "test_accuracy": None, "test_loss": None}
    results: dict[str, dict[str, Any]] = dict.fromkeys(models, diverged)
    for name, model in models.items():
        with suppress(DivergenceError):
            fit = run.fit(name, model, images, title=f"model {name}")
            results[name] = {"diverged": False, **test_metrics(fit)}
            fits[name] = fit
    return fits, results


def weight_table(models: Mapping[str, MLP]) -> Table:
    """Return a table of the scale of the first layer's weights, beside Xavier's formulas."""
    rows = []
    for name, model in models.items():
        weight = cast(Tensor, model.net[0].weight).detach()
        num_outputs, num_inputs = weight.shape
        sigma = weight.std().item()
        bound = formulas.xavier_bound(num_inputs, num_outputs) if name == "xavier_uniform" else None
        xavier = formulas.xavier_deviation(num_inputs, num_outputs) if "xavier" in name else None
        factor = formulas.output_variance(num_inputs, sigma)
        numbers = (weight.abs().max().item(), sigma, bound, xavier, factor)
        rows.append(
            [name.replace("_", " "), *("" if number is None else f"{number:.4f}" for number in numbers)]
        )
    columns = (
        *("initial weights", "greatest |w|", "standard deviation"),
        *("bound, eq. 4.8.6", "deviation, eq. 4.8.5", "factor, eq. 4.8.4"),
    )
    note = "The factor of eq. 4.8.4 is that by which such a layer changes the variance of its inputs."
    return Table("initial weights of the first layer", columns, rows, note)


def variance_table(results: Mapping[str, Any], activation: Activation, depth: int) -> Table:
    """Return the variances in the first and the last hidden layer, and the accuracy after training."""
    rows = []
    for name, by_activation in results["schemes"].items():
        cells = [f"{v:.1e}" for ends in by_activation[activation].values() for v in ends.values()]
        accuracy = results["training"][name]["test_accuracy"]
        rows.append([name.replace("_", " "), *cells, "diverged" if accuracy is None else f"{accuracy:.4f}"])
    columns = (
        *("initial weights", "forward, layer 1", f"forward, layer {depth}"),
        *("backward, layer 1", f"backward, layer {depth}", "test accuracy"),
    )
    note = (
        "Forward: variance of the activations; backward: variance of the gradients; both before training. "
        "The accuracy is that after it."
    )
    return Table(f"{depth} hidden layers with {activation}", columns, rows, note)


def figures(variances: Variances, width: int) -> "dict[str, Callable[[], Figure]]":
    """Return the functions that draw everything but the learning curves."""
    x = torch.arange(-8.0, 8.0, 0.1, dtype=torch.float64)
    of_x = {"sigmoid": sigmoid(x), "gradient": sigmoid_derivative(x)}.items()
    sigmoids = {"": [(name, x.tolist(), values.tolist()) for name, values in of_x]}
    return {
        "sigmoid": partial(curve_figure, "The sigmoid and its gradient", sigmoids, "x", "value"),
        "activation_variance": partial(variance_figure, variances, "activation_variance", width),
        "gradient_variance": partial(variance_figure, variances, "gradient_variance", width),
        "over_depth": partial(variance_figure, variances, "gradient_variance", width, over_depth=True),
    }


if __name__ == "__main__":
    run_experiment(main)
