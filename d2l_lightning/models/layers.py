"""Parts of perceptrons: activations and initial weights by name, and variances of hidden layers."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (its usual name)

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
    "identity": nn.Identity,  # makes all layers together a linear one (Section 4.1.1)
}
_OURS = tuple(_ACTIVATIONS)


class NTKLinear(nn.Linear):
    """A linear layer in the NTK parametrisation: ``X @ W.T / sqrt(d) + b`` for d inputs.

    Weights and biases are drawn from N(0, 1). So a step of Adam, whose size is the learning rate, changes the
    output of a wide layer as much as that of a narrow one.

    Source: Jacot, Gabriel and Hongler, "Neural Tangent Kernel" (2018), Section 2.
    """

    def reset_parameters(self) -> None:
        """Draw weights and biases."""
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.normal_(self.bias)

    def forward(self, X: Tensor) -> Tensor:
        """Return outputs of shape ``(B, q)`` for inputs of shape ``(B, d)``."""
        # There are fewer inputs in a batch than weights.
        return F.linear(X / math.sqrt(self.in_features), self.weight, self.bias)


class Dropout(nn.Module):
    """Dropout as ``nn.Dropout``, with its probability in a buffer: members side by side may differ in it.

    The buffer is not in a ``state_dict``.

    Args:
        p: Probability, in [0, 1), of dropping a unit in training.
    """

    p: Tensor

    def __init__(self, p: float) -> None:
        super().__init__()
        self.register_buffer("p", torch.tensor(p), persistent=False)

    def forward(self, X: Tensor) -> Tensor:
        """Return 0 with probability p, else ``X / (1 - p)``, elementwise; X in evaluation."""
        if not self.training:
            return X
        # A number minus p is rounded up to 0 or 1. Truth values would take five times as long.
        # Of numbers in half precision, which are few, another share than p is below p.
        numbers = torch.rand_like(X, dtype=torch.promote_types(X.dtype, torch.float32))
        return X * numbers.sub_(self.p).ceil_().mul_((1 - self.p).reciprocal()).to(X.dtype)


def add_activation(name: str, make: Callable[[], nn.Module]) -> None:
    """Make an activation known by a name, as in ``add_activation("softplus", nn.Softplus)``.

    Models, flags and checkpoints take the name from then on. A program that loads a checkpoint with the name
    adds the activation first.

    Args:
        name: The name.
        make: The class, or a function that returns a new module. Each layer has a module of its own.

    Raises:
        InputError: If the name is that of an activation of this package, or ``make`` makes no module.
    """
    if not isinstance(name, str) or not name or name in _OURS:
        raise InputError(
            f"the name of an activation must be a text other than {', '.join(_OURS)}, not {name!r}"
        )
    try:
        made = None if isinstance(make, nn.Module) else make()
    except TypeError:  # a function of a tensor
        made = None
    if not isinstance(made, nn.Module):
        what = "a class or function without arguments that makes a module, such as nn.Softplus"
        raise InputError(f"the activation {name} needs {what}, not {make!r}")
    _ACTIVATIONS[name] = make
    Activation.__args__ = tuple(_ACTIVATIONS)  # type: ignore[attr-defined] # flags have this type


def require_activation(name: Any) -> None:
    """Raise an InputError unless a name is that of an activation."""
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        own = 'add_activation("softplus", nn.Softplus) makes another one known by a name'
        raise InputError(f"activation must be one of {', '.join(_ACTIVATIONS)}, not {name!r}; {own}")


def make_activation(name: Activation) -> nn.Module:
    """Return a new activation; raise an InputError if the name is unknown."""
    require_activation(name)
    return _ACTIVATIONS[name]()


def initialize(layer: nn.Linear, initialization: Initialization, sigma: float = 0.01) -> None:
    """Set the initial weights of a layer, and its bias to 0; raise an InputError if the name is unknown.

    ``normal`` has the standard deviation ``sigma``. ``xavier_uniform`` and ``xavier_normal`` are those of
    Section 4.8.2 (eqs. 4.8.6 and 4.8.5), ``kaiming`` is normal with variance 2 / inputs. ``default`` leaves
    the layer unchanged.
    """
    require_known("initialization", initialization, Initialization)
    if initialization == "default":
        return
    if initialization == "normal":
        nn.init.normal_(layer.weight, std=sigma)
    elif initialization == "kaiming":
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    else:
        xavier = {"xavier_uniform": nn.init.xavier_uniform_, "xavier_normal": nn.init.xavier_normal_}
        xavier[initialization](layer.weight)
    nn.init.zeros_(layer.bias)


def require_hidden_layers(hidden_sizes: Sequence[int], dropouts: Sequence[float]) -> None:
    """Raise an InputError unless there is a hidden layer, and a dropout probability for each one."""
    if not hidden_sizes or min(hidden_sizes) < 1:
        raise InputError(f"hidden_sizes must name at least one positive width, not {list(hidden_sizes)}")
    if len(dropouts) != len(hidden_sizes):
        raise InputError(f"dropouts must be as many as hidden_sizes: {list(dropouts)}, {list(hidden_sizes)}")
    for dropout in dropouts:
        require_probability(dropouts=dropout)


def layer_variances(net: nn.Sequential, X: Tensor, y: Tensor) -> dict[str, list[float]]:
    """Return ``activation_variance`` and ``gradient_variance`` of the hidden layers, from first to last.

    Variances are taken over examples and units, in double precision, because deep networks soon leave the
    range of single precision. The images are standardised, as eq. 4.8.4 assumes. The gradients are those of
    each example's cross-entropy with respect to the activations. Source: Section 4.8.2.

    Args:
        net: Linear layers, each but the last followed by an activation; it is converted to double precision.
        X: Images, shape ``(B, ...)``.
        y: Their classes, shape ``(B,)``.
    """
    H = X.double().flatten(1)
    H = (H - H.mean()) / H.std()
    hidden = []
    *layers, last = list(net.double())
    for layer in layers:
        H = layer(H)
        if not isinstance(layer, nn.Linear):
            H.retain_grad()
            hidden.append(H)
    F.cross_entropy(last(H), y, reduction="sum").backward()
    return {
        "activation_variance": [h.detach().var().item() for h in hidden],
        "gradient_variance": [cast(Tensor, h.grad).var().item() for h in hidden],
    }
