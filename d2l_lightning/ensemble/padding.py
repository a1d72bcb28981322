"""The rows of weight 0 that fill the batches of members: they must not count."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from d2l_lightning.ensemble.vectorized import Vectorized
from d2l_lightning.errors import InputError
from d2l_lightning.functional.precision import without_autocast


def _is_full(weight: Tensor) -> bool:
    """Return whether no weight of a batch is 0."""
    if not hasattr(weight, "row_counts"):
        return bool(weight.all())
    counts: list[int] | None = weight.row_counts
    return counts is not None and min(counts) == weight.shape[-1]


def _rows(weight: Tensor) -> list[Any]:
    """Return an index of each member's rows that have a weight; None for a member that has none."""
    counts: list[int] | None = getattr(weight, "row_counts", None)
    if counts is None:
        return [kept if kept.any() else None for kept in weight != 0]
    return [slice(count) if count else None for count in counts]


class Padding:
    """Sees to it that rows of weight 0 do not count where a layer mixes the rows of a batch.

    Args:
        members: The module whose losses are computed.
    """

    def __init__(self, members: Vectorized) -> None:
        self.members = members
        self._norms = [module for module in members.module.modules() if isinstance(module, _NormBase)]
        self._rows_are_separate = False  # whether it is known

    @staticmethod
    def note(weights: Tensor, device: torch.device) -> list[Tensor]:
        """Return the weights of each step on a device, and note where they are 0.

        The attribute ``row_counts`` of a step's weights has the number of each member's rows that have a
        weight. It is None if rows without one stand before them.

        Args:
            weights: The weights, shape ``(steps, K, B)``, on the CPU.
            device: The device.
        """
        filled = weights != 0
        counts = filled.sum(dim=-1)
        first = torch.arange(weights.shape[-1]) < counts.unsqueeze(-1)
        in_front = (filled == first).flatten(1).all(dim=1)
        steps: list[Any] = [*weights.to(device).unbind()]
        for weight, own, front in zip(steps, counts.tolist(), in_front.tolist(), strict=True):
            weight.row_counts = own if front else None
        return steps

    def is_mixed(self, weight: Tensor) -> bool:
        """Return whether a layer of PyTorch's computes statistics over the rows, and some are padding."""
        if not self._norms:
            return False
        norms = [norm for norm in self._norms if norm.training]
        mixing = [norm for norm in norms if norm.track_running_stats or isinstance(norm, _BatchNorm)]
        # Without a momentum, the layer calls item(), which vmap does not allow.
        return bool(mixing) and (any(norm.momentum is None for norm in mixing) or not _is_full(weight))

    def losses_without(self, X: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Return the loss of each member, shape ``(K,)``, over its rows that have a weight."""
        stacked = self.members.state
        losses: list[Tensor] = []
        try:
            for k, kept in enumerate(_rows(weight)):
                if kept is None:  # the member is idle
                    losses.append(torch.zeros_like(losses[0] if losses else weight[k, 0]))
                    continue
                own = (X[k][kept], y[k][kept], weight[k][kept])
                # The slices are views, so that members update the stacked statistics.
                losses.append(self.members.call("training_loss", [value[k] for value in stacked], *own))
        finally:
            self.members.put(stacked)
        if not any(loss.requires_grad for loss in losses):  # all are idle, and backpropagation needs a graph
            losses[0] = losses[0] + sum(x.flatten()[:0].sum() for x in stacked if x.requires_grad)
        return torch.stack(losses)

    @torch.no_grad()
    def require_separate_rows(self, X: Tensor, y: Tensor, weight: Tensor) -> None:
        """Raise an InputError if the loss of a member depends on the rows that only fill its batch."""
        padding = (weight == 0).view(*weight.shape, *[1] * (X.ndim - weight.ndim))
        others = X.roll(1, dims=1)
        if X.is_floating_point():
            others = others * 1000  # so that they matter, however small the weights are
        buffers = [buffer.clone() for buffer in self.members.module.buffers()]
        losses = []
        for features in (X, torch.where(padding, others, X)):
            # Half precision would round, or not hold, the larger features.
            # The same random numbers twice, and none of those of the fit.
            with without_autocast(X), torch.random.fork_rng([X.device] if X.is_cuda else []):
                losses.append(self.members.each("training_loss", (0, 0, 0), features, y, weight))
            for buffer, value in zip(self.members.module.buffers(), buffers, strict=True):
                buffer.copy_(value)
        # A member that diverges has losses that say nothing, and an error of its own.
        finite = losses[0].isfinite() & losses[1].isfinite()
        if not torch.allclose(losses[0][finite], losses[1][finite], rtol=1e-4, atol=1e-6):
            raise InputError(
                "a layer of the members mixes the rows of a batch, and some batches are filled up with rows "
                "of weight 0; choose a batch_size that divides the number of rows of every member"
            )
        self._rows_are_separate = True

    def check(self, X: Tensor, y: Tensor, weight: Tensor | None) -> None:
        """Check a batch with padding in training, once; errors as in ``require_separate_rows``."""
        known = self._rows_are_separate or not self.members.module.training
        if weight is not None and not known and not _is_full(weight):
            self.require_separate_rows(X, y, weight)
