"""Dropout on Fashion-MNIST, from scratch and concisely, and the uncertainty of its predictions (4.6)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any, Literal, get_args

from d2l_lightning.callbacks.layer_statistics import ActivationVariance
from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.errors import InputError, require_members, require_not_negative, require_positive
from d2l_lightning.functional.dropout import dropout_layer
from d2l_lightning.models.classifier import Classifier
from d2l_lightning.models.dropout_mlp import DropoutMLP, DropoutMLPScratch, uncertainty_under_dropout
from d2l_lightning.plots.classification import dropout_uncertainty
from d2l_lightning.plots.style import Curve, curve_figure
from d2l_lightning.runs.classification import train_and_test
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.side_by_side import train_side_by_side

import torch

NOTE = "The book's code from scratch omits the ReLU that its text names; this run has it."
# Training rows that the variance of activations is taken over.
NUM_ROWS = 500
Variant = Literal["without", "swapped", "with_decay", "decay_only", "dropconnect", "gaussian", "uniform"]


def scratch_model(**model: Any) -> DropoutMLPScratch:
    """Return the model from scratch, for Fashion-MNIST."""
    return DropoutMLPScratch(784, 10, **model)


def concise_model(weight_decay: float, **model: Any) -> DropoutMLP:
    """Return the concise model, for Fashion-MNIST."""
    return DropoutMLP(784, 10, weight_decay=weight_decay, **model)


def main(
    run: Run,
    num_masks: int = 30,
    variants: Sequence[Variant] = (),
    weight_decay: float = 0.001,
    num_seeds: int = 0,
    data: Callable[..., FashionMNIST] = FashionMNIST,
    scratch: Callable[..., DropoutMLPScratch] = scratch_model,
    concise: Callable[..., DropoutMLP] = concise_model,
) -> None:
    """Train perceptrons with dropout, and measure their uncertainty under many dropout masks (4.6).

    Args:
        run: The run.
        num_masks: Dropout masks for the prediction of each test image.
        variants: Models to compare with the concise one, as in `--variants without swapped`: no dropout
            (without; exercises 2 and 3), the dropout probabilities of the layers in reverse order (swapped;
            1), weight decay with dropout (with_decay; 5) or without (decay_only; 5), dropped weights
            (dropconnect; 6), normal or uniform noise with the mean and the variance of dropout (gaussian,
            uniform; 7).
        weight_decay: L2 penalty of the variants with weight decay.
        num_seeds: The number of initial weights with which the concise model and each variant are trained
            again, all of one model side by side; 0 for none.
        data: The data.
        scratch: The model from scratch.
        concise: The concise model.
    """
    require_positive(num_masks=num_masks)
    require_not_negative(weight_decay=weight_decay, num_seeds=num_seeds)
    if num_seeds:
        require_members(num_seeds=num_seeds)
    if len(set(variants)) < len(variants):
        raise InputError(f"variants must name each once, not {list(variants)}")
    images = data(seed=run.seed)
    model = concise(weight_decay=0.0)
    dropouts = list(model.hparams["dropouts"])
    none = [0.0] * len(dropouts)
    changes: dict[str, dict[str, Any]] = {
        "without": {"dropouts": none},
        "swapped": {"dropouts": dropouts[::-1]},
        "with_decay": {"weight_decay": weight_decay},
        "decay_only": {"dropouts": none, "weight_decay": weight_decay},
        **{noise: {"noise": noise} for noise in ("dropconnect", "gaussian", "uniform")},
    }
    makers: dict[str, Callable[[], DropoutMLP]] = {
        name: partial(concise, **{"weight_decay": 0.0, **changes.get(name, {})})
        for name in ("concise", *(name for name in get_args(Variant) if name in variants))
    }
    models: dict[str, Classifier] = {"scratch": scratch(), "concise": model}
    models |= {name: make() for name, make in makers.items() if name != "concise"}
    images.setup()
    X, _ = images.examples(images.rows["train"][:NUM_ROWS])
    recorders = {name: ActivationVariance(X) for name in makers}
    report = train_and_test(run, images, models, "perceptron with dropout", NOTE, recorders)
    accuracies = {name: [report.results["models"][name]["test_accuracy"]] for name in makers}
    if num_seeds:
        accuracies = {name: over_seeds(run, name, make, num_seeds, images) for name, make in makers.items()}
    uncertainty = uncertainty_under_dropout(model.cpu(), *images.examples(images.rows["test"]), num_masks)
    variances = {name: recorder.variances for name, recorder in recorders.items()}
    example = {f"{p:g}": dropout_layer(torch.arange(16).reshape(2, 8), p) for p in (0.0, 0.5, 1.0)}
    run.finish(
        {
            **report.results,
            "accuracies": accuracies,
            "uncertainty": uncertainty,
            "activation_variance": variances,
            "example": {p: Y.tolist() for p, Y in example.items()},
        },
        checkpoints=report.checkpoints,
        tables=[example_table(example), *report.tables, *comparisons(accuracies)],
        figures={
            **report.figures,
            "uncertainty": partial(dropout_uncertainty, uncertainty, num_masks),
            "activation_variance": variance_figure(variances, len(dropouts)),
        },
    )


def over_seeds(
    run: Run, name: str, make: Callable[[], DropoutMLP], num_seeds: int, images: FashionMNIST
) -> list[float]:
    """Return the test accuracies of a model from several initial weights, without those that diverged."""
    models: dict[str, Classifier] = {}
    for seed in range(num_seeds):
        torch.manual_seed(run.seed + seed)  # all models with a seed begin with the same weights
        models[f"{name}_seed_{seed}"] = make()
    members = train_side_by_side(run, f"{name}_seeds", models, images, "test").values()
    return [member.accuracy for member in members if member.accuracy is not None]


def example_table(example: Mapping[str, torch.Tensor]) -> Table:
    """Return a table of what dropout does to the numbers 0 to 15 (4.6.4)."""
    rows = [[p, *(f"{x:g}" for x in row)] for p, Y in example.items() for row in Y.tolist()]
    columns = ("dropout", *[""] * 8)
    return Table("dropout_layer of the numbers 0 to 15, two rows of 8", columns, rows)


def comparisons(accuracies: Mapping[str, Sequence[float]]) -> list[Table]:
    """Return a table of the models over the seeds, and one of the effects of dropout and weight decay."""
    means = {name: fmean(values) for name, values in accuracies.items() if values}
    if len(means) < 2 or "concise" not in means:
        return []
    rows = [
        [name, f"{mean:.4f}", f"{min(accuracies[name]):.4f}", f"{max(accuracies[name]):.4f}",
         f"{mean - means['concise']:+.4f}"]
        for name, mean in means.items()
    ]  # fmt: skip
    count = max(map(len, accuracies.values()))
    note = f"Accuracy on the test rows from {count} initial weights." if count > 1 else (
        "One model each: differences of less than 0.01 may be chance. --num_seeds 3 trains more."
    )  # fmt: skip
    columns = ("", "mean", "least", "greatest", "more than concise")
    tables = [Table("dropout and its variants", columns, rows, note)]
    if {"without", "decay_only", "with_decay"} <= {*means}:
        dropout, decay, both = (
            means[name] - means["without"] for name in ("concise", "decay_only", "with_decay")
        )
        effects = {"dropout": dropout, "weight decay": decay, "their sum": dropout + decay, "both": both}
        note = "Accuracy minus that without dropout and weight decay. If effects add up, both is their sum."
        cells = [[name, f"{effect:+.4f}"] for name, effect in effects.items()]
        tables.append(Table("effects of dropout and weight decay", ("", "effect"), cells, note))
    return tables


def variance_figure(variances: Mapping[str, list[list[float]]], num_layers: int) -> Callable[[], Any]:
    """Return the function that draws the variance of activations over the epochs (exercise 3)."""
    curves: dict[str, list[Curve]] = {
        f"hidden layer {layer + 1}": [
            (name.replace("_", " "), range(1, len(epochs) + 1), [values[layer] for values in epochs])
            for name, epochs in variances.items()
        ]
        for layer in range(num_layers)
    }
    title = "Variance of the activations in training, dropout included"
    ylabels = ["variance over rows and units", *[""] * (num_layers - 1)]
    return partial(curve_figure, title, curves, "epoch", ylabels, legend="each")


if __name__ == "__main__":
    run_experiment(main)
