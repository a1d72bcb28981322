"""Optimizers of stacked members against torch's optimizers of each member alone."""

import copy
import io
import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, StepLR

from d2l_lightning.errors import InputError
from d2l_lightning.optim import sgd
from d2l_lightning.optim.proximal import ProximalAdamW
from d2l_lightning.optim.stacked import StackedAdam, StackedOptimizer
from d2l_lightning.optim.stacking import stacked_optimizer

Make = Callable[..., Optimizer]


class Side:
    """K members with stacked parameters, and the same members alone.

    Args:
        make: Returns the optimizer of a list of parameters, given the settings of a member.
        own: The settings of each member.
        shapes: The shapes of a member's parameters.
    """

    def __init__(
        self,
        make: Make,
        own: Sequence[dict[str, Any]],
        shapes: Sequence[tuple[int, ...]] = ((3, 5), (7,)),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.generator = torch.Generator().manual_seed(len(own))
        self.dtype, self.make, self.own = dtype, make, own
        self.stacked = [nn.Parameter(self.draw(len(own), *shape)) for shape in shapes]
        self.alone = [[nn.Parameter(p.detach()[k].clone()) for p in self.stacked] for k in range(len(own))]
        self.optimizer = self.make_stacked(self.stacked)
        self.optimizers = [make(p, **settings) for p, settings in zip(self.alone, own, strict=True)]

    def make_stacked(self, parameters: list[nn.Parameter]) -> Any:
        return stacked_optimizer([self.make(parameters, **settings) for settings in self.own])

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=self.dtype)

    def step(self, active: Sequence[bool] | None = None, without: int | None = None) -> None:
        """Take a step with random gradients; the parameter ``without`` has none."""
        self.optimizer.active = active
        for i, parameter in enumerate(self.stacked):
            gradient = None if i == without else self.draw(*parameter.shape)
            parameter.grad = gradient
            for k, own in enumerate(self.alone):
                own[i].grad = None if gradient is None else gradient[k].clone()
        self.optimizer.step()
        for k, optimizer in enumerate(self.optimizers):
            if active is None or active[k]:
                optimizer.step()

    def assert_equal(self, **tolerance: float) -> None:
        """Check the weights and the state of every member."""
        tolerance = {"rtol": 0, "atol": 0, **tolerance}
        for k, (own, optimizer) in enumerate(zip(self.alone, self.optimizers, strict=True)):
            for ours, theirs in zip(self.stacked, own, strict=True):
                torch.testing.assert_close(ours[k].detach(), theirs.detach(), **tolerance)
                state = self.optimizer.state.get(ours, {})
                for name, value in optimizer.state.get(theirs, {}).items():
                    if value is not None:
                        torch.testing.assert_close(state[name][k], value, **tolerance)


KINDS: dict[str, Make] = {
    "adam": Adam,
    "adam, other betas": lambda p, **own: Adam(p, betas=(0.8, 0.9), eps=1e-5, **own),
    "adam, amsgrad": lambda p, **own: Adam(p, amsgrad=True, maximize=True, **own),
    "adam, foreach": lambda p, **own: Adam(p, foreach=True, **own),
    "adam, decoupled": lambda p, **own: Adam(p, decoupled_weight_decay=True, **own),
    "adamw": AdamW,
    "adamw, foreach": lambda p, **own: AdamW(p, foreach=True, amsgrad=True, **own),
    "sgd": SGD,
    "sgd, momentum": lambda p, **own: SGD(p, momentum=0.9, dampening=0.3, **own),
    "sgd, nesterov": lambda p, **own: SGD(p, momentum=0.7, nesterov=True, maximize=True, **own),
    "sgd, foreach": lambda p, **own: SGD(p, momentum=0.9, dampening=0.1, foreach=True, **own),
    "adamw, proximal": lambda p, **own: ProximalAdamW(
        [{"params": p[:1], "l1": 0.3}, {"params": p[1:]}], **own
    ),
    "two groups": lambda p, **own: Adam([{"params": p[:1]}, {"params": p[1:], "weight_decay": 0.0}], **own),
}
FUSED: dict[str, Make] = {
    "adam, fused": lambda p, **own: Adam(p, fused=True, **own),
    "adam, fused amsgrad": lambda p, **own: Adam(p, fused=True, amsgrad=True, maximize=True, **own),
    "adamw, fused": lambda p, **own: AdamW(p, fused=True, **own),
    "adamw, fused proximal": lambda p, **own: ProximalAdamW(
        [{"params": p[:1], "l1": 0.3}, {"params": p[1:]}], fused=True, **own
    ),
    "sgd, fused": lambda p, **own: SGD(p, fused=True, **own),
    "sgd, fused momentum": lambda p, **own: SGD(p, fused=True, momentum=0.9, dampening=0.3, **own),
}
OWN = st.fixed_dictionaries({"lr": st.sampled_from([0.1, 0.03]), "weight_decay": st.sampled_from([0.0, 0.1])})


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_members_take_the_steps_of_torch_s_optimizers_to_the_bit(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([*KINDS, *FUSED]), label="kind")
    own = data.draw(st.lists(OWN, min_size=1, max_size=5), label="settings")
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]), label="dtype")
    # The last elements of a tensor are rounded differently by a fused kernel if they fill no vector.
    shapes = [(16, 8), (64,)] if kind in FUSED else [(3, 5), (7,), ()]
    side = Side({**KINDS, **FUSED}[kind], own, shapes, dtype)
    patterns = st.one_of(st.none(), st.lists(st.booleans(), min_size=len(own), max_size=len(own)))
    # With fused SGD, torch raises an error if parameters take their first steps at different times.
    without = st.none() if kind == "sgd, fused momentum" else st.sampled_from([None, None, 0, 1])
    steps = st.tuples(patterns, without)
    for active, skipped in data.draw(st.lists(steps, min_size=1, max_size=8), label="steps"):
        side.step(active, skipped)
        side.assert_equal()


@pytest.mark.parametrize("kind", FUSED)
def test_fused_kernels_round_the_last_elements_only(kind: str) -> None:
    side = Side(FUSED[kind], [{"lr": 0.1}] * 3 + [{"lr": 0.2}], [(3, 7), (5,)])
    for step in range(12):
        side.step([True, step % 4 < 3, True, True])
    side.assert_equal(rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [*KINDS, *FUSED])
def test_an_idle_member_is_untouched(kind: str) -> None:
    side = Side({**KINDS, **FUSED}[kind], [{"lr": 0.1}] * 3)
    side.step()

    def of_member(k: int) -> list[Tensor]:
        states = [state[name] for state in side.optimizer.state.values() for name in sorted(state)]
        return [value[k].detach().clone() for value in (*side.stacked, *states)]

    before, other = of_member(1), of_member(2)
    for _ in range(3):
        side.step([True, False, True])
    assert all(map(torch.equal, before, of_member(1)))
    assert not any(map(torch.equal, other, of_member(2)))
    side.step([False] * 3)
    assert all(map(torch.equal, before, of_member(1)))


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: StepLR(optimizer, 2, gamma=0.3),
        lambda optimizer: LambdaLR(optimizer, lambda step: 1 / (1 + step)),
        # It changes the betas too.
        lambda optimizer: OneCycleLR(optimizer, [5 * g["lr"] for g in optimizer.param_groups], total_steps=9),
    ],
    ids=["step", "lambda", "one cycle"],
)
def test_a_scheduler_changes_the_learning_rate_of_every_member(schedule: Callable[..., Any]) -> None:
    side = Side(KINDS["two groups"], [{"lr": 0.1}, {"lr": 0.1}, {"lr": 0.2, "weight_decay": 0.3}])
    assert [group["members"] for group in side.optimizer.param_groups] == [(0, 2), (2, 3)] * 2
    schedulers = [schedule(optimizer) for optimizer in (side.optimizer, *side.optimizers)]
    for _ in range(8):
        side.step()
        for scheduler in schedulers:
            scheduler.step()
    side.assert_equal()
    # A scheduler of a member adds settings to the member's groups.
    members = [side.make(side.stacked, **own) for own in side.own]
    for member in members:
        schedule(member)
    rates = [group["initial_lr"] for group in stacked_optimizer(members).param_groups]
    assert len(set(rates)) == 2


@pytest.mark.parametrize(
    "kind", ["adam", "adam, fused", "adamw, foreach", "sgd, momentum", "sgd", "two groups"]
)
@pytest.mark.parametrize(
    "own", [[{"lr": 0.1}] * 3, [{"lr": 0.1}, {"lr": 0.2}, {"lr": 0.2}]], ids=["equal", "own"]
)
def test_a_state_that_was_saved_goes_on_to_the_bit(kind: str, own: list[dict[str, Any]]) -> None:
    side = Side({**KINDS, **FUSED}[kind], own, [(16, 8), (64,)])
    for active in (None, [True, False, True], None, [False, True, True]):
        side.step(active)
    file = io.BytesIO()
    torch.save(side.optimizer.state_dict(), file)
    side.stacked = copy.deepcopy(side.stacked)
    side.optimizer = side.make_stacked(side.stacked)
    side.optimizer.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for active in (None, [True, False, False], None):
        side.step(active)
        side.assert_equal()


def test_a_copy_of_the_optimizer_goes_on_to_the_bit() -> None:
    side = Side(KINDS["adam"], [{"lr": 0.1}] * 2)
    side.step([True, False])
    side.stacked, side.optimizer = copy.deepcopy((side.stacked, side.optimizer))
    assert side.optimizer.active is None
    side.step([True, True])
    side.assert_equal()


@pytest.mark.parametrize("kind", ["adam", "adam, fused", "sgd"])
def test_parameters_whose_memory_was_replaced_are_updated(kind: str) -> None:
    side = Side({**KINDS, **FUSED}[kind], [{"lr": 0.1}, {"lr": 0.2}], [(16, 8), (64,)])
    side.step()
    for parameter in side.stacked:
        parameter.data = parameter.data.clone()
    side.step()
    side.assert_equal()
    side.optimizer.state.clear()
    for optimizer in side.optimizers:
        optimizer.state.clear()
    side.step()
    side.assert_equal()


def test_gradients_may_have_another_memory_layout() -> None:
    side = Side(FUSED["adam, fused"], [{"lr": 0.1}] * 2, [(16, 8)])
    gradient = side.draw(2, 16, 8)
    side.stacked[0].grad = gradient.transpose(1, 2).contiguous().transpose(1, 2)
    side.optimizer.step()
    for own, optimizer, values in zip(side.alone, side.optimizers, gradient, strict=True):
        own[0].grad = values.clone()
        optimizer.step()
    side.assert_equal()


@pytest.mark.parametrize("kind", ["adam", "adam, fused", "sgd, momentum"])
def test_a_gradient_that_has_a_graph_leaves_none_in_the_state(kind: str) -> None:
    side = Side({**KINDS, **FUSED}[kind], [{"lr": 0.1}] * 2)
    for parameter in side.stacked:
        (gradient,) = torch.autograd.grad((parameter**3).sum(), parameter, create_graph=True)
        parameter.grad = gradient
    side.optimizer.step()
    states = [value for state in side.optimizer.state.values() for value in state.values()]
    assert states
    assert not any(value.requires_grad for value in states)


@pytest.mark.parametrize("kind", ["adam", "adam, fused", "adamw, proximal", "adamw, fused proximal"])
def test_a_step_with_infinite_scaled_gradients_is_no_step(kind: str) -> None:
    side = Side({**KINDS, **FUSED}[kind], [{"lr": 0.1}, {"lr": 0.2}], [(16, 8)])
    scalers = [torch.amp.GradScaler("cpu", init_scale=4.0) for _ in range(3)]
    for infinite in (False, True, False):
        gradient = side.draw(2, 16, 8)
        if infinite:
            gradient[:, 0, 0] = math.inf
        members = zip([side.stacked, *side.alone], [gradient, *gradient], strict=True)
        optimizers = [side.optimizer, *side.optimizers]
        for scaler, optimizer, (parameters, values) in zip(scalers, optimizers, members, strict=True):
            optimizer.zero_grad()
            scaler.scale((parameters[0] * values).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        side.assert_equal()
    assert side.optimizer.state[side.stacked[0]]["step"].tolist() == [2, 2]
    assert not side.optimizer._step_supports_amp_scaling  # so that Lightning can clip


def test_a_closure_may_take_steps_itself() -> None:
    side = Side(KINDS["adam"], [{"lr": 0.1}] * 2)

    def closure() -> float:
        assert torch.is_grad_enabled()
        side.step()
        side.step([True, False])
        side.optimizer.active = [False, True]
        return 3.0

    with torch.no_grad():
        assert side.optimizer.step(closure) == 3.0
    side.optimizers[1].step()
    side.assert_equal()


def test_many_members_may_all_differ() -> None:
    own = [{"lr": 0.01 * (k + 1), "weight_decay": 0.001 * k} for k in range(50)]
    side = Side(KINDS["adamw"], own)
    for step in range(6):
        side.step([k % 5 != step for k in range(50)])
    side.assert_equal()
    assert len(side.optimizer.param_groups) == 50


def test_the_slices_of_a_few_patterns_are_kept() -> None:
    side = Side(KINDS["adam"], [{"lr": 0.1}] * 6)
    for pattern in [*product([True, False], repeat=6)] * 2:
        side.step(pattern)
    side.assert_equal()
    assert 0 < len(side.optimizer._plans) <= 32


def test_the_number_of_calls_is_the_least_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    side = Side(KINDS["adam"], [{"lr": 0.1}] * 3 + [{"lr": 0.2}])
    sizes: list[list[int]] = []
    update = StackedAdam._update

    def count(self: StackedAdam, group: Any, call: Any, *rest: Any) -> None:
        sizes.append([len(slice_) for slice_ in call.params])
        update(self, group, call, *rest)

    monkeypatch.setattr(StackedAdam, "_update", count)
    side.step()
    assert sizes == [[3, 3], [1, 1]]
    sizes.clear()
    side.step([True, True, False, True])
    assert sizes == [[2, 2], [1, 1]]
    sizes.clear()
    for _ in range(2):  # the third member has taken a step less, so its bias correction differs
        side.step()
        assert sizes == [[2, 1, 2, 1], [1, 1]]
        sizes.clear()
    monkeypatch.setattr(StackedAdam, "_cut", lambda *_: pytest.fail("the slices of the last step are used"))
    side.step()


def test_a_group_that_is_added_has_the_settings_of_all_members() -> None:
    side = Side(KINDS["sgd"], [{"lr": 0.1}] * 2)
    added = nn.Parameter(torch.ones(2, 3))
    added.grad = torch.ones(2, 3)
    side.optimizer.add_param_group({"params": [added], "lr": 0.5})
    side.optimizer.active = [False, True]
    side.optimizer.step()
    assert added.tolist() == [[1.0] * 3, [0.5] * 3]


OWN_OF_ALL: dict[str, tuple[Make, list[dict[str, Any]]]] = {
    "adam": (
        Adam,
        [{"lr": 0.1, "betas": (0.8, 0.9)}, {"lr": 0.1, "betas": (0.9, 0.99)}, {"eps": 0.1}, {}, {}],
    ),
    "adamw, fused": (FUSED["adamw, fused"], [{"lr": 0.1}, {"lr": 0.1, "eps": 1e-3}, {}, {}, {"lr": 0.1}]),
    "sgd": (SGD, [{"momentum": 0.9}, {"momentum": 0.5}, {"momentum": 0.5}, *[{"momentum": 0.9}] * 2]),
    "adamw, proximal": (KINDS["adamw, proximal"], [{"lr": 0.1}, {"lr": 0.1}, {"lr": 0.2}, {"lr": 0.1}, {}]),
}


@pytest.mark.parametrize("name", OWN_OF_ALL)
def test_members_with_settings_of_their_own_train_as_alone_after_others_left(name: str) -> None:
    make, own = OWN_OF_ALL[name]
    fused = "fused" in name
    side = Side(make, own, shapes=[(3, 16), (16,)] if fused else ((3, 5), (7,)))
    for active in (None, [True, False, True, True, False], None):
        side.step(active)
    for kept in ([0, 3, 4], [0, 2]):
        for parameter in side.stacked:
            parameter.data = parameter.detach()[kept]
        side.optimizer.keep(kept)
        side.own, side.alone, side.optimizers = (
            [each[k] for k in kept] for each in (side.own, side.alone, side.optimizers)
        )
        assert all(start < end for start, end in (g["members"] for g in side.optimizer.param_groups))
        for active in (None, [True] * (len(kept) - 1) + [False], None):
            side.step(active)
        side.assert_equal()


def test_activity_must_have_a_value_for_every_member() -> None:
    side = Side(KINDS["adam"], [{"lr": 0.1}] * 3)
    with pytest.raises(InputError, match=r"^active has 2 values for 3 members$"):
        side.step([True, False])


PARAMETERS = [nn.Parameter(torch.ones(2, 3))]
OTHERS = [nn.Parameter(torch.ones(2, 3))]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([Adam(PARAMETERS), SGD(PARAMETERS)], "members must have one kind of optimizer, not Adam and SGD"),
        ([Adam(PARAMETERS), Adam(OTHERS)], "the Adam of every member must have the same groups"),
        ([Adam(PARAMETERS), Adam(PARAMETERS, amsgrad=True)], "not in the amsgrad of Adam"),
        ([SGD(PARAMETERS), SGD(PARAMETERS, momentum=0.5)], "with and without momentum cannot train side by"),
        ([RMSprop(PARAMETERS), RMSprop(PARAMETERS, lr=0.5)], "differ in lr with .*, not with this RMSprop"),
        (
            [sgd.SGD(PARAMETERS, lr=0.1), sgd.SGD(PARAMETERS, lr=0.5)],
            "members may differ in lr with Adam, AdamW and SGD of torch.optim, not with this SGD",
        ),
        (
            [sgd.ProximalSGD([{"params": PARAMETERS, "l1": torch.ones(2, 1) * k}], lr=0.1) for k in (1, 2)],
            "differ in l1 with .*, not with this ProximalSGD",
        ),
    ],
)  # fmt: skip
def test_members_that_differ_in_more_are_an_error(members: list[Optimizer], message: str) -> None:
    with pytest.raises(InputError, match=message):
        stacked_optimizer(members)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RMSprop(PARAMETERS),
        lambda: SGD(PARAMETERS, differentiable=True),
        lambda: sgd.ProximalSGD([{"params": PARAMETERS, "l1": torch.ones(2, 1)}], lr=0.1),
    ],
    ids=["rmsprop", "differentiable", "proximal"],
)
def test_other_optimizers_with_equal_settings_stay_as_they_are(make: Callable[[], Optimizer]) -> None:
    members = [make(), make()]
    assert stacked_optimizer(members) is members[0]


class MySGD(SGD):
    """A class of its own, whose step may do anything."""


def test_a_subclass_is_not_replaced() -> None:
    assert not isinstance(stacked_optimizer([MySGD(PARAMETERS)] * 2), StackedOptimizer)
