"""Dropout on Fashion-MNIST, from scratch and concisely, and how sure a model with dropout is (4.6)."""

from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import nn

from d2l_lightning.callbacks.step_hooks import NoStepHooks
from d2l_lightning.classification import train_and_test
from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.errors import InputError, require_positive
from d2l_lightning.figures import draw_curves, panels
from d2l_lightning.models.classifier import Classifier
from d2l_lightning.models.dropout_mlp import DropoutMLP, DropoutMLPScratch, probabilities_under_dropout
from d2l_lightning.run import Run, run_experiment

NOTE = "The book's code from scratch leaves out the ReLU that its text names; this run has it."
# Test images that many masks are drawn for, at a time.
CHUNK = 500


def main(
    run: Run,
    hidden_sizes: list[int],
    dropouts: list[float],
    batch_size: int,
    lr: float,
    sigma: float,
    weight_decay: float,
    num_masks: int,
    variants: list[Literal["without", "swapped", "with_decay", "decay_only"]],
    val_fraction: float,
    validate_on_test: bool,
    data_dir: str | None = None,
) -> None:
    """Train perceptrons with dropout, and ask them under many masks how sure they are (4.6).

    Args:
        run: The run.
        hidden_sizes: Width of each hidden layer.
        dropouts: The probability that a unit of each hidden layer is dropped, as in `--dropouts 0.5 0.2`.
        batch_size: Rows in a batch.
        lr: Learning rate of minibatch SGD.
        sigma: Standard deviation of the initial weights.
        weight_decay: L2 penalty of the variants that have one.
        num_masks: Dropout masks that each test image is predicted under.
        variants: More models to compare with the concise one, as in `--variants without swapped`: without
            dropout (exercises 2 and 3), with the rates of the layers the other way round (1), with a weight
            decay beside dropout (5), with a weight decay alone (5).
        val_fraction: Share of the training rows that validate and are not trained on.
        validate_on_test: Train on all training rows and validate on the official test rows, as the book does.
        data_dir: A folder with the four IDX files; if not given, they are found or downloaded.
    """
    require_positive(num_masks=num_masks)
    if len(set(variants)) < len(variants):
        raise InputError(f"variants must name each once, not {variants}")
    data = FashionMNIST(data_dir, batch_size, val_fraction, validate_on_test, run.seed)
    none = [0.0] * len(dropouts)
    settings: dict[str, tuple[list[float], float]] = {
        "concise": (dropouts, 0.0),
        "without": (none, 0.0),
        "swapped": (dropouts[::-1], 0.0),
        "with_decay": (dropouts, weight_decay),
        "decay_only": (none, weight_decay),
    }
    concise = {
        name: DropoutMLP(hidden_sizes=hidden_sizes, dropouts=rates, lr=lr, sigma=sigma, weight_decay=decay)
        for name, (rates, decay) in settings.items()
        if name == "concise" or name in variants
    }
    scratch = DropoutMLPScratch(hidden_sizes=hidden_sizes, dropouts=dropouts, lr=lr, sigma=sigma)
    models: dict[str, Classifier] = {"scratch": scratch, **concise}
    watches = {name: ActivationVariance(data) for name in concise}
    results = train_and_test(run, data, models, "perceptron with dropout", NOTE, watches)
    results["uncertainty"] = uncertainty(concise["concise"].cpu(), data, num_masks)
    results["activation_variance"] = {name: watch.variances for name, watch in watches.items()}
    run.figure(draw_uncertainty(results["uncertainty"], num_masks), "uncertainty")
    run.figure(draw_variances(results["activation_variance"], len(hidden_sizes)), "activation_variance")
    run.finish(results)


class ActivationVariance(NoStepHooks, Callback):  # type: ignore[misc]
    """Notes after each epoch how much the units of each hidden layer vary, as the next layer gets them.

    Args:
        data: The data; its first training rows are what the model is asked about.
    """

    def __init__(self, data: FashionMNIST) -> None:
        self.data = data
        self.variances: list[list[float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a list with the variance of each hidden layer, over rows and units, in training mode."""
        X, _ = self.data.examples(self.data.rows["train"][:CHUNK])
        H = X.to(next(pl_module.parameters())).flatten(1)
        variances = []
        with torch.no_grad():
            for layer in cast(DropoutMLP, pl_module).net:
                H = layer(H)
                if isinstance(layer, nn.Dropout):
                    variances.append(H.var().item())
        self.variances.append(variances)


def uncertainty(model: Classifier, data: FashionMNIST, num_masks: int) -> dict[str, list[float]]:
    """Return, for tenths of the test rows from the least to the most confident, what came of them.

    The confidence is the mean probability, over all masks, of the class that has the greatest; the spread is
    that probability's standard deviation.
    """
    confidence, spread, right = [], [], []
    for rows in data.rows["test"].split(CHUNK):
        X, y = data.examples(rows)
        probabilities = probabilities_under_dropout(model, X, num_masks)
        mean, predicted = probabilities.mean(dim=0).max(dim=1)
        of_predicted = probabilities.gather(2, predicted.expand(num_masks, -1)[..., None]).squeeze(2)
        confidence.append(mean)
        spread.append(of_predicted.std(dim=0, correction=0))
        right.append((predicted == y).float())
    told = torch.stack([torch.cat(confidence), torch.cat(spread), torch.cat(right)])
    tenths = told[:, told[0].argsort()].tensor_split(10, dim=1)
    means = torch.stack([tenth.mean(dim=1) for tenth in tenths if tenth.shape[1]])
    return dict(zip(("confidence", "spread", "accuracy"), means.T.tolist(), strict=True))


def draw_uncertainty(told: dict[str, Any], num_masks: int) -> Figure:
    """Draw accuracy and spread over confidence, each point a tenth of the test rows."""
    figure, axes = panels(
        ["is it right when it is sure?", "do its masks agree?"],
        f"Predictions under {num_masks} dropout masks, by tenths of the test rows",
        "confidence (mean probability of the predicted class)",
        ["share of right predictions", "standard deviation of that probability"],
    )
    draw_curves(axes[0], [("this model", told["confidence"], told["accuracy"])])
    low = min(told["confidence"])
    axes[0].plot([low, 1], [low, 1], color="0.6", linewidth=1, label="as often as it says")
    axes[0].legend(frameon=False)
    draw_curves(axes[1], [("", told["confidence"], told["spread"])])
    for panel in axes:
        panel.lines[0].set_marker("o")
    return figure


def draw_variances(told: dict[str, list[list[float]]], num_layers: int) -> Figure:
    """Draw the variance of each hidden layer over the epochs, a panel for each layer (exercise 3)."""
    figure, axes = panels(
        [f"hidden layer {layer}" for layer in range(1, num_layers + 1)],
        "Variance of the activations while training, dropout included",
        "epoch",
        ["variance over rows and units", *[""] * (num_layers - 1)],
    )
    for layer, panel in enumerate(axes):
        curves = []
        for name, epochs in told.items():
            values = [variances[layer] for variances in epochs]
            curves.append((name.replace("_", " "), range(1, len(values) + 1), values))
        draw_curves(panel, curves)
        panel.legend(frameon=False)
    return figure


if __name__ == "__main__":
    run_experiment(main)
