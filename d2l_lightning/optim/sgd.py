"""Optimizers written from scratch."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from d2l_lightning.errors import require_not_negative, require_positive
from d2l_lightning.functional.linear import sgd_update
from d2l_lightning.functional.penalties import soft_threshold


class SGD(Optimizer):
    """Minibatch stochastic gradient descent on parameters, or on groups of them with settings of their own.

    Raises:
        InputError: If the learning rate is not positive.

    Source: Section 3.4.3, eq. 3.1.10.
    """

    def __init__(self, params: Iterable[Any], lr: float) -> None:
        require_positive(lr=lr)
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; return the value of the closure, if given."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.copy_(self.updated(parameter, group))
        return loss

    def updated(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Return a parameter's values after the step."""
        return sgd_update(parameter, parameter.grad, group["lr"])  # type: ignore[arg-type]


class ProximalSGD(SGD):
    """Stochastic gradient descent on a loss plus ``l1`` times the l1 penalty.

    Each step follows the gradient of the loss, then takes the proximal step of the penalty. That sets weights
    to exactly 0; with a subgradient of the penalty they would oscillate around 0. The ``l1`` of a group of
    parameters is a number, or a tensor that broadcasts to them; without one, the group has no penalty.

    Raises:
        InputError: If the learning rate is not positive or an ``l1`` is negative.

    Source: Section 3.7.6, exercise 3; Parikh and Boyd, "Proximal Algorithms" (2014), Section 4.2.
    """

    def __init__(self, params: Iterable[Any], lr: float) -> None:
        super().__init__(params, lr)
        for group in self.param_groups:
            require_not_negative(l1=torch.as_tensor(group.get("l1", 0.0)).min().item())

    def updated(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Return a parameter's values after the step."""
        l1 = group.get("l1", 0.0)
        if isinstance(l1, Tensor):  # loading a checkpoint moves it to the CPU
            l1 = group["l1"] = l1.to(parameter.device)
        return soft_threshold(super().updated(parameter, group), group["lr"] * l1)
