"""LARS: stochastic gradient descent with a learning rate of its own for each layer."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from d2l_lightning.errors import require_not_negative, require_positive
from d2l_lightning.optim.stacked import StackedSGD


class LARS(torch.optim.SGD):
    """Layer-wise adaptive rate scaling: the rate of a layer follows from the sizes of weights and gradient.

    With the weights w and the gradient g of a layer, a step is::

        rate = eta * ||w|| / (||g|| + weight_decay * ||w||)
        v = momentum * v + rate * (g + weight_decay * w)
        w = w - lr * v

    So without momentum a step changes each layer by ``lr * eta`` of its size at most, whatever the size of
    its gradient. The rate is 1 where w or g is 0. ``step`` replaces the gradients by what is added to v.

    Args:
        params: Groups of parameters, see ``layer_groups``. Each group is a layer, with one rate for all of
            its parameters.
        lr: The learning rate of all layers.
        momentum: The share of the last change that a step repeats.
        weight_decay: The L2 penalty.
        eta: The trust coefficient.

    Raises:
        InputError: If a setting is out of its range.

    Source: You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks" (2017), algorithm 1;
    Section 4.8.4, exercise 4.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.001,
    ) -> None:
        require_positive(lr=lr, eta=eta)
        require_not_negative(momentum=momentum, weight_decay=weight_decay)
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
        # As the group's ``weight_decay``, SGD would add the penalty a second time.
        self.defaults.update(eta=eta, l2=weight_decay, weight_decay=0)
        for group in self.param_groups:
            group.update(eta=group.get("eta", eta), l2=group.get("l2", group["weight_decay"]), weight_decay=0)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; return the value of the closure, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            scale_gradients(group)
        super().step()
        return loss


class StackedLARS(StackedSGD):
    """LARS for K members, see ``StackedOptimizer``; each member has its own rates."""

    def update(self) -> None:
        """Update the active members' parameters that have a gradient, without hooks of ``step``."""
        for group in self.param_groups:
            scale_gradients(group, self.num_members)
        super().update()


@torch.no_grad()
def scale_gradients(group: dict[str, Any], num_members: int | None = None) -> None:
    """Add the penalty to the gradients of a layer, and multiply them by the layer's rate.

    With K members, the parameters have the members as their first dimension, and each member has a rate.
    """
    layer = [parameter for parameter in group["params"] if parameter.grad is not None]
    if not layer:
        return
    size, slope = norm(layer, num_members), norm([p.grad for p in layer], num_members)
    total = slope + group["l2"] * size
    rate = torch.where((size > 0) & (slope > 0), group["eta"] * size / total, 1.0)
    for parameter in layer:
        of_members = rate.view(-1, *[1] * (parameter.ndim - 1)) if rate.ndim else rate
        parameter.grad.add_(parameter, alpha=group["l2"]).mul_(of_members)


def norm(tensors: Sequence[Tensor], num_members: int | None = None) -> Tensor:
    """Return the norm of tensors as one vector, a scalar; that of each of K members, shape ``(K,)``."""
    if num_members is None:
        return torch.stack([values.norm() for values in tensors]).norm()
    return torch.stack([values.reshape(num_members, -1).norm(dim=1) for values in tensors]).norm(dim=0)


def layers_of(module: nn.Module) -> list[list[nn.Parameter]]:
    """Return the trained parameters of each layer: of each module inside a module that has its own."""
    own = [[p for p in each.parameters(recurse=False) if p.requires_grad] for each in module.modules()]
    return [parameters for parameters in own if parameters]


def layer_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Return the parameters of a module as groups for ``LARS``, one for each layer."""
    return [{"params": parameters} for parameters in layers_of(module)]


def relative_gradients(module: nn.Module) -> list[float]:
    """Return for each layer of a module the norm of its gradient divided by the norm of its parameters."""
    return [
        (norm([p.grad for p in layer if p.grad is not None]) / norm(layer)).item()
        for layer in layers_of(module)
    ]
