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
    """Minibatch stochastic gradient descent.

    Args:
        params: The parameters, or groups of them with settings of their own.
        lr: The learning rate.

    Raises:
        InputError: If the learning rate is not positive.

    Source: Section 3.4.3, eq. 3.1.10.
    """

    def __init__(self, params: Iterable[Any], lr: float) -> None:
        require_positive(lr=lr)
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; return what the closure returns, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.copy_(self.updated(parameter, group))
        return loss

    def updated(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Return what the step makes of a parameter of a group."""
        return sgd_update(parameter, parameter.grad, group["lr"])  # type: ignore[arg-type]


class ProximalSGD(SGD):
    """Stochastic gradient descent on a loss plus ``l1`` times the l1 penalty, by the penalty's proximal step.

    The gradient is that of the loss alone. The proximal step sets weights to exactly 0, where the
    penalty's subgradient only makes them jump around it.

    Args:
        params: The parameters, or groups of them; a group without an ``l1`` is not penalised. It may be a
            tensor that broadcasts to the group's parameters.
        lr: The learning rate.

    Raises:
        InputError: If the learning rate is not positive or an ``l1`` is negative.

    Source: Section 3.7.6, exercise 3; Parikh and Boyd, "Proximal Algorithms" (2014), Section 4.2.
    """

    def __init__(self, params: Iterable[Any], lr: float) -> None:
        super().__init__(params, lr)
        for group in self.param_groups:
            require_not_negative(l1=torch.as_tensor(group.get("l1", 0.0)).min().item())

    def updated(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Return what the step makes of a parameter of a group."""
        l1 = group.get("l1", 0.0)
        if isinstance(l1, Tensor):  # of a checkpoint, it comes to the CPU
            l1 = l1.to(parameter.device)
        return soft_threshold(super().updated(parameter, group), group["lr"] * l1)
