"""AdamW with an l1 penalty by proximal steps, for one model and for K models side by side."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from d2l_lightning.errors import require_not_negative
from d2l_lightning.functional.penalties import soft_threshold_
from d2l_lightning.optim.stacked import StackedAdamW, _Call


class ProximalAdamW(torch.optim.AdamW):
    """AdamW, each step of which ends with the proximal step of an l1 penalty.

    The proximal step moves each weight to 0 by ``lr * l1``, with the current learning rate, and sets smaller
    weights to exactly 0. The ``l1`` of a group of parameters is a number; without one, the group has no
    penalty. The arguments are those of ``torch.optim.AdamW``.

    Raises:
        InputError: If an ``l1`` is negative.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019), applied to the l1 penalty;
    Parikh and Boyd, "Proximal Algorithms" (2014), Section 4.2.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        # A fused kernel would find out by itself that it takes no step, and the proximal step would not.
        self._step_supports_amp_scaling = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters."""
        require_not_negative(l1=param_group.get("l1", 0.0))
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; return the value of the closure, if given."""
        loss = super().step(closure)
        for group in self.param_groups:
            _shrink([p for p in group["params"] if p.grad is not None], group)
        return loss


class StackedProximalAdamW(StackedAdamW):
    """Proximal AdamW for K members, see ``StackedOptimizer``; members may differ in ``l1`` too."""

    def _update(self, group: dict[str, Any], call: _Call, gradients: list[Tensor], started: bool) -> None:
        super()._update(group, call, gradients, started)
        _shrink(call.params, group)


@torch.no_grad()
def _shrink(parameters: list[Tensor], group: dict[str, Any]) -> None:
    """Take the proximal step of the parameters of a group."""
    if threshold := float(group["lr"] * group.get("l1", 0.0)):
        for parameter in parameters:
            soft_threshold_(parameter, threshold)
