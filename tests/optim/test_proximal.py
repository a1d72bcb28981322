"""AdamW with an l1 penalty against a loop of AdamW's steps and soft thresholds."""

from typing import Any

import pytest
import torch
from torch import nn

from d2l_lightning.errors import InputError
from d2l_lightning.functional.penalties import soft_threshold
from d2l_lightning.optim.proximal import ProximalAdamW, StackedProximalAdamW
from d2l_lightning.optim.stacking import stacked_optimizer
from tests.optim.test_sgd import draw
from tests.optim.test_stacked import Side


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_is_one_of_adamw_and_a_soft_threshold(fused: bool) -> None:
    X, y = draw(20, 5)
    ours = [nn.Parameter(torch.full((n,), 0.1, dtype=torch.float64)) for n in (5, 2)]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    settings: dict[str, Any] = {"lr": 0.05, "betas": (0.9, 0.99), "fused": fused}
    proximal = ProximalAdamW([{"params": ours[:1], "l1": 0.5}, {"params": ours[1:], "l1": 2.0}], **settings)
    plain = torch.optim.AdamW([{"params": theirs[:1]}, {"params": theirs[1:]}], **settings)
    zeros = 0
    for step in range(30):
        for optimizer, (w, b) in ((proximal, ours), (plain, theirs)):
            for group, lr in zip(optimizer.param_groups, (0.05, 0.01), strict=True):
                group["lr"] = lr / (1 + 0.1 * step)  # the threshold follows a schedule
            optimizer.zero_grad()
            ((X @ w + b.sum() - y) ** 2).mean().backward()
        assert proximal.step(lambda: 7.0) == 7.0
        plain.step()
        with torch.no_grad():
            for parameter, group, l1 in zip(theirs, plain.param_groups, (0.5, 2.0), strict=True):
                parameter.copy_(soft_threshold(parameter, group["lr"] * l1))
        assert all(map(torch.equal, ours, theirs))
        zeros += int((ours[0] == 0).sum())
    assert zeros


def test_a_group_without_a_penalty_and_a_parameter_without_gradient_stay() -> None:
    a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = ProximalAdamW([{"params": [a, b], "l1": 1.0}, {"params": [c]}], lr=0.25, weight_decay=0.0)
    a.grad = c.grad = torch.zeros(2)
    optimizer.step()
    assert a.tolist() == [0.75] * 2
    assert b.tolist() == c.tolist() == [1.0] * 2


def test_members_may_differ_in_the_penalty() -> None:
    def make(parameters: list[nn.Parameter], l1: float, **own: Any) -> ProximalAdamW:
        return ProximalAdamW([{"params": parameters[:1], "l1": l1}, {"params": parameters[1:]}], **own)

    side = Side(make, [{"l1": 0.1}, {"l1": 0.1}, {"l1": 20.0}, {"l1": 2.0, "lr": 0.02}])
    assert isinstance(side.optimizer, StackedProximalAdamW)
    for active in (None, [True, False, True, True], None):
        side.step(active)
        side.assert_equal()
    assert [group["members"] for group in side.optimizer.param_groups if group["params"] == []]
    side.optimizer.load_state_dict(side.optimizer.state_dict())
    zeros = torch.zeros(4)
    for _ in range(40):
        side.step()
        side.assert_equal()
        zeros += (side.stacked[0] == 0).sum(dim=(1, 2))
    assert zeros[2] > zeros[0]


def test_a_negative_penalty_is_an_error() -> None:
    w = nn.Parameter(torch.ones(2))
    with pytest.raises(InputError, match=r"l1 must not be negative; it is -0\.1"):
        ProximalAdamW([{"params": [w], "l1": -0.1}])
    assert stacked_optimizer([ProximalAdamW([w])] * 2).defaults["betas"] == (0.9, 0.999)
