"""What every experiment with classifiers of Fashion-MNIST does: train them, test them, tell and draw it."""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from lightning.pytorch import Callback, Trainer
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from d2l_lightning.callbacks.history import History
from d2l_lightning.data.fashion_mnist import LABELS, FashionMNIST
from d2l_lightning.errors import DivergenceError, InputError
from d2l_lightning.figures import draw_curves, image_grid, matrix, panels
from d2l_lightning.models.classifier import Classifier
from d2l_lightning.run import Run


def train_and_test(
    run: Run,
    data: FashionMNIST,
    models: Mapping[str, Classifier],
    title: str,
    note: str = "",
    callbacks: Mapping[str, Callback] | None = None,
) -> dict[str, Any]:
    """Train classifiers on the same data, test each once, and print and draw what came out.

    Args:
        run: The run; it is not finished here.
        data: The data.
        models: The classifiers by name, which goes before the names of their metrics.
        title: What is compared, for the table and the figures.
        note: What to say below the table.
        callbacks: What watches the fit of a classifier, by its name.

    Returns:
        ``models``: a name to its ``test_accuracy``, ``test_loss`` and ``class_accuracy`` by class.

    Raises:
        InputError: If the flags leave nothing to test on, or a model's loss is no number in the end.
    """
    require_test_rows(run)
    data.prepare_data()
    data.setup()
    told: dict[str, Any] = {}
    for name, model in models.items():
        model.log_prefix = f"{name}/"
        watching = [callbacks[name]] if callbacks and name in callbacks else []
        trainer = run.trainer(f"model: {name}", watching)
        trainer.fit(model, data)
        tested = test(trainer, model, data)
        logits = torch.cat(cast(list[Tensor], trainer.predict(model, data))).float().cpu()
        y = data.labels[data.rows["test"]][: len(logits)].cpu()
        per_class = multiclass_accuracy(logits, y, len(LABELS), average=None)
        told[name] = {
            **tested,
            "class_accuracy": dict(zip(LABELS, per_class.tolist(), strict=True)),
        }
        run.checkpoint(model, name)
        counts = multiclass_confusion_matrix(logits, y, len(LABELS))
        run.figure(confusion(counts, f"{title}: {name}"), f"confusion_{name}")
        run.figure(predictions(data, logits.argmax(dim=1), f"{title}: {name}"), f"predictions_{name}")
    run.figure(learning_curves(run.history, list(models), data, title), "learning_curves")
    show_table(run, told, title, data, note)
    return {"models": told}


def require_test_rows(run: Run) -> None:
    """Raise an InputError if the flags leave nothing to test on."""
    if 0 in (run.trainer_flags.get("limit_test_batches"), run.trainer_flags.get("limit_predict_batches")):
        raise InputError("--limit_test_batches and --limit_predict_batches leave nothing to test on")


def test(trainer: Trainer, model: Classifier, data: FashionMNIST) -> dict[str, float]:
    """Return a model's ``test_accuracy`` and ``test_loss``.

    Raises:
        DivergenceError: If the loss is no number.
    """
    trainer.test(model, data, verbose=False)
    told = {f"test_{name}": model.evaluated[f"test/{name}"].item() for name in ("accuracy", "loss")}
    if not math.isfinite(told["test_loss"]):
        raise DivergenceError(f"the loss on the test rows became {told['test_loss']:g}; a lower lr may help")
    return told


def show_table(
    run: Run, told: Mapping[str, Mapping[str, Any]], title: str, data: FashionMNIST, note: str
) -> None:
    """Print test accuracy and loss of all models, and the accuracy of each class."""
    names = list(told)
    figures = {
        "all classes": [told[name]["test_accuracy"] for name in names],
        **{label: [told[name]["class_accuracy"][label] for name in names] for label in LABELS},
        "loss": [told[name]["test_loss"] for name in names],
    }
    rows = [(what, *(f"{value:.4f}" for value in values)) for what, values in figures.items()]
    protocol = (
        "Validated on the official test rows, as in the book." if data.validate_on_test else
        "Validated on rows held out of the training rows; the test rows were met once."
    )  # fmt: skip
    run.table(f"{title}, accuracy on the test rows", ("", *names), rows, f"{protocol} {note}".strip())


def learning_curves(history: History, names: list[str], data: FashionMNIST, title: str) -> Figure:
    """Draw loss and accuracy of all models over the epochs."""
    rows = "test" if data.validate_on_test else "validation"
    metrics = {
        "loss in training": "train/loss",
        f"loss, {rows} rows": "val/loss",
        f"accuracy, {rows} rows": "val/accuracy",
    }
    ylabels = ["cross-entropy", "cross-entropy", "share of right predictions"]
    figure, axes = panels(list(metrics), f"{title}: learning curves", "epoch", ylabels)
    for panel, metric in zip(axes, metrics.values(), strict=True):
        draw_curves(panel, [(name.replace("_", " "), *history.curve(f"{name}/{metric}")) for name in names])
    axes[-1].legend(frameon=False)
    return figure


def confusion(counts: Tensor, title: str) -> Figure:
    """Draw which classes are taken for which: rows are the truth."""
    return matrix(counts, LABELS, f"{title}: confusion on the test rows", "predicted", "true")


def predictions(data: FashionMNIST, predicted: Tensor, title: str, rows: int = 3, columns: int = 8) -> Figure:
    """Draw the first test images with their true and predicted names."""
    first = min(rows * columns, len(predicted))
    X, y = data.examples(data.rows["test"][:first])
    names = zip(data.text_labels(y), data.text_labels(predicted[:first]), strict=True)
    captions = [(f"{true}\n{ours}", true == ours) for true, ours in names]
    return image_grid(X, captions, f"{title}: the true name above, the predicted below", columns)
