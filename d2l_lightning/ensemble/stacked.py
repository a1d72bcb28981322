"""K members of one architecture as one module, every parameter stacked along a leading dimension."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from d2l_lightning.errors import InputError
from d2l_lightning.module import SupervisedModule

# An element's step in these depends on other elements of its parameter.
_MIXING = (torch.optim.LBFGS, torch.optim.Adafactor, torch.optim.Muon)


class StackedModule(SupervisedModule):
    """Trains K members as each would train alone, all in the same step.

    The losses are summed, so that no member touches another's gradient, gradients are clipped for each
    member on its own, and the optimizer, the one that a member configures, acts elementwise.

    Batches are those of ``StackedData``. Every metric is logged for each member, as
    ``<stage>/<metric>/<name>``, and as the members' mean, ``<stage>/<metric>``.

    Args:
        members: Modules of one class with the same hyperparameters, but for the class's ``buffer_hparams``,
            which differ in their weights and buffers.
        names: What to call them; ``member_1`` and so on if not given.

    Raises:
        InputError: If there are no members, they differ in more than weights and buffers, a parameter is
            frozen in some of them alone, names do not go with them, or their optimizer mixes the elements of
            a parameter.
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
            raise InputError(f"names must differ, or one member's metrics would hide another's: {self.names}")
        self.num_members = len(self.names)
        self.member_hparams = [dict(member.hparams) for member in members]
        # A member whose parameters carry the leading dimension: what it configures, it configures for all.
        self.stacked = copy.deepcopy(members[0])
        # Where each of its parameters and buffers is kept: the owner's dictionary and the key in it.
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
        """Call a method of every member, its arguments stacked where ``in_dims`` says so."""
        stacked = [owner[name] for owner, name in self._slots]
        call = getattr(self.stacked, method)

        def of_member(*state_and_args: Any) -> Any:
            for (owner, name), value in zip(self._slots, state_and_args, strict=False):
                owner[name] = value
            return call(*state_and_args[len(self._slots) :])

        # torch.func.functional_call puts state in place likewise; on a small model it costs twice as much.
        try:
            in_dims = (0,) * len(stacked) + in_dims
            return torch.vmap(of_member, in_dims, randomness="different")(*stacked, *args)
        finally:
            for (owner, name), value in zip(self._slots, stacked, strict=True):
                owner[name] = value

    def forward(self, X: Tensor) -> Tensor:
        """Return every member's predictions, ``(K, B)``, for shared features of shape ``(B, ...)``."""
        return self._each("forward", (None,), X)

    def loss(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the members' losses, ``(K,)``."""
        return self._each("loss", (0, 0, None if weight is None else 0), X, y, weight)

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each member's examples, ``(K, B)``; examples of shape ``(B,)`` are shared."""
        dim = 0 if y.ndim > 1 else None
        return self._each("example_losses", (dim, dim), X, y)

    def example_metrics(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return what is averaged over each member's examples, ``(K, B)``; ``(B,)`` ones are shared."""
        dim = 0 if y.ndim > 1 else None
        return self._each("example_metrics", (dim, dim), X, y)

    def epoch_metrics(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the members' metrics, ``(K,)``."""
        return self.stacked.epoch_metrics(means)

    def name_of(self, index: int) -> str:
        """Return the name of a member."""
        return self.names[index]

    def log_metrics(self, metrics: dict[str, Tensor]) -> None:
        """Log an epoch's metrics of every member, and their mean."""
        row: dict[str, float] = {"epoch": self.current_epoch}
        for metric, values in metrics.items():
            name = self.log_prefix + metric
            row[name] = values.mean().item()
            row.update({f"{name}/{member}": v for member, v in zip(self.names, values.tolist(), strict=True)})
            # A name that passes through `log` costs 0.3 ms an epoch: only what one would monitor does.
            if not metric.startswith("train/"):
                self.log(name, row[name], logger=False)
        if not self.trainer.sanity_checking:
            for logger in self.loggers:
                logger.log_metrics(row, step=self.global_step)

    def configure_optimizers(self) -> Any:
        """Return what a member configures, over the stacked parameters."""
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
        """Clip each member's gradient on its own, by its norm over all its parameters, or by value."""
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
        """Return the members, each a module of its own with the weights it has now."""
        state = self.stacked.state_dict()
        members = []
        arguments = inspect.signature(type(self.stacked)).parameters  # hparams hold those of base classes too
        for k, hparams in enumerate(self.member_hparams):
            member = type(self.stacked)(**{name: hparams[name] for name in arguments if name in hparams})
            member.load_state_dict({name: value[k] for name, value in state.items()})
            for name, parameter in self.stacked.named_parameters():
                member.get_parameter(name).requires_grad_(parameter.requires_grad)
            members.append(member)
        return members


def _optimizers(configured: Any) -> list[Optimizer]:
    """Return the optimizers of what ``configure_optimizers`` returns, in whichever form."""
    if isinstance(configured, Optimizer):
        return [configured]
    if isinstance(configured, Mapping):
        configured = list(configured.values())
    if isinstance(configured, (list, tuple)):
        return [optimizer for part in configured for optimizer in _optimizers(part)]
    return []


def _common(member: SupervisedModule) -> dict[str, Any]:
    """Return the hyperparameters that all members must share."""
    return {name: value for name, value in member.hparams.items() if name not in member.buffer_hparams}
