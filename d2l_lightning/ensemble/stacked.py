"""K members of one architecture as one module, with every parameter stacked along a leading dimension."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.optim import Optimizer

from d2l_lightning.ensemble.alike import require_alike
from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule

# Optimizers whose step for an element depends on other elements of the parameter.
_MIXING = (torch.optim.LBFGS, torch.optim.Adafactor, torch.optim.Muon)


class StackedModule(SupervisedModule):
    """Trains K members in the same steps; each is trained as if it were alone.

    The loss is the sum of the members' losses, so that no member affects another's gradient. Gradients are
    clipped for each member separately. The optimizer is the members' own and works elementwise.

    Batches come from ``StackedData``. Every metric is logged for each member, as ``<stage>/<metric>/<name>``,
    and as the mean over the members, ``<stage>/<metric>``.

    Rows of weight 0, which pad a batch, do not count in a member's batch normalization either: batches with
    such rows are then computed member by member. Other layers that mix rows are an InputError in training.

    Args:
        members: Modules of one class with the same hyperparameters, except the class's ``buffer_hparams``.
            They may differ in weights and buffers.
        names: Their names; ``member_1`` and so on if not given.

    Raises:
        InputError: If there are no members, they differ in more than weights and buffers, a parameter is
            frozen in only some of them, a method of theirs would not be called, the names are not unique or
            not as many as the members, or the optimizer mixes the elements of a parameter.
    """

    _loss_ndim = 1

    def __init__(self, members: Sequence[SupervisedModule], names: Sequence[str] | None = None) -> None:
        super().__init__()
        if not members:
            raise InputError("there is no member to train")
        if names is not None and len(names) != len(members):
            raise InputError(f"{len(names)} names do not go with {len(members)} members")
        self.names = list(names) if names else [f"member_{k + 1}" for k in range(len(members))]
        if len(set(self.names)) < len(self.names):
            raise InputError(f"names must differ, because metrics are logged by name: {self.names}")
        self.num_members = len(self.names)
        require_alike(members, self.names)
        self.member_hparams = [dict(member.hparams) for member in members]
        # A member whose parameters have the leading dimension, so that its optimizer is that of all members.
        self.stacked = copy.deepcopy(members[0])
        self.stacked._metrics, self.stacked.evaluated, self.stacked._losses = {}, {}, []
        # For each of its parameters and buffers, the dictionary that holds it and its key.
        self._slots: list[tuple[dict[str, Any], str]] = []
        shared: dict[Tensor, Tensor] = {}  # a tensor that several modules share stays one
        for path, owner in self.stacked.named_modules():
            owners = [member.get_submodule(path) for member in members]
            for tensors in (owner._parameters, owner._buffers):
                for name, tensor in tensors.items():
                    if tensor is None:
                        continue
                    if tensor not in shared:
                        values = torch.stack([getattr(o, name).detach() for o in owners])
                        is_parameter = isinstance(tensor, nn.Parameter)
                        shared[tensor] = (
                            nn.Parameter(values, tensor.requires_grad) if is_parameter else values
                        )
                    tensors[name] = shared[tensor]
                    self._slots.append((tensors, name))
        self._rows_are_separate = False  # whether it is known, or the first epoch has passed
        self._norms = [module for module in self.stacked.modules() if isinstance(module, _NormBase)]

    def _each(self, method: str, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        """Call a method of every member; arguments whose ``in_dims`` is 0 have the leading dimension."""
        stacked = [owner[name] for owner, name in self._slots]

        def of_member(*state_and_args: Any) -> Any:
            return self._member(method, state_and_args[: len(stacked)], *state_and_args[len(stacked) :])

        # torch.func.functional_call does the same, but takes twice as long for a small model.
        try:
            in_dims = (0,) * len(stacked) + in_dims
            return torch.vmap(of_member, in_dims, randomness="different")(*stacked, *args)
        finally:
            self._put(stacked)

    def _put(self, state: Sequence[Tensor]) -> None:
        for (owner, name), value in zip(self._slots, state, strict=True):
            owner[name] = value

    def _member(self, method: str, state: Sequence[Tensor], *args: Any) -> Any:
        """Call a method of the member whose parameters and buffers are given."""
        self._put(state)
        result = getattr(self.stacked, method)(*args)
        for (owner, name), value in zip(self._slots, state, strict=True):
            if owner[name] is not value:  # it would be lost
                raise InputError(
                    f"{name} is replaced in {method}; change it in place, such as by {name}.copy_()"
                )
        return result

    def _one_by_one(self, weight: Tensor) -> bool:
        """Return whether a layer of PyTorch's computes statistics over the rows, and some are padding."""
        norms = [norm for norm in self._norms if norm.training]
        mixing = [norm for norm in norms if norm.track_running_stats or isinstance(norm, _BatchNorm)]
        # Without a momentum, the layer calls item(), which vmap does not allow.
        return bool(mixing) and (any(norm.momentum is None for norm in mixing) or not weight.all())

    def _losses_without_padding(self, X: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Return the loss of each member, shape ``(K,)``, over its rows that have a weight."""
        stacked = [owner[name] for owner, name in self._slots]
        losses = []
        try:
            for k, kept in enumerate(weight != 0):
                own = (X[k][kept], y[k][kept], weight[k][kept])
                # The slices are views, so that members update the stacked statistics.
                losses.append(self._member("loss", [value[k] for value in stacked], *own))
        finally:
            self._put(stacked)
        return torch.stack(losses)

    @torch.no_grad()
    def _require_separate_rows(self, X: Tensor, y: Tensor, weight: Tensor) -> None:
        """Raise an InputError if the loss of a member depends on the rows that only fill its batch."""
        padding = (weight == 0).view(*weight.shape, *[1] * (X.ndim - weight.ndim))
        others = X.roll(1, dims=1)
        if X.is_floating_point():
            others = others * 1000  # so that they matter, however small the weights are
        buffers = [buffer.clone() for buffer in self.stacked.buffers()]
        losses = []
        for features in (X, torch.where(padding, others, X)):
            with torch.random.fork_rng():  # the same random numbers twice, and none of those of the fit
                losses.append(self._each("loss", (0, 0, 0), features, y, weight))
            for buffer, value in zip(self.stacked.buffers(), buffers, strict=True):
                buffer.copy_(value)
        if not torch.allclose(losses[0], losses[1], rtol=1e-4, atol=1e-6, equal_nan=True):
            raise InputError(
                "a layer of the members mixes the rows of a batch, and some batches are filled up with rows "
                "of weight 0; choose a batch_size that divides the number of rows of every member"
            )
        self._rows_are_separate = True

    def forward(self, X: Tensor) -> Tensor:
        """Return the predictions of every member, shape ``(K, B)``, for features of shape ``(B, ...)``."""
        return self._each("forward", (None,), X)

    def loss(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss of each member, shape ``(K,)``."""
        if weight is not None and self._norms and self._one_by_one(weight):
            return self._losses_without_padding(X, y, weight)
        if weight is not None and self.training and not self._rows_are_separate and not weight.all():
            self._require_separate_rows(X, y, weight)
        return self._each("loss", (0, 0, None if weight is None else 0), X, y, weight)

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        """Return the losses of the members' examples, ``(K, B)``; members share a y of shape ``(B,)``."""
        dim = 0 if y.ndim > 1 else None
        return self._each("example_losses", (dim, dim), X, y)

    def example_metrics(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the metrics of the members' examples, ``(K, B)``; members share a y of shape ``(B,)``."""
        dim = 0 if y.ndim > 1 else None
        return self._each("example_metrics", (dim, dim), X, y)

    def _values(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        dim = 0 if y.ndim > 1 else None
        return self._each("_values", (dim, dim), X, y)

    def epoch_metrics(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the metrics of each member, shape ``(K,)``."""
        return self.stacked.epoch_metrics(means)

    def name_of(self, index: int) -> str:
        """Return the name of the member at ``index``."""
        return self.names[index]

    def log_metrics(self, metrics: dict[str, Tensor]) -> None:
        """Log the metrics of an epoch: of every member, and their mean."""
        row: dict[str, float] = {"epoch": self.current_epoch}
        for metric, values in metrics.items():
            name = self.log_prefix + metric
            row[name] = values.mean().item()
            row.update({f"{name}/{member}": v for member, v in zip(self.names, values.tolist(), strict=True)})
            # `log` takes 0.3 ms per name and epoch, so it gets only the metrics that a callback may monitor.
            if not metric.startswith("train/"):
                self.log(name, row[name], logger=False)
        if not self.trainer.sanity_checking:
            for logger in self.loggers:
                logger.log_metrics(row, step=self.global_step)

    def configure_optimizers(self) -> Any:
        """Return the members' optimizer for the stacked parameters."""
        configured = self.stacked.configure_optimizers()
        for optimizer in _optimizers(configured):
            if isinstance(optimizer, _MIXING):
                raise InputError(
                    f"{type(optimizer).__name__} mixes the elements of a parameter, so members would not "
                    "train as they do alone"
                )
        return configured

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient of each member separately, by value or by its own norm over all parameters."""
        if gradient_clip_val is None:
            return
        if gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norms = torch.stack([g.reshape(len(g), -1).norm(dim=1) for g in gradients]).norm(dim=0)
        factors = (gradient_clip_val / (norms + 1e-6)).clamp(max=1)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))

    def unstack(self) -> list[SupervisedModule]:
        """Return the members as modules of their own, with their present weights."""
        members = []
        for k, hparams in enumerate(self.member_hparams):
            memo: dict[int, Any] = {}  # what the copy has in place of each stacked tensor
            for owner, name in self._slots:
                stacked = owner[name]
                own = stacked.detach()[k].clone()
                is_parameter = isinstance(stacked, nn.Parameter)
                memo[id(stacked)] = nn.Parameter(own, stacked.requires_grad) if is_parameter else own
            member = copy.deepcopy(self.stacked, memo)
            member.hparams.update(copy.deepcopy(hparams))
            member._hparams_initial = copy.deepcopy(member.hparams)
            members.append(member)
        return members


def _optimizers(configured: Any) -> list[Optimizer]:
    """Return the optimizers in any of the forms that ``configure_optimizers`` may return."""
    if isinstance(configured, Optimizer):
        return [configured]
    if isinstance(configured, Mapping):
        configured = list(configured.values())
    if isinstance(configured, (list, tuple)):
        return [optimizer for part in configured for optimizer in _optimizers(part)]
    return []
