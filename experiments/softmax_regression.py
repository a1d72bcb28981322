"""Softmax regression on Fashion-MNIST, from scratch and concisely (3.6 and 3.7 of the 0.16 edition)."""

from collections.abc import Callable
from typing import Any

from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.models.softmax_regression import SoftmaxRegression, SoftmaxRegressionScratch
from d2l_lightning.runs.classification import train_and_test
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.run import Run


def scratch_model(**model: Any) -> SoftmaxRegressionScratch:
    """Return the model from scratch, for Fashion-MNIST."""
    return SoftmaxRegressionScratch(784, 10, **model)


def concise_model(**model: Any) -> SoftmaxRegression:
    """Return the concise model, for Fashion-MNIST."""
    return SoftmaxRegression(784, 10, optimizer="sgd", **model)


def main(
    run: Run,
    data: Callable[..., FashionMNIST] = FashionMNIST,
    scratch: Callable[..., SoftmaxRegressionScratch] = scratch_model,
    concise: Callable[..., SoftmaxRegression] = concise_model,
) -> None:
    """Classify clothes by one affine layer, from scratch and concisely (3.6 and 3.7 of the 0.16 edition).

    Args:
        run: The run.
        data: The data.
        scratch: The model from scratch.
        concise: The concise model.
    """
    models = {"scratch": scratch(), "concise": concise()}
    run.finish(**vars(train_and_test(run, data(seed=run.seed), models, "softmax regression")))


if __name__ == "__main__":
    run_experiment(main)
