"""Softmax regression on Fashion-MNIST, from scratch and concisely (3.6 and 3.7 of the 0.16 edition)."""

from d2l_lightning.classification import train_and_test
from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.models.softmax_regression import SoftmaxRegression, SoftmaxRegressionScratch
from d2l_lightning.run import Run, run_experiment


def main(
    run: Run,
    batch_size: int,
    lr: float,
    sigma: float,
    val_fraction: float,
    validate_on_test: bool,
    data_dir: str | None = None,
) -> None:
    """Tell clothes apart by one affine layer, from scratch and concisely (3.6 and 3.7 of the 0.16 edition).

    Args:
        run: The run.
        batch_size: Rows in a batch.
        lr: Learning rate of minibatch SGD.
        sigma: Standard deviation of the initial weights.
        val_fraction: Share of the training rows that validate and are not trained on.
        validate_on_test: Train on all training rows and validate on the official test rows, as the book does.
        data_dir: A folder with the four IDX files; if not given, they are found or downloaded.
    """
    data = FashionMNIST(data_dir, batch_size, val_fraction, validate_on_test, run.seed)
    models = {
        "scratch": SoftmaxRegressionScratch(lr=lr, sigma=sigma),
        "concise": SoftmaxRegression(lr=lr, sigma=sigma),
    }
    run.finish(train_and_test(run, data, models, "softmax regression"))


if __name__ == "__main__":
    run_experiment(main)
