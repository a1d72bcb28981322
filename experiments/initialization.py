"""Numerical stability and initialization: what explodes, what vanishes, what stays as it was (4.8)."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from d2l_lightning.batches import data_generator
from d2l_lightning.classification import learning_curves, require_test_rows, test
from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.errors import DivergenceError, InputError, require_positive
from d2l_lightning.figures import draw_curves, panels
from d2l_lightning.functional.activations import sigmoid, sigmoid_derivative
from d2l_lightning.functional.initialization import output_variance, xavier_bound, xavier_deviation
from d2l_lightning.models.classifier import Classifier
from d2l_lightning.models.dropout_mlp import DropoutMLP
from d2l_lightning.models.layers import Activation, Initialization
from d2l_lightning.models.mlp import MLP
from d2l_lightning.run import Run, run_experiment

# Training rows that variances are taken over.
ROWS = 512
# The perceptron whose hidden units all begin alike, and for how long it is trained.
UNITS, WEIGHT, DROPOUT, EPOCHS = 64, 0.01, 0.5, 2
# What is further from 1 is beyond the figures, or nothing could be told apart near 1.
FRAME = 1e15
YLABEL = "variance over rows and units,\nbefore training, of standardised images"
# A name to how weights begin, and to the standard deviation of normal ones.
Schemes = Mapping[str, tuple[Initialization, float]]
# By name, then by layer, the one nearest to the input first.
Variances = dict[str, list[float]]
# By activation, by scheme, by the number of hidden layers.
Measured = dict[Activation, dict[str, dict[int, Variances]]]


def main(
    run: Run,
    num_layers: int,
    width: int,
    activation: Activation,
    sigmas: list[float],
    activations: list[Activation],
    depths: list[int],
    num_matrices: int,
    matrix_size: int,
    batch_size: int,
    lr: float,
    val_fraction: float,
    validate_on_test: bool,
    data_dir: str | None = None,
) -> None:
    """Show what initial weights do to a deep network before it is trained, and while it is (4.8).

    Args:
        run: The run.
        num_layers: Layers of the perceptron that is trained from each kind of initial weights, the output
            layer included.
        width: Units of each hidden layer.
        activation: Its nonlinearity.
        sigmas: Standard deviations of normal initial weights, which are tried beside the other kinds.
        activations: The nonlinearities that variances are measured under, as in `--activations relu tanh`.
        depths: The numbers of hidden layers that variances are measured at, beside that which is trained.
        num_matrices: Gaussian matrices that a first one is multiplied by.
        matrix_size: Rows and columns of each.
        batch_size: Rows in a batch.
        lr: Learning rate of minibatch SGD.
        val_fraction: Share of the training rows that validate and are not trained on.
        validate_on_test: Train on all training rows and validate on the official test rows, as the book does.
        data_dir: A folder with the four IDX files; if not given, they are found or downloaded.
    """
    require_positive(width=width, num_matrices=num_matrices, matrix_size=matrix_size)
    if num_layers < 2:
        raise InputError(f"num_layers must be at least 2, a hidden one and the output's, not {num_layers}")
    if not activations or len(set(activations)) < len(activations):
        raise InputError(f"activations must name each once, not {activations}")
    if len(set(sigmas)) < len(sigmas) or any(not 0 < sigma < math.inf for sigma in sigmas):
        raise InputError(f"sigmas must be positive and each another, not {sigmas}")
    if any(depth < 1 for depth in depths):
        raise InputError(f"depths must be positive, not {depths}")
    schemes: Schemes = {
        "default": ("default", 0.0),
        **{f"normal_{sigma:g}": ("normal", sigma) for sigma in sigmas},
        "xavier_uniform": ("xavier_uniform", 0.0),
        "xavier_normal": ("xavier_normal", 0.0),
        "kaiming": ("kaiming", 0.0),
    }
    if len(schemes) < len(sigmas) + 4:
        raise InputError(f"sigmas must differ in their first six digits, not {sigmas}")
    require_test_rows(run)
    depth = num_layers - 1
    deep = {
        name: MLP(hidden_sizes=[width] * depth, activation=activation, initialization=how, sigma=s, lr=lr)
        for name, (how, s) in schemes.items()
    }
    product, growth = product_of_gaussians(num_matrices, matrix_size, run.seed)
    data = FashionMNIST(data_dir, batch_size, val_fraction, validate_on_test, run.seed)
    data.prepare_data()
    data.setup()
    X, y = data.examples(data.rows["train"][:ROWS])
    phis = list(dict.fromkeys([*activations, activation]))
    measured = measure(schemes, phis, sorted({*depths, depth}), width, X, y)
    for name, model in deep.items():
        measured[activation][name][depth] = variances(copy.deepcopy(model), X, y)

    symmetry = break_symmetry(run, data, lr)
    run.figure(draw_sigmoid(), "sigmoid")
    show_product(run, product)
    run.figure(draw_growth(growth, matrix_size), "matrix_product")
    show_weights(run, deep)
    deepest = max([*depths, depth])
    for what, title in (("activation", "activations"), ("gradient", "gradients with respect to them")):
        run.figure(
            draw_by_layer(
                measured, f"{what}_variance", deepest, f"Variance of {title}, {width} units a layer"
            ),
            f"{what}_variance",
        )
    run.figure(draw_over_depth(measured, width), "over_depth")
    training = train(run, deep, data)
    at_depth = {name: {phi: ends(measured[phi][name][depth]) for phi in phis} for name in schemes}
    show_schemes(run, at_depth, training, activation, depth)
    title = f"{num_layers} layers, {activation}"
    run.figure(learning_curves(run.history, list(training), data, title), "learning_curves")
    run.finish(
        {
            "product_max_abs": growth[-1],
            "schemes": at_depth,
            "symmetry": symmetry,
            "training": training,
        }
    )


def product_of_gaussians(num_matrices: int, size: int, seed: int) -> tuple[Tensor, list[float]]:
    """Multiply a Gaussian matrix by others, in double precision.

    Returns:
        The product, and the greatest absolute value in it after each matrix, the first alone included.

    Raises:
        InputError: If it leaves the range of double precision.
    """
    generator = data_generator(seed)
    M = torch.randn(size, size, dtype=torch.float64, generator=generator)
    greatest = [M.abs().max().item()]
    for _ in range(num_matrices):
        M = M @ torch.randn(size, size, dtype=torch.float64, generator=generator)
        greatest.append(M.abs().max().item())
    if not 0 < greatest[-1] < math.inf:
        raise InputError(
            f"the product of {num_matrices} matrices is {greatest[-1]}; take a smaller --num_matrices"
        )
    return M, greatest


def variances(model: MLP, X: Tensor, y: Tensor) -> Variances:
    """Return how much activations and the gradients with respect to them vary, layer by layer.

    Both are taken over rows and units, in double precision, as a network of any depth leaves single precision
    soon. The images are standardised, as eq. 4.8.4 supposes; the gradients are those of each row's loss.
    """
    H = X.double().flatten(1)
    H = (H - H.mean()) / H.std()
    hidden = []
    *layers, last = list(model.double().net)
    for layer in layers:
        H = layer(H)
        if not isinstance(layer, nn.Linear):
            H.retain_grad()
            hidden.append(H)
    F.cross_entropy(last(H), y, reduction="sum").backward()
    return {
        "activation_variance": [h.detach().var().item() for h in hidden],
        "gradient_variance": [cast(Tensor, h.grad).var().item() for h in hidden],
    }


def measure(
    schemes: Schemes,
    activations: Sequence[Activation],
    depths: Sequence[int],
    width: int,
    X: Tensor,
    y: Tensor,
) -> Measured:
    """Return ``variances`` by activation, by scheme, and by the number of hidden layers.

    Raises:
        InputError: If one leaves the range of double precision.
    """
    told: Measured = {phi: {} for phi in activations}
    settings = [(phi, name, depth) for phi in activations for name in schemes for depth in depths]
    for phi, name, depth in track(settings, description="variances", console=Console(stderr=True)):
        how, sigma = schemes[name]
        model = MLP(hidden_sizes=[width] * depth, activation=phi, initialization=how, sigma=sigma)
        found = variances(model, X, y)
        for what, values in found.items():
            if not all(0 < value < math.inf for value in values):
                raise InputError(
                    f"the {what} of {depth} layers, {name}, {phi}, is no number above 0 in double precision; "
                    "take smaller --depths or other --sigmas"
                )
        told[phi].setdefault(name, {})[depth] = found
    return told


def ends(told: Variances) -> dict[str, dict[str, float]]:
    """Return the variances of the first and the last layer."""
    return {what: {"first": values[0], "last": values[-1]} for what, values in told.items()}


class UnitSpread(Callback):
    """Notes after each step how much the hidden units differ: how their incoming weights deviate."""

    def __init__(self) -> None:
        self.spread: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Add the standard deviation over the units, averaged over the inputs."""
        weight = cast(Tensor, cast(DropoutMLP, pl_module).net[0].weight)
        self.spread.append(weight.detach().std(dim=0).mean().item())


def break_symmetry(run: Run, data: FashionMNIST, lr: float) -> dict[str, dict[str, float]]:
    """Train a perceptron from weights that are all alike, without and with dropout, and from random ones."""
    told, spreads = {}, {}
    for name, dropout in {"alike": 0.0, "alike_with_dropout": DROPOUT, "random": 0.0}.items():
        model = DropoutMLP(hidden_sizes=[UNITS], dropouts=[dropout], lr=lr, sigma=WEIGHT)
        if name != "random":
            for layer in model.net:
                if isinstance(layer, nn.Linear):
                    nn.init.constant_(layer.weight, WEIGHT)
        model.log_prefix = f"symmetry_{name}/"
        watch = UnitSpread()
        run.trainer(f"symmetry: {name}", [watch], max_epochs=EPOCHS).fit(model, data)
        if not watch.spread:
            raise InputError("the flags leave no step to take")
        accuracy = run.evaluate(model, data)["val/accuracy"].item()
        told[name] = {"spread": watch.spread[-1], "val_accuracy": accuracy}
        spreads[name] = watch.spread
    run.figure(draw_spreads(spreads), "symmetry")
    rows = [(name, f"{t['spread']:.3g}", f"{t['val_accuracy']:.4f}") for name, t in told.items()]
    note = (
        f"Spread: the standard deviation over the {UNITS} hidden units of their incoming weights,\n"
        f"after {len(spreads['random'])} steps. At 0 all units are one."
    )
    run.table("hidden units that begin alike", ("", "spread", "validation accuracy"), rows, note)
    return told


def train(run: Run, models: Mapping[str, Classifier], data: FashionMNIST) -> dict[str, dict[str, Any]]:
    """Train each model; return whether its loss stayed a number, and its accuracy on the test rows."""
    told: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        model.log_prefix = f"{name}/"
        trainer = run.trainer(f"start: {name}")
        try:
            trainer.fit(model, data)
            told[name] = {"diverged": False, **test(trainer, model, data)}
        except DivergenceError:
            told[name] = {"diverged": True, "test_accuracy": None, "test_loss": None}
    return told


def show_product(run: Run, product: Tensor) -> None:
    """Print the product of the matrices."""
    rows = [[f"{value:.4e}" for value in row] for row in product[:6, :6].tolist()]
    run.table("product of Gaussian matrices", [f"column {j + 1}" for j in range(len(rows))], rows)


def show_weights(run: Run, models: Mapping[str, MLP]) -> None:
    """Print how large the first layer's weights are, beside what Section 4.8.2 says of Xavier's."""
    rows = []
    for name, model in models.items():
        weight = cast(Tensor, model.net[0].weight)
        num_outputs, num_inputs = weight.shape
        formula = {
            "xavier_uniform": (
                xavier_bound(num_inputs, num_outputs),
                xavier_deviation(num_inputs, num_outputs),
            ),
            "xavier_normal": (None, xavier_deviation(num_inputs, num_outputs)),
        }.get(name, (None, None))
        told = (weight.detach().abs().max().item(), weight.detach().std().item())
        cells = [f"{value:.4f}" if value is not None else "" for value in (*told, *formula)]
        rows.append((name, *cells, f"{output_variance(num_inputs, told[1]):.4f}"))
    columns = ("", "max |w|", "std w", "eq. 4.8.6", "eq. 4.8.5", "eq. 4.8.4")
    note = "Eq. 4.8.4: the factor by which such a layer changes the variance of its inputs."
    run.table("initial weights of the first layer", columns, rows, note)


def show_schemes(
    run: Run,
    at_depth: Mapping[str, Mapping[Activation, Mapping[str, Mapping[str, float]]]],
    training: Mapping[str, Mapping[str, Any]],
    activation: Activation,
    depth: int,
) -> None:
    """Print the variances of the network that was trained, and what came of it."""
    rows = []
    for name, told in at_depth.items():
        figures = [f"{v:.1e}" for ends in told[activation].values() for v in ends.values()]
        accuracy = training[name]["test_accuracy"]
        rows.append((name, *figures, "diverged" if accuracy is None else f"{accuracy:.4f}"))
    columns = ("", "act. 1", f"act. {depth}", "grad. 1", f"grad. {depth}", "accuracy")
    note = (
        "Variances of activations, and of the gradients with respect to them, in the first and the last\n"
        "hidden layer, before training, on standardised images; accuracy on the test rows after it."
    )
    run.table(f"{depth} hidden layers with {activation}", columns, rows, note)


def draw_sigmoid() -> Figure:
    """Draw the sigmoid and its gradient, over the book's range."""
    figure, (panel,) = panels([""], "The sigmoid and its gradient", "x", "value")
    x = torch.arange(-8.0, 8.0, 0.1, dtype=torch.float64)
    curves = {"sigmoid": sigmoid(x), "gradient": sigmoid_derivative(x)}
    draw_curves(panel, [(name, x.tolist(), value.tolist()) for name, value in curves.items()])
    panel.legend(frameon=False)
    return figure


def draw_growth(growth: Sequence[float], size: int) -> Figure:
    """Draw the greatest element of the product over the number of matrices."""
    figure, (panel,) = panels(
        [""],
        f"Product of {size} × {size} Gaussian matrices",  # noqa: RUF001 (a product)
        "matrices multiplied with the first",
        "greatest absolute value",
    )
    draw_curves(panel, [("", range(len(growth)), growth)])
    panel.set_yscale("log")
    return figure


def draw_by_layer(measured: Measured, what: str, depth: int, title: str) -> Figure:
    """Draw a variance over the layers of the deepest networks, a panel for each activation."""
    figure, axes = panels(list(measured), title, "hidden layer", YLABEL)
    for panel, by_scheme in zip(axes, measured.values(), strict=True):
        layers = range(1, depth + 1)
        _draw_schemes(panel, {name: (layers, told[depth][what]) for name, told in by_scheme.items()})
    _frame(axes[0])
    axes[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw_over_depth(measured: Measured, width: int) -> Figure:
    """Draw the variance of the gradients in the first layer over the number of hidden layers."""
    title = f"What gradients reach the first layer of ever deeper networks, {width} units a layer"
    figure, axes = panels(list(measured), title, "hidden layers", YLABEL)
    for panel, by_scheme in zip(axes, measured.values(), strict=True):
        curves = {
            name: (list(told), [found["gradient_variance"][0] for found in told.values()])
            for name, told in by_scheme.items()
        }
        _draw_schemes(panel, curves)
        for line in panel.lines:
            line.set_marker("o")
    _frame(axes[0])
    axes[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _draw_schemes(panel: Axes, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    draw_curves(panel, [(name.replace("_", " "), *curve) for name, curve in curves.items()])
    panel.set_yscale("log")


def _frame(panel: Axes) -> None:
    # Of all panels, as they share their axis.
    low, high = panel.get_ylim()
    panel.set_ylim(max(low, 1 / FRAME), min(high, FRAME))


def draw_spreads(spreads: Mapping[str, Sequence[float]]) -> Figure:
    """Draw how much hidden units differ over the steps of training."""
    figure, (panel,) = panels([""], "Hidden units that begin alike", "step", "spread of the units' weights")
    curves = [(name.replace("_", " "), range(1, len(values) + 1), values) for name, values in spreads.items()]
    draw_curves(panel, curves)
    panel.legend(frameon=False)
    return figure


if __name__ == "__main__":
    run_experiment(main)
