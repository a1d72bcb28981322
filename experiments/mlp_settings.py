"""The settings of the multilayer perceptron, one at a time and the best of each together (4.2.6, 4.3.3)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.errors import InputError, require_members, require_positive
from d2l_lightning.models.classifier import Classifier
from d2l_lightning.models.layers import Activation, Initialization, initialize
from d2l_lightning.models.mlp import MLP
from d2l_lightning.plots.settings import accuracy_by_setting
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.side_by_side import Member, train_side_by_side

import torch
from torch import nn

# The settings of Sections 4.2 and 4.3.
BOOK: dict[str, Any] = {
    "hidden units": 256,
    "hidden layers": 1,
    "learning rate": 0.1,
    "activation": "relu",
    "initialization": "normal",
}
# A model with the best values of all settings.
COMBINED = "best of each"
# By setting and value, the accuracy for each seed whose model did not diverge.
Accuracies = dict[str, dict[str, list[float]]]


def shared_images(**data: Any) -> FashionMNIST:
    """Return the images, none of which is mirrored, because members side by side share them."""
    return FashionMNIST(flip=False, **data)


def main(
    run: Run,
    hidden_units: Sequence[int] = (32, 64, 128, 256, 512),
    hidden_layers: Sequence[int] = (1, 2, 3),
    lrs: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0),
    activations: Sequence[Activation] = ("relu", "gelu", "tanh", "sigmoid"),
    initializations: Sequence[Initialization] = ("normal", "default", "xavier_uniform", "kaiming"),
    num_seeds: int = 2,
    num_train: int = 20_000,
    data: Callable[..., FashionMNIST] = shared_images,
) -> None:
    """Change one setting of the book's perceptron at a time, then take the best value of each (4.2.6, 4.3.3).

    The book's value of each setting is always among those that are compared.

    Args:
        run: The run.
        hidden_units: Numbers of units of each hidden layer.
        hidden_layers: Numbers of hidden layers.
        lrs: Learning rates, which train side by side.
        activations: The nonlinearities.
        initializations: The kinds of initial weights, which train side by side.
        num_seeds: The number of models for each value, which train side by side. They differ in their initial
            weights.
        num_train: The number of training rows to use at most.
        data: The data.
    """
    require_members(num_seeds=num_seeds)
    require_positive(num_train=num_train)
    given = (hidden_units, hidden_layers, lrs, activations, initializations)
    values: dict[str, list[Any]] = {}
    for (setting, book), tried in zip(BOOK.items(), given, strict=True):
        if len(set(tried)) < len(tried):
            raise InputError(f"each value of the {setting} must be named once, not {list(tried)}")
        values[setting] = [*tried] if book in tried else [book, *tried]
    changes = {
        f"{setting} {value}": {setting: value}
        for setting, tried in values.items()
        for value in tried
        if value != BOOK[setting]
    }
    # Rates and initial weights are no matter of architecture: such models train side by side.
    alike = [name for name, change in changes.items() if {"learning rate", "initialization"} & {*change}]
    fits = {"book": ["book", *alike], **{name: [name] for name in changes if name not in alike}}
    changes["book"] = {}
    models = {
        fit: {
            (name, seed): make(changes[name], run.seed + seed) for name in names for seed in range(num_seeds)
        }
        for fit, names in fits.items()
    }  # before the first fit, so that errors appear at once

    images = data(seed=run.seed)
    members: dict[str, list[Member]] = {}

    def train(fit: str, models: Mapping[tuple[str, int], MLP]) -> None:
        named = {f"{name} seed {seed}".replace(" ", "_"): model for (name, seed), model in models.items()}
        trained = train_side_by_side(run, fit.replace(" ", "_"), named, images, "val", num_train)
        for (name, _), member in zip(models, trained.values(), strict=True):
            members.setdefault(name, []).append(member)

    for fit, of_fit in models.items():
        train(fit, of_fit)
    found: Accuracies = {
        setting: {f"{v}": accuracies(members.get(f"{setting} {v}", members["book"])) for v in tried}
        for setting, tried in values.items()
    }
    best = {setting: max(tried, key=partial(mean, found[setting])) for setting, tried in values.items()}
    train(COMBINED, {(COMBINED, seed): make(best, run.seed + seed) for seed in range(num_seeds)})
    whole = {
        name: {
            "val_accuracy": accuracies(members[name]),
            "test_accuracy": [test_accuracy(each.model, images) for each in members[name]],
        }
        for name in ("book", COMBINED)
    }
    title = f"Perceptrons after {run.trainer_flags.get('max_epochs')} epochs, one setting changed"
    ylabel = "accuracy on the validation rows"
    start = {setting: f"{book}" for setting, book in BOOK.items()}
    run.finish(
        {"settings": found, "best": best, "models": whole},
        checkpoints={name.replace(" ", "_"): members[name][0].model for name in whole},
        tables=tables(found, best, whole, num_seeds, min(num_train, len(images.rows["train"]))),
        figures={"accuracies": partial(accuracy_by_setting, found, start, title, ylabel)},
    )


def make(changed: Mapping[str, Any], seed: int) -> MLP:
    """Return the book's perceptron with some settings changed."""
    torch.manual_seed(seed)
    settings = {**BOOK, **changed}
    hidden_sizes = [settings["hidden units"]] * settings["hidden layers"]
    model = MLP(784, 10, hidden_sizes, settings["activation"], "default", lr=settings["learning rate"])
    for layer in model.net:
        if isinstance(layer, nn.Linear):
            initialize(layer, settings["initialization"])
    return model


def accuracies(members: Sequence[Member]) -> list[float]:
    """Return the accuracies of the members that did not diverge."""
    return [member.accuracy for member in members if member.accuracy is not None]


def mean(accuracies: Mapping[str, Sequence[float]], value: Any) -> float:
    """Return the mean accuracy of a value of a setting; 0 if all models diverged."""
    return fmean(accuracies[f"{value}"] or [0.0])


def test_accuracy(model: Classifier, images: FashionMNIST) -> float:
    """Return a model's accuracy on the test rows."""
    X, y = images.examples(images.rows["test"])
    with torch.no_grad():
        return (model.eval().cpu()(X.to(model.dtype)).argmax(dim=1) == y).float().mean().item()


def tables(
    found: Accuracies,
    best: Mapping[str, Any],
    whole: Mapping[str, Mapping[str, list[float]]],
    num_seeds: int,
    num_rows: int,
) -> list[Table]:
    """Return a table of all values of the settings, and one of the book's values and the best together."""
    rows = []
    for setting, by_value in found.items():
        for value, of_seeds in by_value.items():
            words = ["the book's"] * (value == f"{BOOK[setting]}") + ["best"] * (value == f"{best[setting]}")
            rows.append([setting, value, *spread(of_seeds), ", ".join(words)])
    columns = ("setting", "value", "mean", "least", "greatest", "")
    note = (
        f"Accuracy on the validation rows, of models trained on {num_rows:,} rows, over {num_seeds} initial "
        "weights. Other settings are the book's."
    )
    each = Table("one setting at a time", columns, rows, note)
    rows = [
        [name, *(f"{fmean(values):.4f}" if values else "diverged" for values in of_rows.values())]
        for name, of_rows in whole.items()
    ]
    note = "Mean accuracies. The best values were chosen on the validation rows, one setting at a time."
    return [each, Table("the book's settings and the best of each", ("", "validation", "test"), rows, note)]


def spread(values: Sequence[float]) -> list[str]:
    """Return the mean, the least and the greatest of some accuracies as text."""
    return [f"{v:.4f}" for v in (fmean(values), min(values), max(values))] if values else ["diverged", "", ""]


if __name__ == "__main__":
    run_experiment(main)
