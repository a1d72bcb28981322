"""Numerical stability and initialization: vanishing and exploding gradients, symmetry (4.8)."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from d2l_lightning.callbacks.layer_statistics import UnitSpread
from d2l_lightning.data.batches import data_generator
from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.errors import DivergenceError, InputError, require_positive
from d2l_lightning.functional import initialization as formulas
from d2l_lightning.functional.activations import sigmoid, sigmoid_derivative
from d2l_lightning.models.dropout_mlp import DropoutMLP
from d2l_lightning.models.layers import Activation, layer_variances
from d2l_lightning.models.mlp import MLP
from d2l_lightning.plots.initialization import Variances, variance_figure
from d2l_lightning.plots.style import curve_figure
from d2l_lightning.runs.classification import learning_curves, test_metrics
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.fit import Fit
from d2l_lightning.runs.report import Table, track
from d2l_lightning.runs.run import Run

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Training rows that variances are taken over.
NUM_ROWS = 512
# The perceptrons that show symmetry: hidden units, equal initial weights, dropout probability, epochs.
UNITS, WEIGHT, DROPOUT, EPOCHS = 64, 0.01, 0.5, 2


def main(
    run: Run,
    num_layers: int = 10,
    width: int = 128,
    activation: Activation = "relu",
    sigmas: Sequence[float] = (0.01, 1.0),
    activations: Sequence[Activation] = ("identity", "relu", "tanh", "sigmoid"),
    depths: Sequence[int] = (2, 5, 10, 20, 30),
    num_matrices: int = 100,
    matrix_size: int = 4,
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
        num_matrices: Gaussian matrices that a first one is multiplied by.
        matrix_size: Rows and columns of each matrix.
        lr: Learning rate of minibatch SGD.
        data: The data.
    """
    require_positive(width=width, num_matrices=num_matrices, matrix_size=matrix_size)
    if num_layers < 2:
        raise InputError(f"num_layers must be at least 2, a hidden one and the output's, not {num_layers}")
    if not activations or len(set(activations)) < len(activations):
        raise InputError(f"activations must name each once, not {list(activations)}")
    if any(depth < 1 for depth in depths):
        raise InputError(f"depths must be positive, not {list(depths)}")
    schemes = make_schemes(sigmas)
    depth = num_layers - 1
    models = {name: MLP(784, 10, [width] * depth, activation, lr=lr, **s) for name, s in schemes.items()}
    product, growth = formulas.product_of_gaussians(num_matrices, matrix_size, data_generator(run.seed))
    images = data(seed=run.seed)
    images.setup()
    X, y = images.examples(images.rows["train"][:NUM_ROWS])
    phis = list(dict.fromkeys([*activations, activation]))
    variances = measure(schemes, phis, sorted({*depths, depth}), width, X, y)
    for name, model in models.items():
        variances[activation][name][depth] = layer_variances(copy.deepcopy(model).net, X, y)
    weights = weight_table(models)
    spreads, accuracies = break_symmetry(run, images, lr)
    fits, training = train(run, models, images)
    results = {
        "product_max_abs": growth[-1],
        "schemes": {
            name: {
                phi: {key: {"first": v[0], "last": v[-1]} for key, v in by_name[name][depth].items()}
                for phi, by_name in variances.items()
            }
            for name in schemes
        },
        "symmetry": {n: {"spread": v[-1], "val_accuracy": accuracies[n]} for n, v in spreads.items()},
        "training": training,
    }
    curves = learning_curves(fits, f"{num_layers} layers, {activation}", images.validate_on_test)
    run.finish(
        results,
        tables=[weights, *tables(results, len(spreads["random"]), product, activation, depth)],
        figures={**figures(variances, width, growth, matrix_size, spreads), "learning_curves": curves},
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
    schemes: Mapping[str, Mapping[str, Any]], activations: Sequence[Activation], depths: Sequence[int],
    width: int, X: Tensor, y: Tensor,
) -> Variances:  # fmt: skip
    """Return the variances in new perceptrons; raise an InputError if one is out of double precision."""
    variances: Variances = {phi: {name: {} for name in schemes} for phi in activations}
    settings = [(phi, name, depth) for phi in activations for name in schemes for depth in depths]
    for phi, name, depth in track(settings, "variances"):
        measured = layer_variances(MLP(784, 10, [width] * depth, phi, **schemes[name]).net, X, y)
        for key, values in measured.items():
            if not all(0 < value < math.inf for value in values):
                what = f"the {key} of {depth} layers, {name}, {phi}, leaves the range of double precision"
                raise InputError(f"{what}; take smaller --depths or other --sigmas")
        variances[phi][name][depth] = measured
    return variances


def break_symmetry(
    run: Run, images: FashionMNIST, lr: float
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Train a perceptron from equal weights, without and with dropout, and from random weights.

    Returns the spread of the hidden units' weights after each step, and the validation accuracy, by name.
    """
    spreads, accuracies = {}, {}
    for name, dropout in {"alike": 0.0, "alike_with_dropout": DROPOUT, "random": 0.0}.items():
        model = DropoutMLP(784, 10, [UNITS], [dropout], lr, WEIGHT)
        for parameter in model.parameters():
            if name != "random" and parameter.ndim == 2:
                nn.init.constant_(parameter, WEIGHT)
        recorder = UnitSpread(cast(nn.Linear, model.net[0]))
        fit = run.fit(f"symmetry_{name}", model, images, callbacks=[recorder], max_epochs=EPOCHS)
        spreads[name], accuracies[name] = recorder.spread, fit.validate()["val/accuracy"].item()
    return spreads, accuracies


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
        rows.append([name, *("" if number is None else f"{number:.4f}" for number in numbers)])
    columns = ("", "max |w|", "std w", "eq. 4.8.6", "eq. 4.8.5", "eq. 4.8.4")
    note = "Eq. 4.8.4: the factor by which such a layer changes the variance of its inputs."
    return Table("initial weights of the first layer", columns, rows, note)


def tables(
    results: Mapping[str, Any], num_steps: int, product: Tensor, activation: Activation, depth: int
) -> Iterator[Table]:
    """Yield tables of symmetry, of the product of matrices, and of variances."""
    rows = [[n, f"{r['spread']:.3g}", f"{r['val_accuracy']:.4f}"] for n, r in results["symmetry"].items()]
    note = f"Spread: the deviation of the weights over {UNITS} hidden units, after {num_steps} steps."
    yield Table("hidden units that begin alike", ("", "spread", "validation accuracy"), rows, note)

    rows = [[f"{value:.4e}" for value in row] for row in product[:6, :6].tolist()]
    yield Table("product of Gaussian matrices", [f"column {j + 1}" for j in range(len(rows))], rows)

    rows = []
    for name, by_activation in results["schemes"].items():
        cells = [f"{v:.1e}" for ends in by_activation[activation].values() for v in ends.values()]
        accuracy = results["training"][name]["test_accuracy"]
        rows.append([name, *cells, "diverged" if accuracy is None else f"{accuracy:.4f}"])
    columns = ["", "act. 1", f"act. {depth}", "grad. 1", f"grad. {depth}", "accuracy"]
    note = "Variances of activations and gradients before training, accuracy on the test rows after it."
    yield Table(f"{depth} hidden layers with {activation}", columns, rows, note)


def figures(
    variances: Variances, width: int, growth: Sequence[float], matrix_size: int,
    spreads: Mapping[str, Sequence[float]],
) -> "dict[str, Callable[[], Figure]]":  # fmt: skip
    """Return the functions that draw everything but the learning curves."""
    x = torch.arange(-8.0, 8.0, 0.1, dtype=torch.float64)
    of_x = {"sigmoid": sigmoid(x), "gradient": sigmoid_derivative(x)}.items()
    sigmoids = {"": [(name, x.tolist(), values.tolist()) for name, values in of_x]}
    steps = {"": [(n.replace("_", " "), range(1, len(v) + 1), v) for n, v in spreads.items()]}
    products = {"": [("", range(len(growth)), growth)]}
    title = f"Product of {matrix_size} × {matrix_size} Gaussian matrices"  # noqa: RUF001 (a product)
    labels = ("matrices multiplied with the first", "greatest absolute value")
    ylabel = "spread of the units' weights"
    return {
        "sigmoid": partial(curve_figure, "The sigmoid and its gradient", sigmoids, "x", "value"),
        "matrix_product": partial(curve_figure, title, products, *labels, yscale="log", legend="none"),
        "symmetry": partial(curve_figure, "Hidden units that begin alike", steps, "step", ylabel),
        "activation_variance": partial(variance_figure, variances, "activation_variance", width),
        "gradient_variance": partial(variance_figure, variances, "gradient_variance", width),
        "over_depth": partial(variance_figure, variances, "gradient_variance", width, over_depth=True),
    }


if __name__ == "__main__":
    run_experiment(main)
