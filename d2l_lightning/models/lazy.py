"""Networks that take the number of inputs from the first batch, as the book's lazy layers (Section 3.5.1)."""

from collections.abc import Callable
from typing import cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule

# Makes a network for a number of inputs.
Make = Callable[[int], nn.Module]


def make_net(model: SupervisedModule, make: Make, num_inputs: int | None) -> nn.Module:
    """Return a network of a model; if ``num_inputs`` is None, ``take_num_inputs`` completes it."""
    if num_inputs is not None:
        return make(num_inputs)
    with torch.random.fork_rng([]):  # the weights are drawn when their shapes are known
        net = make(1)
    vars(model)["_make_net"] = make
    if isinstance(net, nn.Linear):
        return _lazy(net)
    assert isinstance(net, nn.Sequential)
    net[0] = _lazy(cast(nn.Linear, net[0]))
    return net


def _lazy(layer: nn.Linear) -> nn.LazyLinear:
    return nn.LazyLinear(layer.out_features, layer.bias is not None)


@torch.no_grad()
def take_num_inputs(model: SupervisedModule, net: nn.Module, num_inputs: int) -> None:
    """Give a network of ``make_net`` its number of inputs, and its initial weights unless it has loaded some.

    The random numbers are those of a model that is made with the number at this time. The model's
    hyperparameter ``num_inputs`` becomes the number, so that a checkpoint can be loaded.

    Raises:
        InputError: If the loaded weights are for another number.
    """
    first = cast(nn.Linear, net if isinstance(net, nn.Linear) else cast(nn.Sequential, net)[0])
    if not is_lazy(first.weight):
        if first.weight.shape[1] != num_inputs:
            raise _other_number(num_inputs, first.weight.shape[1])
    else:
        made = vars(model)["_make_net"](num_inputs)
        for own, value in zip(net.parameters(), made.parameters(), strict=True):
            if is_lazy(own):
                own.materialize(value.shape)
            own.copy_(value)
    del vars(model)["_make_net"]
    first.in_features = num_inputs
    model.hparams["num_inputs"] = model._hparams_initial["num_inputs"] = num_inputs


def require_num_inputs(model: SupervisedModule, net: nn.Linear, num_inputs: int) -> None:
    """Raise an InputError unless a linear net has a number of inputs; give it to a net that has none yet."""
    if net.in_features == 0:
        take_num_inputs(model, net, num_inputs)
    elif net.in_features != num_inputs:
        raise _other_number(num_inputs, net.in_features)


def _other_number(found: int, num_inputs: int) -> InputError:
    return InputError(f"X has {found} features and num_inputs is {num_inputs}")
