"""Multilayer perceptrons on Fashion-MNIST, from scratch and concisely (4.2, 4.3)."""

from d2l_lightning.classification import train_and_test
from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.errors import InputError
from d2l_lightning.models.classifier import Classifier
from d2l_lightning.models.layers import Activation, Initialization
from d2l_lightning.models.mlp import MLP, MLPScratch, Schedule
from d2l_lightning.module import OptimizerName
from d2l_lightning.run import Run, run_experiment


def main(
    run: Run,
    hidden_sizes: list[int],
    activation: Activation,
    initialization: Initialization,
    sigma: float,
    dropouts: list[float],
    batch_norm: bool,
    label_smoothing: float,
    batch_size: int,
    optimizer: OptimizerName,
    lr: float,
    schedule: Schedule,
    weight_decay: float,
    flip: bool,
    val_fraction: float,
    validate_on_test: bool,
    data_dir: str | None = None,
) -> None:
    """Tell clothes apart by a multilayer perceptron, from scratch and concisely (4.2, 4.3).

    The model from scratch has one hidden layer, ReLU, normal initial weights and plain SGD; with other
    settings the concise model is trained alone.

    Args:
        run: The run.
        hidden_sizes: Width of each hidden layer, as in `--hidden_sizes 256 128`.
        activation: The nonlinearity after each hidden layer.
        initialization: How weights begin (Section 4.8.2).
        sigma: Standard deviation of the initial weights, where they are normal.
        dropouts: The probability that a unit of each hidden layer is dropped in training; none is if empty.
        batch_norm: Standardise the units of each hidden layer over the batch.
        label_smoothing: Share of each training label that is spread over all classes.
        batch_size: Rows in a batch.
        optimizer: Minibatch SGD, or AdamW.
        lr: Learning rate.
        schedule: What becomes of it: constant, or one cycle up to it and down again.
        weight_decay: That of the optimizer.
        flip: Mirror half of the training images, drawn anew in each epoch.
        val_fraction: Share of the training rows that validate and are not trained on.
        validate_on_test: Train on all training rows and validate on the official test rows, as the book does.
        data_dir: A folder with the four IDX files; if not given, they are found or downloaded.
    """
    data = FashionMNIST(data_dir, batch_size, val_fraction, validate_on_test, run.seed, flip)
    if batch_norm:
        data.setup()
        if batch_size == 1 or len(data.rows["train"]) % batch_size == 1:
            raise InputError(
                f"batch_norm cannot train on the last row alone; choose another batch_size than {batch_size}"
            )
    concise = MLP(
        hidden_sizes=hidden_sizes,
        activation=activation,
        initialization=initialization,
        sigma=sigma,
        dropouts=dropouts,
        batch_norm=batch_norm,
        label_smoothing=label_smoothing,
        optimizer=optimizer,
        lr=lr,
        schedule=schedule,
        weight_decay=weight_decay,
    )
    models: dict[str, Classifier] = {"concise": concise}
    # What the model from scratch can do.
    shape = (len(hidden_sizes), activation, initialization, any(dropouts), batch_norm)
    training = (label_smoothing, optimizer, schedule, weight_decay)
    if shape == (1, "relu", "normal", False, False) and training == (0, "sgd", "constant", 0):
        models = {"scratch": MLPScratch(num_hiddens=hidden_sizes[0], lr=lr, sigma=sigma), **models}
    run.finish(train_and_test(run, data, models, "multilayer perceptron"))


if __name__ == "__main__":
    run_experiment(main)
