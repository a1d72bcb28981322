"""Dropout on Fashion-MNIST, from scratch and concisely, and the uncertainty of its predictions (4.6)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from d2l_lightning.callbacks.layer_statistics import ActivationVariance
from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.errors import InputError, require_not_negative, require_positive
from d2l_lightning.models.classifier import Classifier
from d2l_lightning.models.dropout_mlp import DropoutMLP, DropoutMLPScratch, uncertainty_under_dropout
from d2l_lightning.plots.classification import dropout_uncertainty
from d2l_lightning.plots.style import Curve, curve_figure
from d2l_lightning.runs.classification import train_and_test
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.run import Run

NOTE = "The book's code from scratch omits the ReLU that its text names; this run has it."
# Training rows that the variance of activations is taken over.
NUM_ROWS = 500


def scratch_model(**model: Any) -> DropoutMLPScratch:
    """Return the model from scratch, for Fashion-MNIST."""
    return DropoutMLPScratch(784, 10, **model)


def concise_model(weight_decay: float, **model: Any) -> DropoutMLP:
    """Return the concise model, for Fashion-MNIST."""
    return DropoutMLP(784, 10, weight_decay=weight_decay, **model)


def main(
    run: Run,
    num_masks: int = 30,
    variants: Sequence[Literal["without", "swapped", "with_decay", "decay_only"]] = (),
    weight_decay: float = 0.001,
    data: Callable[..., FashionMNIST] = FashionMNIST,
    scratch: Callable[..., DropoutMLPScratch] = scratch_model,
    concise: Callable[..., DropoutMLP] = concise_model,
) -> None:
    """Train perceptrons with dropout, and measure their uncertainty under many dropout masks (4.6).

    Args:
        run: The run.
        num_masks: Dropout masks for the prediction of each test image.
        variants: Models to compare with the concise one, as in `--variants without swapped`: without dropout
            (exercises 2 and 3), with the dropout probabilities of the layers in reverse order (1), with
            weight decay and dropout (5), with weight decay only (5).
        weight_decay: L2 penalty of the variants with weight decay.
        data: The data.
        scratch: The model from scratch.
        concise: The concise model.
    """
    require_positive(num_masks=num_masks)
    require_not_negative(weight_decay=weight_decay)
    if len(set(variants)) < len(variants):
        raise InputError(f"variants must name each once, not {list(variants)}")
    images = data(seed=run.seed)
    model = concise(weight_decay=0.0)
    dropouts = list(model.hparams["dropouts"])
    none = [0.0] * len(dropouts)
    settings = {
        "without": (none, 0.0),
        "swapped": (dropouts[::-1], 0.0),
        "with_decay": (dropouts, weight_decay),
        "decay_only": (none, weight_decay),
    }
    compared = {n: concise(dropouts=p, weight_decay=wd) for n, (p, wd) in settings.items() if n in variants}
    models: dict[str, Classifier] = {"scratch": scratch(), "concise": model, **compared}
    images.setup()
    X, _ = images.examples(images.rows["train"][:NUM_ROWS])
    recorders = {name: ActivationVariance(X) for name in models if name != "scratch"}
    report = train_and_test(run, images, models, "perceptron with dropout", NOTE, recorders)
    uncertainty = uncertainty_under_dropout(model.cpu(), *images.examples(images.rows["test"]), num_masks)
    variances = {name: recorder.variances for name, recorder in recorders.items()}
    curves: dict[str, list[Curve]] = {
        f"hidden layer {layer + 1}": [
            (name.replace("_", " "), range(1, len(epochs) + 1), [values[layer] for values in epochs])
            for name, epochs in variances.items()
        ]
        for layer in range(len(dropouts))
    }
    title = "Variance of the activations in training, dropout included"  # exercise 3
    ylabels = ["variance over rows and units", *[""] * (len(dropouts) - 1)]
    run.finish(
        {**report.results, "uncertainty": uncertainty, "activation_variance": variances},
        checkpoints=report.checkpoints,
        tables=report.tables,
        figures={
            **report.figures,
            "uncertainty": partial(dropout_uncertainty, uncertainty, num_masks),
            "activation_variance": partial(curve_figure, title, curves, "epoch", ylabels, legend="each"),
        },
    )


if __name__ == "__main__":
    run_experiment(main)
