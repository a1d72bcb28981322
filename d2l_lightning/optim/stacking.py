"""The optimizers of K members as one optimizer."""

from collections.abc import Container, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from d2l_lightning.errors import InputError
from d2l_lightning.optim.lars import LARS, StackedLARS
from d2l_lightning.optim.proximal import ProximalAdamW, StackedProximalAdamW
from d2l_lightning.optim.stacked import StackedAdam, StackedAdamW, StackedOptimizer, StackedSGD

_STACKED: dict[type[Optimizer], type[StackedOptimizer]] = {
    torch.optim.Adam: StackedAdam,
    torch.optim.AdamW: StackedAdamW,
    ProximalAdamW: StackedProximalAdamW,
    torch.optim.SGD: StackedSGD,
    LARS: StackedLARS,
}

# The settings that the kernels take for each group.
_OWN = ("lr", "weight_decay", "l1", "betas", "eps", "momentum")


def stacked_optimizer(members: Sequence[Optimizer], apart: Sequence[Any] | None = None) -> Optimizer:
    """Return the optimizers of K members as one.

    Adam, AdamW and SGD of ``torch.optim``, ``ProximalAdamW`` and ``LARS`` become a ``StackedOptimizer``. With
    another optimizer, members must have the same settings; then that of the first is returned.

    Args:
        members: The optimizer of each member, over the same parameters, which are stacked along dimension 0.
        apart: A value for each member. Members with different values have groups of their own.

    Raises:
        InputError: If the members differ in their optimizer's class, parameters, or a setting other than
            ``lr``, ``weight_decay``, ``l1``, ``betas``, ``eps`` and ``momentum``, or in these with another
            optimizer; or if a momentum is 0 for some members only.
    """
    first, name = members[0], type(members[0]).__name__
    kind = None if first.defaults.get("differentiable") else _STACKED.get(type(first))
    for member in members:
        if type(member) is not type(first):
            raise InputError(
                f"members must have one kind of optimizer, not {name} and {type(member).__name__}"
            )
        if _parameters(member) != _parameters(first):
            raise InputError(f"the {name} of every member must have the same groups of the same parameters")
        # A scheduler adds settings that follow from those of the optimizer. And l1 is no default.
        for setting in _differing(first, member, first.defaults if kind else None):
            if setting not in _OWN:
                raise InputError(
                    f"members may differ in {', '.join(_OWN[:-1])} and {_OWN[-1]}, "
                    f"not in the {setting} of {name}"
                )
            if setting == "momentum" and _without_momentum(first) != _without_momentum(member):
                raise InputError("members with and without momentum cannot train side by side")
            if kind is None:
                which = "Adam, AdamW and SGD of torch.optim"
                raise InputError(f"members may differ in {setting} with {which}, not with this {name}")
    return first if kind is None else kind(members, apart)


def _parameters(optimizer: Optimizer) -> list[list[int]]:
    """Return the identities of the parameters of each group."""
    return [[id(parameter) for parameter in group["params"]] for group in optimizer.param_groups]


def _without_momentum(optimizer: Optimizer) -> list[bool]:
    return [group["momentum"] == 0 for group in optimizer.param_groups]


def _differing(first: Optimizer, member: Optimizer, names: Container[str] | None) -> Iterator[str]:
    """Yield the settings with these names, or with any name, that differ in a group."""
    for ours, theirs in zip(first.param_groups, member.param_groups, strict=True):
        for name in ours.keys() - {"params"}:
            if (names is None or name in names) and not _same(ours[name], theirs.get(name)):
                yield name


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else bool(a == b)
