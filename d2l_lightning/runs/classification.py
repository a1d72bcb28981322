"""Runs with image classifiers: train them on the same data, test each, and collect what there is to show."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from lightning.pytorch import Callback, LightningDataModule
from torch import Tensor

from d2l_lightning.callbacks.accuracy import RowAccuracy
from d2l_lightning.errors import InputError
from d2l_lightning.functional.classification import confusion_matrix
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.plots.images import image_grid, matrix
from d2l_lightning.plots.style import Curve, curve_figure
from d2l_lightning.runs.fit import Fit
from d2l_lightning.runs.report import Report, Table
from d2l_lightning.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Test images that are drawn with their predictions.
NUM_DRAWN = 24
# Training rows that the accuracy in training is measured on, as many as the test rows of Fashion-MNIST.
NUM_TRAIN = 10_000


class LabelledImages(Protocol):
    """A data module of images that belong to classes."""

    class_names: tuple[str, ...]
    labels: Tensor  # the class of each row, shape (n,)
    rows: dict[str, Tensor]  # the rows of each stage: train, val and test
    validate_on_test: bool  # whether the validation rows are the test rows

    def setup(self, stage: str | None = None) -> None:
        """Read the data."""

    def examples(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images, shape ``(B, h, w)`` and from 0 to 1, and the classes of some rows."""


def train_and_test(
    run: Run,
    data: LabelledImages,
    models: Mapping[str, SupervisedModule],
    title: str,
    note: str = "",
    callbacks: Mapping[str, Callback] | None = None,
) -> Report:
    """Train classifiers on the same data and test each once.

    The results are, for each model, ``test_accuracy``, ``test_loss``, ``class_accuracy``, and
    ``train_accuracy``, the accuracy after each epoch on the first 10,000 training rows. The figures are
    learning curves, confusion matrices and predictions.

    Args:
        run: The run; it is not finished here.
        data: The data, a ``LightningDataModule``; its rows to predict are the test rows.
        models: The classifiers by name. They predict logits and have the metrics ``accuracy`` and ``loss``.
        title: What is compared, for the table and the figures.
        note: Text below the table.
        callbacks: A callback for the fit of a classifier, by the classifier's name.

    Raises:
        DivergenceError: If a model's loss is not finite.
    """
    data.setup()
    names, rows = data.class_names, data.rows["test"]
    images, _ = data.examples(rows[:NUM_DRAWN])
    fits: dict[str, Fit | None] = {}
    results: dict[str, dict[str, Any]] = {}
    figures: dict[str, Callable[[], Figure]] = {}
    trained_on = data.examples(data.rows["train"][:NUM_TRAIN])
    recorders = {name: RowAccuracy(*trained_on) for name in models}
    for name, model in models.items():
        watching: list[Callback] = [recorders[name]]
        if callbacks and name in callbacks:
            watching.append(callbacks[name])
        module = cast(LightningDataModule, data)
        fits[name] = fit = run.fit(name, model, module, title=f"model {name}", callbacks=watching)
        metrics = test_metrics(fit)
        logits = fit.predict().float().cpu()
        y = data.labels[rows[: len(logits)]].cpu()
        counts = confusion_matrix(logits, y)
        by_class = (counts.diag() / counts.sum(dim=1).clamp(min=1)).tolist()
        accuracies = recorders[name].accuracies
        results[name] = {
            **metrics,
            "class_accuracy": dict(zip(names, by_class, strict=True)),
            "train_accuracy": accuracies,
        }
        heading = f"{title}: {name}: confusion on the test rows"
        figures[f"confusion_{name}"] = partial(matrix, counts, names, heading, "predicted", "true")
        pairs = list(zip(y.tolist(), logits.argmax(dim=1).tolist(), strict=True))[:NUM_DRAWN]
        captions = [(f"{names[true]}\n{names[predicted]}", true == predicted) for true, predicted in pairs]
        heading = f"{title}: {name}: the true name above, the predicted below"
        figures[f"predictions_{name}"] = partial(image_grid, images[: len(pairs)], captions, heading)
    in_training = {name: recorder.accuracies for name, recorder in recorders.items()}
    figures["learning_curves"] = learning_curves(fits, title, data.validate_on_test, in_training)
    table = accuracy_table(results, title, data.validate_on_test, note)
    return Report({"models": results}, checkpoints=models, figures=figures, tables=[table])


def require_rows_for_batch_norm(model: SupervisedModule, num_train: int, batch_size: int) -> None:
    """Raise an InputError if a model with batch normalisation would train on a batch of a single row."""
    if model.hparams["batch_norm"] and (batch_size == 1 or num_train % batch_size == 1):
        what = "batch_norm cannot train on the last row alone"
        raise InputError(f"{what}; choose another batch_size than {batch_size}")


def test_metrics(fit: Fit) -> dict[str, float]:
    """Return a classifier's ``test_accuracy`` and ``test_loss``; raise a DivergenceError if not finite."""
    metrics = fit.test()
    return {f"test_{metric}": metrics[f"test/{metric}"].item() for metric in ("accuracy", "loss")}


def accuracy_table(
    models: Mapping[str, Mapping[str, Any]], title: str, validate_on_test: bool, note: str
) -> Table:
    """Return a table of test accuracy and loss of models by name, and of the accuracy in each class.

    More than four models have no room for the classes, and a row each.
    """
    columns = [
        {"all classes": each["test_accuracy"], **each["class_accuracy"], "cross-entropy": each["test_loss"]}
        for each in models.values()
    ]
    cells = [(row, *(f"{column[row]:.4f}" for column in columns)) for row in columns[0]]
    protocol = "Validated on rows held out of the training rows; the test rows were used once."
    if validate_on_test:
        protocol = "Validated on the official test rows, as in the book."
    heads: tuple[str, ...] = ("class", *(name.replace("_", " ") for name in models))
    if len(models) > 4:
        cells = [
            (name.replace("_", " "), f"{c['all classes']:.4f}", f"{c['cross-entropy']:.4f}")
            for name, c in zip(models, columns, strict=True)
        ]
        heads = ("model", "accuracy", "cross-entropy")
    return Table(f"{title}, accuracy on the test rows", heads, cells, f"{protocol} {note}".strip())


def learning_curves(
    fits: Mapping[str, Fit | None],
    title: str,
    validate_on_test: bool,
    train_accuracy: Mapping[str, list[float]] | None = None,
) -> "Callable[[], Figure]":
    """Return a function that draws loss and accuracy over the epochs of fits; None is one that diverged.

    The accuracies on training rows are drawn too, if they are given.
    """
    rows = "test" if validate_on_test else "validation"
    panels = {"loss in training": "train/loss", f"loss, {rows} rows": "val/loss"}
    panels[f"accuracy, {rows} rows"] = "val/accuracy"
    named = {name.replace("_", " "): fit for name, fit in fits.items()}
    curves: dict[str, list[Curve]] = {
        panel: [
            (f"{name} (diverged)", [], []) if fit is None else (name, *fit.curve(metric))
            for name, fit in named.items()
        ]
        for panel, metric in panels.items()
    }
    if train_accuracy:
        curves["accuracy, training rows"] = [
            (name.replace("_", " "), range(1, len(values) + 1), values)
            for name, values in train_accuracy.items()
        ]
    ylabels = ["cross-entropy", "cross-entropy", *["accuracy"] * (len(curves) - 2)]
    return partial(curve_figure, f"{title}: learning curves", curves, "epoch", ylabels)
