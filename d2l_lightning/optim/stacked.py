"""Adam, AdamW and SGD for K members whose parameters are stacked along dimension 0."""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from d2l_lightning.errors import InputError

# Numbers of patterns of active members whose slices are kept.
_MAX_PLANS = 32
_ONE = torch.tensor(1.0)  # on the CPU, adding a number takes longer


@dataclass
class _Call:
    """What one call of a kernel updates: slices of parameters with the same settings, and their state."""

    pieces: list[int] = field(default_factory=list)  # the places of the slices among all that are cut
    params: list[Tensor] = field(default_factory=list)
    state: dict[str, list[Tensor]] = field(default_factory=dict)
    steps: list[Tensor] = field(default_factory=list)  # the count of steps of each slice, shape ()


@dataclass
class _Plan:
    """The calls of a step, for one pattern of active members and of parameters that have a gradient."""

    # Each parameter, the sizes of the pieces into which it is cut, its address and its state.
    cuts: list[tuple[Tensor, list[int], int, Any]] = field(default_factory=list)
    # By the index of the group, whether its members have taken a step before, device and type.
    calls: dict[tuple[int, bool, torch.device, torch.dtype], _Call] = field(default_factory=dict)
    counts: list[Tensor] = field(default_factory=list)  # the counts of steps of all active members


class StackedOptimizer(Optimizer, ABC):
    """The optimizers of K members as one, which takes the steps that each member's own would take.

    The kernels are those of ``torch.optim``, and each member has a learning rate, a weight decay and a number
    of steps of its own. The state of a parameter is as in ``torch.optim``; its ``step`` has shape ``(K,)``.

    Every run of neighbouring members with equal settings has a group of its own, whose settings a scheduler
    can change. ``group["members"]`` is the first member of the run and the one after its last. The group of
    the first run has the stacked parameters, the others have none.

    Members with equal settings and equally many steps are updated by one call. The results are those of the
    member's own optimizer to the bit, unless it is fused: a fused kernel rounds the last elements of a tensor
    differently, and the last elements of a member are not those of the stacked tensor.

    Args:
        members: The optimizer of each member, over the same stacked parameters.
        apart: A value for each member; members with different values are in different runs.

    Attributes:
        active: Whether each member takes part in the next steps; None if all do. Weights and state of a
            member that takes no part stay as they are.
    """

    def __init__(self, members: Sequence[Optimizer], apart: Sequence[Any] | None = None) -> None:
        self.num_members = len(members)
        self.active: Sequence[bool] | None = None
        self._forget()
        super().__init__(_groups(members, apart or [None] * len(members)), members[0].defaults)
        # Members that do not take a step are left out, instead of a fused kernel that takes none.
        self._step_supports_amp_scaling = False

    def _forget(self) -> None:
        self._plans: dict[Any, _Plan] = {}
        # For each parameter, a number for each member: 0 before its first step, and equal for two members
        # only if they have taken equally many steps. So no count is read from the device.
        self._ages: dict[Tensor, list[int]] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.num_members = self.param_groups[-1]["members"][1]
        self.active = vars(self).get("active")
        self._forget()

    def keep(self, indices: Sequence[int]) -> None:
        """Drop the state of all members but these, whose parameters the caller has sliced already.

        The runs stay apart, even where those between them are dropped, so that the kernels round as before.
        """
        places = torch.tensor(list(indices))
        for state in self.state.values():
            for name, value in state.items():
                state[name] = value.index_select(0, places.to(value.device))
        if self.active is not None:
            self.active = [self.active[k] for k in indices]
        ages = {parameter: [own[k] for k in indices] for parameter, own in self._ages.items()}
        kept: list[dict[str, Any]] = []
        for group in self.param_groups:
            start, end = kept_run(group["members"], indices)
            if group["params"]:
                parameters = group["params"]
            if start < end:
                group.update(members=(start, end), params=[] if start else parameters)
                kept.append(group)
        self.param_groups[:] = kept
        self.num_members = len(indices)
        self._forget()
        self._ages = ages

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of stacked parameters whose settings are those of all members."""
        super().add_param_group({"members": (0, self.num_members), **param_group})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the active members' parameters that have a gradient; return the value of the closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update()
        self._opt_called = True  # schedulers warn otherwise
        return loss

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]  # of a scheduler that was made for a member

    @torch.no_grad()
    def update(self) -> None:
        """Update the active members' parameters that have a gradient, without hooks of ``step``."""
        plan = self._plan()
        gradients: list[Tensor] = []
        for parameter, sizes, *_ in plan.cuts:
            gradient = _gradient(parameter)
            gradients += [gradient] if len(sizes) == 1 else torch.split_with_sizes(gradient, sizes)
        if plan.counts:
            torch._foreach_add_(plan.counts, _ONE if plan.counts[0].is_cpu else 1)
        for (group, started, *_), call in plan.calls.items():
            self._update(self.param_groups[group], call, [gradients[i] for i in call.pieces], started)

    def _plan(self) -> _Plan:
        """Return the calls of the next step; they are the same as long as members stay together."""
        active = (True,) * self.num_members if self.active is None else tuple(self.active)
        if len(active) != self.num_members:
            raise InputError(f"active has {len(active)} values for {self.num_members} members")
        key = (active, *[p.grad is None for group in self.param_groups for p in group["params"]])
        plan = self._plans.get(key)
        if plan is not None and all(
            parameter.data_ptr() == address and self.state.get(parameter) is state
            for parameter, _, address, state in plan.cuts
        ):
            return plan
        plan = _Plan()
        for index, group in enumerate(self.param_groups):
            if group["members"][0] == 0:
                later = enumerate(self.param_groups[index:], start=index)
                owners = [i for i, other in later for _ in range(*other["members"])]
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._cut(plan, parameter, group, list(zip(owners, active, strict=False)))
        grown = {p: _after_step(self._ages[p], active) for p, *_ in plan.cuts if p in self._ages}
        if len(self._plans) == _MAX_PLANS or any(ages != self._ages[p] for p, ages in grown.items()):
            self._plans.clear()
        else:
            self._plans[key] = plan
        self._ages.update(grown)
        return plan

    def _cut(
        self, plan: _Plan, parameter: Tensor, group: dict[str, Any], marks: list[tuple[int, bool]]
    ) -> None:
        """Add a parameter to a plan; ``marks`` are each member's group and whether the member is active."""
        names = self._state_names(group)
        state = self._state_of(parameter, group, names) if names else {}
        ages = self._ages.get(parameter, [1] * len(marks))
        runs = _runs(list(zip(marks, ages, strict=True)))
        values = parameter.detach()
        place = sum(len(sizes) for _, sizes, *_ in plan.cuts)
        for i, (start, end) in enumerate(runs):
            index, active = marks[start]
            if active:
                key = (index, ages[start] > 0, parameter.device, parameter.dtype)
                call = plan.calls.setdefault(key, _Call())
                call.pieces.append(place + i)
                call.params.append(values[start:end])
                for name in names:
                    call.state.setdefault(name, []).append(state[name][start:end])
                if state:
                    call.steps.append(state["step"][start])
        for start, end in _runs([active for _, active in marks]) if state else []:
            if marks[start][1]:
                plan.counts.append(state["step"][start:end])
        plan.cuts.append(
            (parameter, [end - start for start, end in runs], parameter.data_ptr(), self.state.get(parameter))
        )

    def _state_of(self, parameter: Tensor, group: dict[str, Any], names: Sequence[str]) -> dict[str, Tensor]:
        """Return the state of a parameter, which is created before the first step."""
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            on_device = group["fused"] or group.get("capturable")
            state["step"] = torch.zeros(self.num_members, device=parameter.device if on_device else "cpu")
            state.update({name: torch.zeros_like(parameter) for name in names})
            self._ages[parameter] = [0] * self.num_members
        elif parameter not in self._ages:
            self._ages[parameter] = [int(step) for step in state["step"].tolist()]
        return state

    @abstractmethod
    def _state_names(self, group: dict[str, Any]) -> Sequence[str]:
        """Return the names of a parameter's state, without ``step``; none if the parameter has no state."""

    @abstractmethod
    def _update(self, group: dict[str, Any], call: _Call, gradients: list[Tensor], started: bool) -> None:
        """Carry out a call, for members that have taken a step before, or for members that have not."""


class StackedAdam(StackedOptimizer):
    """Adam for K members, see ``StackedOptimizer``."""

    def _state_names(self, group: dict[str, Any]) -> Sequence[str]:
        return ("exp_avg", "exp_avg_sq", *["max_exp_avg_sq"] * group["amsgrad"])

    def _update(self, group: dict[str, Any], call: _Call, gradients: list[Tensor], started: bool) -> None:
        moments = [call.state.get(name, []) for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")]
        names = ["lr", "weight_decay", "eps", "amsgrad", "maximize"]
        kernel: Any
        if group["fused"]:
            # The function adam would sort the tensors by device first, which takes longer than a small step.
            kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
            steps = call.steps
        else:
            kernel, steps = adam, [step - 1 for step in call.steps]  # adam adds 1
            names += ["foreach", "capturable", "fused", "decoupled_weight_decay"]
        settings = {name: group[name] for name in names}
        settings["beta1"], settings["beta2"] = group["betas"]
        kernel(call.params, gradients, *moments, steps, **settings)


class StackedAdamW(StackedAdam):
    """AdamW for K members, see ``StackedOptimizer``."""


class StackedSGD(StackedOptimizer):
    """SGD for K members, with or without momentum, see ``StackedOptimizer``."""

    def _state_names(self, group: dict[str, Any]) -> Sequence[str]:
        return ("momentum_buffer",) if group["momentum"] != 0 else ()

    def _update(self, group: dict[str, Any], call: _Call, gradients: list[Tensor], started: bool) -> None:
        buffers = call.state.get("momentum_buffer", [])
        # The kernel replaces None by the buffers of the first step.
        given: list[Any] = [*buffers] if started else [None] * len(buffers)
        names = ("lr", "weight_decay", "momentum", "dampening", "nesterov", "maximize", "foreach", "fused")
        kernel: Any = sgd
        kernel(call.params, gradients, given, **{name: group[name] for name in names})
        if buffers and not started:
            torch._foreach_copy_(buffers, given)


def keep_members(optimizer: Optimizer, indices: Sequence[int], num_members: int) -> None:
    """Drop the state of all members but these from an elementwise optimizer of stacked parameters.

    Args:
        optimizer: A ``StackedOptimizer``, or another one. Of the latter, tensors with a first dimension of
            size K are sliced, in the state and in the settings of the groups.
        indices: The members that are kept, in ascending order.
        num_members: The number of members before, K.
    """
    if isinstance(optimizer, StackedOptimizer):
        optimizer.keep(indices)
        return
    for values in (*optimizer.state.values(), *optimizer.param_groups):
        for name, value in values.items():
            if isinstance(value, Tensor) and value.ndim and len(value) == num_members:
                values[name] = value[list(indices)]


def kept_run(run: tuple[int, int], indices: Sequence[int]) -> tuple[int, int]:
    """Return the first member of a run and the one after its last, when only these members are left."""
    start, end = (bisect_left(indices, member) for member in run)
    return start, end


def _runs(keys: Sequence[Any]) -> list[tuple[int, int]]:
    """Return where each run of equal keys starts and ends."""
    starts = [k for k in range(len(keys)) if k == 0 or keys[k] != keys[k - 1]]
    return list(zip(starts, [*starts[1:], len(keys)], strict=True))


def _groups(members: Sequence[Optimizer], apart: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yield the groups of a stacked optimizer: one for each run of members with equal settings."""
    for groups in zip(*(member.param_groups for member in members), strict=True):
        settings = [{name: group[name] for name in group if name != "params"} for group in groups]
        for start, end in _runs(list(zip(settings, apart, strict=True))):
            parameters = [] if start else groups[0]["params"]
            yield {**settings[start], "params": parameters, "members": (start, end)}


def _gradient(parameter: Tensor) -> Tensor:
    """Return the gradient of a parameter, in the memory layout of the parameter as fused kernels need it."""
    gradient: Any = parameter.grad
    if gradient.stride() != parameter.stride():
        gradient = torch.empty_like(parameter).copy_(gradient)
    return gradient


def _after_step(ages: list[int], active: Sequence[bool]) -> list[int]:
    """Return the ages of members after a step of the active ones; equal ages differ if only some step."""
    left = {age for age, on in zip(ages, active, strict=True) if not on} | {0}
    new: dict[int, int] = {}
    oldest = max(ages)
    return [
        new.setdefault(age, oldest + 1 + len(new)) if on and age in left else age
        for age, on in zip(ages, active, strict=True)
    ]
