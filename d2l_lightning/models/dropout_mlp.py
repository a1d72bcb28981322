"""Perceptrons with dropout, from scratch and concisely, and the uncertainty of their predictions."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from d2l_lightning.errors import require_not_negative, require_positive
from d2l_lightning.functional.activations import relu
from d2l_lightning.functional.classification import softmax
from d2l_lightning.functional.dropout import average_over_masks, dropout_layer
from d2l_lightning.models.classifier import Classifier, ScratchClassifier
from d2l_lightning.models.layers import require_hidden_layers
from d2l_lightning.models.mlp import MLP
from d2l_lightning.models.noise import Noise


class DropoutMLPScratch(ScratchClassifier):
    """A perceptron with dropout from scratch: parameters, layers, cross-entropy and SGD (Section 4.6.4).

    Dropout follows the ReLU of each hidden layer. The book's text says so; its code omits the ReLU.

    Args:
        num_inputs: Number of pixels, d.
        num_outputs: Number of classes, q.
        hidden_sizes: Width of each hidden layer, at least one.
        dropouts: The probability, from 0 to 1, that a unit is dropped in training, for each hidden layer.
        lr: The learning rate of minibatch SGD.
        sigma: Standard deviation of the initial weights, which are normally distributed.

    Raises:
        InputError: If there are not as many dropouts as hidden layers.
    """

    def __init__(
        self,
        num_inputs: int = 784,
        num_outputs: int = 10,
        hidden_sizes: Sequence[int] = (256, 256),
        dropouts: Sequence[float] = (0.2, 0.5),
        lr: float = 0.5,
        sigma: float = 0.01,
    ) -> None:
        super().__init__()
        require_positive(num_inputs=num_inputs, num_outputs=num_outputs, lr=lr)
        require_not_negative(sigma=sigma)
        require_hidden_layers(hidden_sizes, dropouts)
        self.save_hyperparameters()
        self.num_inputs, self.dropouts = num_inputs, list(dropouts)
        widths = [num_inputs, *hidden_sizes, num_outputs]
        self.W = nn.ParameterList(torch.normal(0.0, sigma, shape) for shape in pairwise(widths))
        self.b = nn.ParameterList(torch.zeros(width) for width in widths[1:])

    def logits(self, X: Tensor) -> Tensor:
        """Return logits of shape ``(B, q)`` for features of shape ``(B, d)``."""
        H = X
        for W, b, dropout in zip(self.W, self.b, self.dropouts, strict=False):  # all layers but the last
            H = relu(H @ W + b)
            if self.training:
                H = dropout_layer(H, dropout)
        return H @ self.W[-1] + self.b[-1]


class DropoutMLP(MLP):
    """A perceptron with the dropout, the two hidden layers and the learning rate of Section 4.6.5.

    Arguments are those of ``MLP``; it raises an InputError unless each hidden layer has one of the dropouts.
    """

    def __init__(
        self,
        num_inputs: int | None = 784,
        num_outputs: int = 10,
        hidden_sizes: Sequence[int] = (256, 256),
        dropouts: Sequence[float] = (0.2, 0.5),
        lr: float = 0.5,
        sigma: float = 0.01,
        weight_decay: float = 0.0,
        noise: Noise = "dropout",
    ) -> None:
        require_hidden_layers(hidden_sizes, dropouts)
        settings: dict[str, Any] = {"noise": noise, "lr": lr, "weight_decay": weight_decay}
        super().__init__(num_inputs, num_outputs, hidden_sizes, sigma=sigma, dropouts=dropouts, **settings)


@torch.no_grad()
def probabilities_under_dropout(model: Classifier, X: Tensor, num_masks: int) -> Tensor:
    """Return a model's probabilities of classes under S dropout masks, computed as one batch: ``(S, B, q)``.

    X has shape ``(B, ...)``. Raises an InputError if the number of masks, S, is not positive. Source: Section
    4.6.3, on dropout at test time.
    """
    require_positive(num_masks=num_masks)
    was_training = model.training
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):  # its statistics stay those of training
            module.eval()
    try:
        logits = model(X.to(model.dtype).repeat(num_masks, *[1] * (X.ndim - 1)))
    finally:
        model.train(was_training)
    return softmax(logits).unflatten(0, (num_masks, len(X)))


def uncertainty_under_dropout(
    model: Classifier, X: Tensor, y: Tensor, num_masks: int, chunk: int = 500
) -> dict[str, list[float]]:
    """Compare the confidence of predictions under many dropout masks with their accuracy.

    Returns the means of ``confidence``, ``spread`` (see ``average_over_masks``) and ``accuracy`` over tenths
    of the images, from the least to the most confident. Arguments and errors are those of
    ``probabilities_under_dropout``, with the classes y, shape ``(B,)``; a chunk is predicted at a time.
    """
    chunks = []
    for images, classes in zip(X.split(chunk), y.split(chunk), strict=True):
        probabilities = probabilities_under_dropout(model, images, num_masks)
        predicted, confidence, spread = average_over_masks(probabilities)
        chunks.append(torch.stack([confidence, spread, (predicted == classes).float()]))
    values = torch.cat(chunks, dim=1)
    tenths = values[:, values[0].argsort()].tensor_split(10, dim=1)
    means = torch.stack([tenth.mean(dim=1) for tenth in tenths if tenth.shape[1]])
    return dict(zip(("confidence", "spread", "accuracy"), means.T.tolist(), strict=True))
