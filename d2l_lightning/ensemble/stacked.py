"""K members of one architecture as one module, with every parameter stacked along a leading dimension."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

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

    Args:
        members: Modules of one class with the same hyperparameters, except the class's ``buffer_hparams``.
            They may differ in weights and buffers.
        names: Their names; ``member_1`` and so on if not given.

    Raises:
        InputError: If there are no members, they differ in more than weights and buffers, a parameter is
            frozen in only some of them, the names are not unique or not as many as the members, or the
            optimizer mixes the elements of a parameter.
    """

    def __init__(self, members: Sequence[SupervisedModule], names: Sequence[str] | None = None) -> None:
        super().__init__()
        if not members:
            raise InputError("there is no member to train")
        if any(type(m) is not type(members[0]) or _common(m) != _common(members[0]) for m in members):
            raise InputError("stacked members must be of one class and have the same hyperparameters")
        if names is not None and len(names) != len(members):
            raise InputError(f"{len(names)} names do not go with {len(members)} members")
        self.names = list(names) if names else [f"member_{k + 1}" for k in range(len(members))]
        if len(set(self.names)) < len(self.names):
            raise InputError(f"names must differ, because metrics are logged by name: {self.names}")
        self.num_members = len(self.names)
        self.member_hparams = [dict(member.hparams) for member in members]
        # A member whose parameters have the leading dimension, so that its optimizer is that of all members.
        self.stacked = copy.deepcopy(members[0])
        # For each of its parameters and buffers, the dictionary that holds it and its key.
        self._slots: list[tuple[dict[str, Any], str]] = []
        for path, owner in self.stacked.named_modules():
            owners = [member.get_submodule(path) for member in members]
            for name, parameter in owner._parameters.items():
                if parameter is not None:
                    if any(getattr(o, name).requires_grad is not parameter.requires_grad for o in owners):
                        where = f"{path}.{name}" if path else name
                        raise InputError(f"{where} is frozen in some members and trained in others")
                    values = torch.stack([getattr(o, name).detach() for o in owners])
                    owner._parameters[name] = nn.Parameter(values, parameter.requires_grad)
                    self._slots.append((owner._parameters, name))
            for name, buffer in owner._buffers.items():
                if buffer is not None:
                    owner._buffers[name] = torch.stack([getattr(o, name) for o in owners])
                    self._slots.append((owner._buffers, name))

    def _each(self, method: str, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        """Call a method of every member; arguments whose ``in_dims`` is 0 have the leading dimension."""
        stacked = [owner[name] for owner, name in self._slots]
        call = getattr(self.stacked, method)

        def of_member(*state_and_args: Any) -> Any:
            for (owner, name), value in zip(self._slots, state_and_args, strict=False):
                owner[name] = value
            return call(*state_and_args[len(self._slots) :])

        # torch.func.functional_call does the same, but takes twice as long for a small model.
        try:
            in_dims = (0,) * len(stacked) + in_dims
            return torch.vmap(of_member, in_dims, randomness="different")(*stacked, *args)
        finally:
            for (owner, name), value in zip(self._slots, stacked, strict=True):
                owner[name] = value

    def forward(self, X: Tensor) -> Tensor:
        """Return the predictions of every member, shape ``(K, B)``, for features of shape ``(B, ...)``."""
        return self._each("forward", (None,), X)

    def loss(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss of each member, shape ``(K,)``."""
        return self._each("loss", (0, 0, None if weight is None else 0), X, y, weight)

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        """Return the losses of the members' examples, ``(K, B)``; members share a y of shape ``(B,)``."""
        dim = 0 if y.ndim > 1 else None
        return self._each("example_losses", (dim, dim), X, y)

    def example_metrics(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the metrics of the members' examples, ``(K, B)``; members share a y of shape ``(B,)``."""
        dim = 0 if y.ndim > 1 else None
        return self._each("example_metrics", (dim, dim), X, y)

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
        state = self.stacked.state_dict()
        members = []
        # The hyperparameters of base classes are in hparams too.
        arguments = inspect.signature(type(self.stacked)).parameters
        for k, hparams in enumerate(self.member_hparams):
            member = type(self.stacked)(**{name: hparams[name] for name in arguments if name in hparams})
            member.load_state_dict({name: value[k] for name, value in state.items()})
            for name, parameter in self.stacked.named_parameters():
                member.get_parameter(name).requires_grad_(parameter.requires_grad)
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


def _common(member: SupervisedModule) -> dict[str, Any]:
    """Return the hyperparameters that must be the same for all members."""
    return {name: value for name, value in member.hparams.items() if name not in member.buffer_hparams}
