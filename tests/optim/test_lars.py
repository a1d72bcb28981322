"""LARS against its formula in a plain loop, alone and for members side by side."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models.mlp import MLP
from d2l_lightning.optim.lars import LARS, layer_groups, layers_of, relative_gradients

X, y = torch.rand(24, 6, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


def plain_loop(
    layers: list[list[Tensor]],
    gradients: Callable[[], list[list[Tensor]]],
    steps: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    eta: float,
) -> None:
    """Update the parameters of layers in place, as the paper's algorithm 1 says."""
    velocity = [[torch.zeros_like(w) for w in layer] for layer in layers]
    for _ in range(steps):
        for ws, gs, vs in zip(layers, gradients(), velocity, strict=True):
            size = sum((w.double() ** 2).sum() for w in ws) ** 0.5
            slope = sum((g.double() ** 2).sum() for g in gs) ** 0.5
            rate = float(eta * size / (slope + weight_decay * size)) if size > 0 and slope > 0 else 1.0
            for w, g, v in zip(ws, gs, vs, strict=True):
                v.mul_(momentum).add_(lr * rate * (g + weight_decay * w))
                w.sub_(v)


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.1)])
def test_steps_are_those_of_a_plain_loop(momentum: float, weight_decay: float) -> None:
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    settings = {"lr": 3.0, "momentum": momentum, "weight_decay": weight_decay, "eta": 0.02}
    optimizer = LARS(layer_groups(nets[0]), **settings)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(nets[0](X.double()), y).backward()
        optimizer.step()

    def gradients() -> list[list[Tensor]]:
        loss = nn.functional.cross_entropy(nets[1](X.double()), y)
        flat = torch.autograd.grad(loss, [*nets[1].parameters()])
        return [[*flat[:2]], [*flat[2:]]]

    layers = [[p.detach() for p in layer] for layer in layers_of(nets[1])]
    plain_loop(layers, gradients, steps=5, **settings)
    for ours, theirs in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_a_step_changes_each_layer_by_its_share_whatever_the_gradient() -> None:
    layers = [[nn.Parameter(torch.full((4,), 3.0))], [nn.Parameter(torch.full((4,), 3.0))]]
    layers[0][0].grad, layers[1][0].grad = torch.ones(4), torch.full((4,), 1e9)
    LARS([{"params": layer} for layer in layers], lr=2.0, momentum=0, eta=0.01).step()
    for (w,) in layers:
        torch.testing.assert_close(w.detach(), torch.full((4,), 3.0 * (1 - 0.02)))


def test_the_rate_is_1_where_the_weights_or_the_gradient_are_0() -> None:
    w, unused = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))
    w.grad = torch.tensor([1.0, -2.0])
    LARS([{"params": [w]}, {"params": [unused]}], lr=0.5).step()
    assert w.tolist() == [-0.5, 1.0]
    assert unused.tolist() == [1, 1]
    unused.grad = torch.zeros(2)
    LARS([unused], lr=0.5, weight_decay=0.1).step()
    assert unused.tolist() == pytest.approx([0.95, 0.95])


def test_members_side_by_side_train_as_they_do_alone(trainer: Callable[..., Trainer]) -> None:
    lrs, rows = [2.0, 8.0], [torch.arange(24), torch.arange(18)]  # the second takes fewer steps

    def make(lr: float) -> MLP:
        torch.manual_seed(int(lr))
        return MLP(6, 3, [5], "tanh", "kaiming", optimizer="lars", lr=lr, weight_decay=0.01)

    def fit(models: list[MLP], rows: list[Tensor], replay_from: int) -> list[Any]:
        stack = StackedModule(models)
        stack.replay_from = replay_from
        data = StackedData(X, y, {"train": rows}, 6, seed=0, same_order=True)
        trainer(max_epochs=5).fit(stack, data)
        return stack.unstack()

    together = fit([make(lr) for lr in lrs], rows, replay_from=3)
    for lr, own, member in zip(lrs, rows, together, strict=True):
        (alone,) = fit([make(lr)], [own], replay_from=1000)
        for ours, theirs in zip(member.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert (member.net[0].weight - make(lr).net[0].weight).norm() > 0.05


def test_relative_gradients_are_norms_of_whole_layers() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    nn.functional.cross_entropy(net(X), y).backward()
    expected = [
        torch.cat([p.grad.flatten() for p in layer.parameters()]).norm()  # type: ignore[union-attr]
        / torch.cat([p.flatten() for p in layer.parameters()]).norm()
        for layer in (net[0], net[2])
    ]
    assert relative_gradients(net) == pytest.approx([value.item() for value in expected])


def test_a_closure_runs_before_the_gradients_are_scaled() -> None:
    w = nn.Parameter(torch.tensor([2.0]))

    def closure() -> Tensor:
        loss = (w**2).sum()
        w.grad = torch.autograd.grad(loss, w)[0]
        return loss

    assert LARS([w], lr=1.0, eta=0.1).step(closure).item() == 4
    assert w.item() == pytest.approx(2 - 0.2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0}, "lr must be positive"),
        ({"lr": 1, "eta": 0}, "eta must be positive"),
        ({"lr": 1, "momentum": -1}, "momentum must not be negative"),
        ({"lr": 1, "weight_decay": -1}, "weight_decay must not be negative"),
    ],
)
def test_a_bad_setting_is_an_error(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LARS([nn.Parameter(torch.ones(1))], **settings)


def test_a_group_may_have_a_penalty_of_its_own() -> None:
    layers = [nn.Linear(2, 1, bias=False) for _ in range(2)]
    groups = [{"params": layers[0].parameters(), "weight_decay": 0.5}, {"params": layers[1].parameters()}]
    optimizer = LARS(groups, lr=1.0, momentum=0.0, weight_decay=0.25, eta=0.1)
    before = [layer.weight.detach().clone() for layer in layers]
    for layer in layers:
        layer.weight.grad = torch.ones(1, 2)
    optimizer.step()
    for layer, w, decay in zip(layers, before, (0.5, 0.25), strict=True):
        rate = 0.1 * w.norm() / (2**0.5 + decay * w.norm())
        torch.testing.assert_close(layer.weight.detach(), w - rate * (1 + decay * w))
