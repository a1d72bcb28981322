"""Multilayer perceptrons on Fashion-MNIST, from scratch and concisely (4.2, 4.3)."""

from d2l_lightning.classification import train_and_test
from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.models.classifier import Classifier
from d2l_lightning.models.layers import Activation, Initialization
from d2l_lightning.models.mlp import MLP, MLPScratch
from d2l_lightning.run import Run, run_experiment


def main(
    run: Run,
    hidden_sizes: list[int],
    activation: Activation,
    initialization: Initialization,
    batch_size: int,
    lr: float,
    sigma: float,
    val_fraction: float,
    validate_on_test: bool,
    data_dir: str | None = None,
) -> None:
    """Tell clothes apart by a multilayer perceptron, from scratch and concisely (4.2, 4.3).

    The model from scratch has one hidden layer, ReLU and normal initial weights; with other settings the
    concise model is trained alone.

    Args:
        run: The run.
        hidden_sizes: Width of each hidden layer, as in `--hidden_sizes 256 128`.
        activation: The nonlinearity after each hidden layer.
        initialization: How weights begin (Section 4.8.2).
        batch_size: Rows in a batch.
        lr: Learning rate of minibatch SGD.
        sigma: Standard deviation of the initial weights, where they are normal.
        val_fraction: Share of the training rows that validate and are not trained on.
        validate_on_test: Train on all training rows and validate on the official test rows, as the book does.
        data_dir: A folder with the four IDX files; if not given, they are found or downloaded.
    """
    data = FashionMNIST(data_dir, batch_size, val_fraction, validate_on_test, run.seed)
    models: dict[str, Classifier] = {}
    if len(hidden_sizes) == 1 and activation == "relu" and initialization == "normal":
        models["scratch"] = MLPScratch(num_hiddens=hidden_sizes[0], lr=lr, sigma=sigma)
    models["concise"] = MLP(
        hidden_sizes=hidden_sizes, activation=activation, initialization=initialization, sigma=sigma, lr=lr
    )
    run.finish(train_and_test(run, data, models, "multilayer perceptron"))


if __name__ == "__main__":
    run_experiment(main)
