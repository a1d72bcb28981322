"""Whether modules are of one structure, so that they can be trained side by side."""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule

# Methods that the training of a StackedModule does not call for its members.
_NOT_CALLED = (
    *("training_step", "accumulate_loss", "validation_step", "on_before_backward", "backward"),
    *("on_after_backward", "on_before_optimizer_step", "configure_gradient_clipping", "optimizer_step"),
    *("on_before_zero_grad", "optimizer_zero_grad", "lr_scheduler_step", "on_after_batch_transfer"),
)


class _Bare(SupervisedModule):
    """A module with nothing of its own."""

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        """Return what it gets."""
        return y


# The attributes that are no structure: the state of a fit, and what is compared separately.
STATE = vars(_Bare()).keys() - vars(nn.Module()).keys()
STATE |= {"_parameters", "_buffers", "_modules", "_hparams", "_hparams_initial", "log_prefix"}
STATE.add("_non_persistent_buffers_set")  # buffers themselves are compared


def require_alike(members: Sequence[SupervisedModule], names: Sequence[str]) -> None:
    """Raise an InputError unless members can train side by side, and differ in weights and buffers alone."""
    first = members[0]
    for method in () if first.steps_follow_loss else _NOT_CALLED:
        if getattr(type(first), method) is not getattr(SupervisedModule, method):
            what = f"{method} of {type(first).__name__} is not called for members"
            raise InputError(f"{what} that train side by side; train each member alone")
    structure = dict(_structure(first))
    remedy = "call each member on a batch before they are stacked, or make it with num_inputs"
    for where, value in structure.items():
        if isinstance(value, Tensor) and value.requires_grad:
            raise InputError(f"{where} requires a gradient but is no parameter; make it an nn.Parameter")
        if isinstance(value, str) and value == "not initialized":
            raise InputError(f"{where} has no shape yet; {remedy}")
    for name, member in zip(names, members, strict=True):
        if "_make_net" in vars(member):  # with loaded weights
            raise InputError(f"{name} has had no batch yet; {remedy}")
        if type(member) is not type(first) or not _same(_common(member), _common(first)):
            raise InputError("stacked members must be of one class and have the same hyperparameters")
        own = dict(_structure(member))
        for where in dict.fromkeys((*structure, *own)):
            if where not in structure or where not in own or not _same(own[where], structure[where]):
                if where.endswith(".requires_grad"):
                    raise InputError(f"{where[:-14]} is frozen in some members and trained in others")
                raise InputError(
                    f"{name} differs from {names[0]} in {where}; members must be of one structure"
                )


def _common(member: SupervisedModule) -> dict[str, Any]:
    """Return the hyperparameters that must be the same for all members."""
    return {name: value for name, value in member.hparams.items() if name not in member.buffer_hparams}


def _structure(member: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield all of a module that is neither a weight nor the state of a fit: where it is, and its value."""
    places: dict[int, str] = {}  # where each tensor and module is first
    for path, module in member.named_modules(remove_duplicate=False):
        yield path or "the class", (_kind(module), places.setdefault(id(module), path))
        for key, value in vars(module).items():
            if key not in STATE:
                # The keys of hooks are numbers that differ between modules.
                yield _join(path, key), list(value.values()) if key.endswith("hooks") else value
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            where = _join(path, name)
            if nn.parameter.is_lazy(tensor):
                yield where, "not initialized"
            elif tensor is None:
                yield where, None
            else:
                kind = (tensor.shape, tensor.dtype, tensor.device, places.setdefault(id(tensor), where))
                yield where, kind
                yield f"{where}.requires_grad", tensor.requires_grad


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _kind(module: nn.Module) -> tuple[str, tuple[type, ...]]:
    # Modules with parametrizations have a class of their own each, with the same name and bases.
    return type(module).__qualname__, type(module).__bases__


def _same(one: Any, other: Any) -> bool:
    """Return whether two attributes have the same value; objects without a value need the same type."""
    if one is other or type(one) is not type(other):
        return one is other
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, FunctionType):
        return _same(*((f.__code__, f.__defaults__, _closure(f)) for f in (one, other)))
    if isinstance(one, MethodType):
        return _same(one.__func__, other.__func__)
    if isinstance(one, partial):
        return _same(*((p.func, p.args, p.keywords) for p in (one, other)))
    if isinstance(one, (nn.Module, type, Enum)):  # of a module in no other, the weights would be shared
        return False
    if one.__eq__(other) is NotImplemented:
        return hasattr(one, "__dict__")
    if getattr(one, "shape", None) != getattr(other, "shape", None):
        return False
    equal = one == other
    return bool(equal.all() if hasattr(equal, "all") else equal)


def _closure(function: FunctionType) -> list[Any]:
    return [cell.cell_contents for cell in function.__closure__ or ()]
