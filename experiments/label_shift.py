"""Label shift on Fashion-MNIST: estimate the class shares of a target, and train for them (4.9.3)."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from d2l_lightning.data.fashion_mnist import LABELS
from d2l_lightning.data.label_shift import LabelShiftedFashionMNIST
from d2l_lightning.functional.classification import softmax
from d2l_lightning.functional.label_shift import confusion_matrix, label_distribution, require_all_classes
from d2l_lightning.models.classifier import Classifier
from d2l_lightning.models.mlp import MLP
from d2l_lightning.plots.shift import class_shares
from d2l_lightning.runs.classification import require_rows_for_batch_norm, test_metrics
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (its usual name)

# Images that are predicted at a time.
CHUNK = 2000
# The fits: on the source without weights, with estimated weights, with true weights.
NAMES = {"before": "no weights", "after": "estimated weights", "oracle": "true weights"}


def perceptron(**model: Any) -> MLP:
    """Return a multilayer perceptron for the images."""
    return MLP(784, 10, **model)


def main(
    run: Run,
    soft: bool = False,
    data: Callable[..., LabelShiftedFashionMNIST] = LabelShiftedFashionMNIST,
    model: Callable[..., MLP] = perceptron,
) -> None:
    """Train on a source, estimate the class shares of an unlabelled target, train again with weights (4.9.3).

    All fits start with the same weights and have the same batches. The target's labels are used for the test
    and for the fit with true weights.

    Args:
        run: The run.
        soft: Whether predictions are the classifier's probabilities instead of its most probable class.
        data: The images.
        model: The classifier.
    """
    images, start = data(seed=run.seed), model()
    images.prepare_data()
    images.setup()
    require_rows_for_batch_norm(start, len(images.rows["train"]), images.batch_size)
    held_out = images.labels[images.rows["val"]].cpu()
    require_all_classes(held_out, len(LABELS))
    models: dict[str, MLP] = {}
    tests: dict[str, dict[str, float]] = {}

    def fit(name: str, class_weights: Tensor | None) -> None:
        models[name], images.class_weights = copy.deepcopy(start), class_weights
        tests[name] = test_metrics(run.fit(name, models[name], images, title=f"model {name}"))
        models[name].cpu().eval()

    fit("before", None)
    C = confusion_matrix(predictions(models["before"], images, "val", soft), held_out)
    mean_prediction = predictions(models["before"], images, "test", soft).double().mean(dim=0)
    estimated = label_distribution(C, mean_prediction)
    fit("after", estimated / images.source_shares)
    fit("oracle", images.target_shares / images.source_shares)

    distance = (estimated - images.target_shares).abs().sum().item() / 2
    of_classes = {"source": images.source_shares, "target": images.target_shares, "estimated": estimated}
    shares = {name: values.tolist() for name, values in of_classes.items()}
    accuracies = {NAMES[name]: test["test_accuracy"] for name, test in tests.items()}
    run.finish(
        {
            "total_variation": distance,
            **{f"accuracy_{name}": test["test_accuracy"] for name, test in tests.items()},
            "shares": {name: dict(zip(LABELS, values, strict=True)) for name, values in shares.items()},
            "condition": torch.linalg.cond(C).item(),
        },
        checkpoints=models,
        figures={"shares": partial(class_shares, LABELS, shares, accuracies)},
        tables=tables(shares, distance, tests),
    )


@torch.no_grad()
def predictions(model: Classifier, data: LabelShiftedFashionMNIST, stage: str, soft: bool) -> Tensor:
    """Return a model's predictions of a stage's rows, ``(n, 10)``: probabilities, or one-hot classes."""
    chunks = [
        softmax(model(data.examples(rows)[0].to(model.dtype))) for rows in data.rows[stage].split(CHUNK)
    ]
    probabilities = torch.cat(chunks)
    return probabilities if soft else F.one_hot(probabilities.argmax(dim=1), probabilities.shape[1]).float()


def tables(
    shares: dict[str, list[float]], distance: float, tests: dict[str, dict[str, float]]
) -> list[Table]:
    """Return a table of the class shares and one of the test metrics of all fits."""
    classes = zip(LABELS, *shares.values(), strict=True)
    share_rows = [(label, *(f"{value:.4f}" for value in values)) for label, *values in classes]
    note = (
        f"Total variation distance of the target's estimated shares from the true ones: {distance:.4f}. It "
        "is half the sum of the absolute differences."
    )
    rows = [
        (f"trained with {NAMES[name]}", f"{test['test_accuracy']:.4f}", f"{test['test_loss']:.4f}")
        for name, test in tests.items()
    ]
    return [
        Table("class shares", ("class", "source", "target", "target, estimated"), share_rows, note),
        Table("accuracy on the target", ("model", "accuracy", "cross-entropy"), rows),
    ]


if __name__ == "__main__":
    run_experiment(main)
