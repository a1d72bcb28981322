"""Covariate shift of images: clothes that are turned, noisy or of another brightness (4.9.3)."""

from typing import Literal

from d2l_lightning.data.covariate_shift import ShiftedFashionMNIST
from d2l_lightning.models.softmax_regression import SoftmaxRegression
from d2l_lightning.run import Run, run_experiment
from d2l_lightning.shift.comparison import DomainSettings, correct_and_compare


def main(
    run: Run,
    kind: Literal["rotation", "noise", "brightness"],
    amount: float,
    source_share: float,
    target_share: float,
    num_source: int,
    domain_hidden_sizes: list[int],
    domain_lr: float,
    domain_steps: int,
    k: int,
    cap: float,
    num_permutations: int,
    lr: float,
    batch_size: int,
    data_dir: str | None = None,
) -> None:
    """Learn clothes from images few of which are changed, for images most of which are (4.9.3).

    The true weights are known: they depend on whether an image is changed. Where the source has no changed
    image, the fit that knows the truth is one on the target's labels.

    Args:
        run: The run.
        kind: What is done to an image.
        amount: Degrees of rotation, standard deviation of the noise, or factor of the brightness.
        source_share: The probability that an image of the source is changed.
        target_share: That of the target.
        num_source: Rows of the source.
        domain_hidden_sizes: Hidden layers of the domain classifier; none for logistic regression.
        domain_lr: Adam's learning rate of the domain classifier.
        domain_steps: Steps of its training at least.
        k: Number of folds of the cross-fitting.
        cap: The greatest weight, c.
        num_permutations: How often held-out rows are dealt out for the detector's p-value.
        lr: Learning rate of minibatch SGD.
        batch_size: Rows in a batch.
        data_dir: A folder with the four IDX files; if not given, they are found or downloaded.
    """
    domain = DomainSettings(domain_hidden_sizes, domain_lr, domain_steps, k, cap, num_permutations)
    data = ShiftedFashionMNIST(
        data_dir, kind, amount, source_share, target_share, num_source, batch_size, run.seed
    )
    model = SoftmaxRegression(lr=lr)
    results, _ = correct_and_compare(
        run,
        data,
        model,
        "cross-entropy",
        ("loss", "cross-entropy"),
        domain,
    )
    run.finish(results)


if __name__ == "__main__":
    run_experiment(main)
