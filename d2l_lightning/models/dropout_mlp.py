"""Perceptrons with dropout: from scratch, with the framework's parts, and how sure they are."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from d2l_lightning.errors import require_not_negative, require_positive
from d2l_lightning.functional.activations import relu
from d2l_lightning.functional.classification import cross_entropy, softmax
from d2l_lightning.functional.dropout import dropout_layer
from d2l_lightning.models.classifier import Classifier
from d2l_lightning.models.layers import require_hidden_layers
from d2l_lightning.models.mlp import MLP
from d2l_lightning.optim import SGD


class DropoutMLPScratch(Classifier):
    """Hidden layers with ReLU and dropout, of parameters, layers, loss and SGD of its own.

    The book's code leaves out the ReLU; its text has dropout follow the activation function, as here.

    Args:
        num_inputs: Number of pixels, d.
        num_outputs: Number of classes, q.
        hidden_sizes: Width of each hidden layer, at least one.
        dropouts: The probability, from 0 to 1, that a unit of each hidden layer is dropped in training.
        lr: The learning rate of minibatch SGD.
        sigma: Standard deviation of the normal distribution that the initial weights are drawn from.

    Raises:
        InputError: If a number is out of its range, or there are not as many dropouts as hidden layers.

    Source: Section 4.6.4.
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
        self.num_inputs = num_inputs
        self.dropouts = list(dropouts)
        widths = [num_inputs, *hidden_sizes, num_outputs]
        self.W = nn.ParameterList(torch.normal(0.0, sigma, shape) for shape in pairwise(widths))
        self.b = nn.ParameterList(torch.zeros(width) for width in widths[1:])

    def logits(self, X: Tensor) -> Tensor:
        """Return logits of shape ``(B, q)`` for features of shape ``(B, d)``."""
        *hidden, (W, b) = zip(self.W, self.b, strict=True)
        H = X
        for (W_hidden, b_hidden), dropout in zip(hidden, self.dropouts, strict=True):
            H = relu(H @ W_hidden + b_hidden)
            if self.training:
                H = dropout_layer(H, dropout)
        return H @ W + b

    def losses_of(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy of each example: shape ``(B,)``."""
        return cross_entropy(logits, y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return minibatch SGD over all parameters."""
        return SGD(self.parameters(), self.hparams["lr"])


class DropoutMLP(MLP):
    """A perceptron with the dropout, the two hidden layers and the learning rate of Section 4.6.

    Args:
        num_inputs: Number of pixels, d.
        num_outputs: Number of classes, q.
        hidden_sizes: Width of each hidden layer, at least one.
        dropouts: The probability, from 0 to 1, that a unit of each hidden layer is dropped in training.
        lr: The learning rate of minibatch SGD.
        sigma: Standard deviation of the normal distribution that the initial weights are drawn from.
        weight_decay: The optimizer's L2 penalty (exercise 5).

    Raises:
        InputError: If a number is out of its range, or there are not as many dropouts as hidden layers.

    Source: Section 4.6.5.
    """

    def __init__(
        self,
        num_inputs: int = 784,
        num_outputs: int = 10,
        hidden_sizes: Sequence[int] = (256, 256),
        dropouts: Sequence[float] = (0.2, 0.5),
        lr: float = 0.5,
        sigma: float = 0.01,
        weight_decay: float = 0.0,
    ) -> None:
        require_hidden_layers(hidden_sizes, dropouts)
        super().__init__(
            num_inputs,
            num_outputs,
            hidden_sizes,
            sigma=sigma,
            dropouts=dropouts,
            lr=lr,
            weight_decay=weight_decay,
        )


@torch.no_grad()
def probabilities_under_dropout(model: Classifier, X: Tensor, num_masks: int) -> Tensor:
    """Return what a model says under many dropout masks: their mean says what, their spread how surely.

    All masks go through the model as one batch.

    Args:
        model: A classifier with dropout.
        X: Images, shape ``(B, ...)``.
        num_masks: Number of masks, S.

    Returns:
        Probabilities, shape ``(S, B, q)``.

    Raises:
        InputError: If the number of masks is not positive.

    Source: Section 4.6.3, on dropout at test time.
    """
    require_positive(num_masks=num_masks)
    was_training = model.training
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):  # these images are not to be learned from
            module.eval()
    try:
        logits = model(X.repeat(num_masks, *[1] * (X.ndim - 1)))
    finally:
        model.train(was_training)
    return softmax(logits).unflatten(0, (num_masks, len(X)))
