"""Optimizers that are no ``torch.optim.Optimizer``, such as the book's SGD."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from d2l_lightning.errors import InputError

_PARAMETER = "parameter"  # in checkpoints, and its index, in place of a parameter


class PlainOptimizer(Optimizer):
    """Any object with ``step()``, ``zero_grad()`` and ``params`` as an optimizer of PyTorch (Section 3.4.3).

    A schedule changes the object's ``lr``, if it has one. Checkpoints hold the object's other attributes that
    are numbers, texts or tensors, or lists, tuples or mappings of these; keys may be parameters. Members side
    by side share the object; its steps must be elementwise.

    Args:
        plain: The object. Its ``params`` are the tensors that it updates.

    Raises:
        InputError: If it has no ``params`` or no ``zero_grad``.
    """

    def __init__(self, plain: Any) -> None:
        name = type(plain).__name__
        for attribute in ("params", "zero_grad"):
            if not hasattr(plain, attribute):
                what = f"the optimizer {name} has no {attribute}"
                raise InputError(
                    f"{what}; it needs step(), zero_grad(), and the tensors that it updates, params"
                )
        self.plain = plain
        plain.params = list(plain.params)  # a generator, such as parameters(), could be read once
        lr = getattr(plain, "lr", None)
        super().__init__(plain.params, {} if lr is None else {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take the object's step; return the value of the closure, if given."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        if "lr" in self.defaults:
            self.plain.lr = self.param_groups[0]["lr"]
        self.plain.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set the gradients to zero as the object does."""
        self.plain.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: settings, and the attributes of the object that are values."""
        kept = {
            name: value for name, value in vars(self.plain).items() if name != "params" and _is_value(value)
        }
        places = {id(parameter): (_PARAMETER, i) for i, parameter in enumerate(self.plain.params)}
        return {**super().state_dict(), "plain": _replaced(kept, lambda value: places.get(id(value), value))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what a checkpoint kept."""
        super().load_state_dict({name: state_dict[name] for name in ("state", "param_groups")})
        params, own = self.plain.params, vars(self.plain)

        def restored(value: Any) -> Any:
            if isinstance(value, tuple) and value[:1] == (_PARAMETER,):
                return params[value[1]]
            return value.to(params[0].device) if isinstance(value, Tensor) else value

        for name, value in _replaced(state_dict["plain"], restored).items():
            if isinstance(own.get(name), dict):  # of a class such as defaultdict
                own[name].clear()
                own[name].update(value)
            else:
                own[name] = value


def as_optimizers(configured: Any) -> Any:
    """Return what ``configure_optimizers`` returned, with plain objects as optimizers of PyTorch."""
    if isinstance(configured, Mapping):
        return {
            key: as_optimizers(value) if key == "optimizer" else value for key, value in configured.items()
        }
    if isinstance(configured, (list, tuple)):
        return type(configured)([as_optimizers(each) for each in configured])
    is_plain = callable(getattr(configured, "step", None)) and not hasattr(configured, "optimizer")
    return PlainOptimizer(configured) if is_plain and not isinstance(configured, Optimizer) else configured


def _replaced(value: Any, replace: Callable[[Any], Any]) -> Any:
    """Return a value with replaced parts; mappings become plain ones."""
    new = replace(value)
    if new is not value:
        return new
    if isinstance(value, Mapping):
        return {_replaced(key, replace): _replaced(part, replace) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [_replaced(part, replace) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    return value


def _is_value(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_value, [*value, *value.values()]))
    if isinstance(value, (list, tuple)):
        return all(map(_is_value, value))
    return value is None or isinstance(value, bool | int | float | str | Tensor)
