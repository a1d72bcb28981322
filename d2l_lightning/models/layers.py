"""What perceptrons are made of: hidden layers, activations and initial weights by name."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn

from d2l_lightning.errors import InputError, require_known
from d2l_lightning.functional.dropout import require_probability

Activation = Literal["relu", "prelu", "gelu", "silu", "tanh", "sigmoid", "identity"]
Initialization = Literal["default", "normal", "xavier_uniform", "xavier_normal", "kaiming"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "prelu": nn.PReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,  # with which all layers together are a linear one (Section 4.1.1)
}


def make_activation(name: Activation) -> nn.Module:
    """Return a new activation.

    Raises:
        InputError: If there is none of that name.
    """
    require_known("activation", name, Activation)
    return _ACTIVATIONS[name]()


def initialize(layer: nn.Linear, initialization: Initialization, sigma: float = 0.01) -> None:
    """Give a layer its initial weights, and a bias of 0; ``default`` leaves it as the framework made it.

    Args:
        layer: The layer.
        initialization: ``normal`` with standard deviation ``sigma``; ``xavier_uniform`` or ``xavier_normal``
            (Section 4.8.2, eqs. 4.8.5 and 4.8.6); ``kaiming``, normal with variance 2 / inputs; ``default``.
        sigma: Of ``normal``.

    Raises:
        InputError: If the name is unknown.
    """
    require_known("initialization", initialization, Initialization)
    match initialization:
        case "default":
            return
        case "normal":
            nn.init.normal_(layer.weight, std=sigma)
        case "xavier_uniform":
            nn.init.xavier_uniform_(layer.weight)
        case "xavier_normal":
            nn.init.xavier_normal_(layer.weight)
        case "kaiming":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)


def require_hidden_layers(hidden_sizes: Sequence[int], dropouts: Sequence[float]) -> None:
    """Raise an InputError unless there is a hidden layer, and a dropout probability for each."""
    if not hidden_sizes or min(hidden_sizes) < 1:
        raise InputError(f"hidden_sizes must name at least one positive width, not {list(hidden_sizes)}")
    if len(dropouts) != len(hidden_sizes):
        raise InputError(f"dropouts must be as many as hidden_sizes: {list(dropouts)}, {list(hidden_sizes)}")
    for dropout in dropouts:
        require_probability(dropouts=dropout)
