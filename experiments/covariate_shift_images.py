"""Covariate shift of images: clothes that are rotated, noisy or of another brightness (4.9.3)."""

from collections.abc import Callable
from typing import Any

from d2l_lightning.data.shifted_images import ShiftedFashionMNIST
from d2l_lightning.models.softmax_regression import SoftmaxRegression
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.run import Run
from d2l_lightning.shift.comparison import compare, comparison_report
from d2l_lightning.shift.domain import DomainSettings


def softmax_regression(**model: Any) -> SoftmaxRegression:
    """Return softmax regression for the images."""
    return SoftmaxRegression(784, 10, **model)


def main(
    run: Run,
    data: Callable[..., ShiftedFashionMNIST] = ShiftedFashionMNIST,
    model: Callable[..., SoftmaxRegression] = softmax_regression,
    domain: Callable[..., DomainSettings] = DomainSettings,
) -> None:
    """Train on images of which few are changed, for a target in which most are changed (4.9.3).

    The true weights are known: they depend on whether an image is changed. If the source has no changed
    image, the comparison is with a fit on the target's labels.
    """
    settings, images = domain(), data(seed=run.seed)
    comparison = compare(run.fit, images, model(), settings)
    run.finish(**vars(comparison_report(comparison, "cross-entropy", "cross-entropy")))


if __name__ == "__main__":
    run_experiment(main)
