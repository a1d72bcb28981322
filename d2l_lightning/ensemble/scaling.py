"""Scaled gradients of K members in half precision: a scale for each, so that none skips another's step."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from d2l_lightning.optim.sgd import SGD
from d2l_lightning.optim.stacked import StackedOptimizer


class _Scaled(torch.autograd.Function):
    """Losses as they are, whose gradients are multiplied."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor, scale: Tensor) -> Tensor:
        """Return the losses, shape ``(K,)``."""
        ctx.scale = scale
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        """Return the scaled gradients."""
        return outputs[0] * ctx.scale, None


class StackedScaler(torch.amp.GradScaler):
    """A ``GradScaler`` for K members that are trained side by side, with a scale for each.

    A member whose gradients are not finite skips its step and halves its scale, and the others take theirs.
    ``scale_losses`` scales the losses of the members. ``scale`` changes nothing.

    Args:
        alone: The scaler of a single model, whose settings each member's has.
        num_members: K.
        device: The device of the members.

    Attributes:
        scales: The scale of each member, shape ``(K,)``.
        active: Whether each member takes part in the step; None if all do.
    """

    def __init__(self, alone: torch.amp.GradScaler, num_members: int, device: torch.device) -> None:
        growth, backoff = alone.get_growth_factor(), alone.get_backoff_factor()
        start = alone.get_scale()
        super().__init__(device.type, start, growth, backoff, alone.get_growth_interval())
        self.scales = torch.full((num_members,), start, device=device)
        self.active: Sequence[bool] | None = None
        self._steps = torch.zeros(num_members, dtype=torch.int32, device=device)  # since the scale changed
        self._infinite: Tensor | None = None

    def scale(self, outputs: Any) -> Any:
        """Return the outputs."""
        return outputs

    def scale_losses(self, losses: Tensor) -> Tensor:
        """Return the members' losses, shape ``(K,)``, whose gradients are multiplied by the scales."""
        return _Scaled.apply(losses, self.scales)

    @torch.no_grad()
    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of each member by its scale, and see which are finite."""
        inverse = self.scales.reciprocal()
        infinite = torch.zeros_like(self.scales, dtype=torch.bool)
        for gradient in _gradients(optimizer):
            gradient.mul_(inverse.view(-1, *[1] * (gradient.ndim - 1)).to(gradient.dtype))
            infinite |= ~gradient.isfinite().reshape(len(gradient), -1).all(dim=1)
        self._infinite = infinite

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """Take the step of the members whose gradients are finite."""
        if self._infinite is None:
            self.unscale_(optimizer)
        assert self._infinite is not None
        infinite = self._infinite.tolist()
        if not any(infinite):
            return optimizer.step(*args, **kwargs)
        if isinstance(optimizer, StackedOptimizer):
            before = optimizer.active
            active = before or [True] * len(infinite)
            optimizer.active = [on and not wrong for on, wrong in zip(active, infinite, strict=True)]
            try:
                return optimizer.step(*args, **kwargs)
            finally:
                optimizer.active = before
        if type(optimizer) is SGD:
            for gradient in _gradients(optimizer):
                gradient[self._infinite] = 0
            return optimizer.step(*args, **kwargs)
        return None  # an optimizer that cannot leave out members

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Halve the scale of members that skipped a step, and double it after many steps without one."""
        assert self._infinite is not None
        grown = self.scales * self.get_growth_factor()
        due = (self._steps + 1 >= self.get_growth_interval()) & ~self._infinite
        steps = torch.where(self._infinite | due, 0, self._steps + 1)
        scales = torch.where(due & grown.isfinite(), grown, self.scales)
        scales = torch.where(self._infinite, self.scales * self.get_backoff_factor(), scales)
        if self.active is not None:
            active = torch.tensor(self.active, device=scales.device)
            scales, steps = scales.where(active, self.scales), steps.where(active, self._steps)
        self.scales, self._steps, self._infinite = scales, steps, None

    def keep(self, indices: Sequence[int]) -> None:
        """Drop the scales of all members but these."""
        self.scales, self._steps = self.scales[list(indices)], self._steps[list(indices)]

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as plain values."""
        own = {"scale": self.scales.tolist(), "_growth_tracker": self._steps.tolist()}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.scales = self.scales.new_tensor(state_dict["scale"])
        self._steps = self._steps.new_tensor(state_dict["_growth_tracker"])
        first = {"scale": state_dict["scale"][0], "_growth_tracker": state_dict["_growth_tracker"][0]}
        super().load_state_dict({**state_dict, **first})


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
