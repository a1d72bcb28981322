"""Multilayer perceptrons on Fashion-MNIST, from scratch and concisely (4.2, 4.3)."""

from collections.abc import Callable
from typing import Any

from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.models.classifier import Classifier
from d2l_lightning.models.mlp import MLP, MLPScratch
from d2l_lightning.runs.classification import require_rows_for_batch_norm, train_and_test
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.run import Run

# The settings that the model from scratch is made for.
SCRATCH = {
    **{"activation": "relu", "initialization": "normal", "batch_norm": False, "label_smoothing": 0},
    **{"optimizer": "sgd", "schedule": "constant", "weight_decay": 0},
}


def concise_model(**model: Any) -> MLP:
    """Return the concise model, for Fashion-MNIST."""
    return MLP(784, 10, **model)


def main(
    run: Run, data: Callable[..., FashionMNIST] = FashionMNIST, model: Callable[..., MLP] = concise_model
) -> None:
    """Classify clothes by a multilayer perceptron, from scratch and concisely (4.2, 4.3).

    The model from scratch has one hidden layer, ReLU, normal initial weights and plain SGD. With other
    settings, only the concise model is trained.

    Args:
        run: The run.
        data: The data.
        model: The concise model.
    """
    images = data(seed=run.seed)
    concise = model()
    settings = concise.hparams
    images.setup()
    require_rows_for_batch_norm(concise, len(images.rows["train"]), images.batch_size)
    models: dict[str, Classifier] = {"concise": concise}
    one_layer = len(settings["hidden_sizes"]) == 1 and not any(settings["dropouts"])
    if one_layer and all(settings[name] == value for name, value in SCRATCH.items()):
        scratch = MLPScratch(784, 10, settings["hidden_sizes"][0], settings["lr"], settings["sigma"])
        models = {"scratch": scratch, **models}
    run.finish(**vars(train_and_test(run, images, models, "multilayer perceptron")))


if __name__ == "__main__":
    run_experiment(main)
