"""Optimizers from scratch against the framework's and against optimality conditions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d2l_lightning.errors import InputError
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.models.softmax_regression import SoftmaxRegression
from d2l_lightning.optim.sgd import SGD, ProximalSGD


def draw(n: int, d: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64)
    w = torch.zeros(d, dtype=torch.float64)
    w[:2] = torch.tensor([1.5, -2.0])
    return X, X @ w + 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)


def test_sgd_takes_the_steps_of_the_framework_s() -> None:
    X, y = draw(20, 5)
    ours, theirs = (torch.full((5,), 0.1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizers = SGD([ours], lr=0.05), torch.optim.SGD([theirs], lr=0.05)
    for _ in range(10):
        for w, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            ((X @ w - y) ** 2).mean().backward()
            optimizer.step()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_groups_have_their_own_learning_rates_and_parameters_without_gradient_stay() -> None:
    a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = SGD([{"params": [a]}, {"params": [b, c], "lr": 0.5}], lr=0.1)
    a.grad = b.grad = torch.ones(2)
    optimizer.step()
    assert a.tolist() == pytest.approx([0.9, 0.9])
    assert b.tolist() == [0.5, 0.5]
    assert c.tolist() == [1.0, 1.0]


def test_a_closure_runs_with_gradients_and_its_loss_is_returned() -> None:
    w = nn.Parameter(torch.tensor(2.0))
    optimizer = SGD([w], lr=0.25)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = w**2
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert w.item() == 1.0


def test_proximal_steps_find_the_solution_of_the_lasso() -> None:
    X, y = draw(50, 20)
    lambd = 0.2
    w, b = (nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in ((20,), ()))
    optimizer = ProximalSGD([{"params": [w], "l1": lambd}, {"params": [b]}], lr=0.1)
    for _ in range(3000):
        optimizer.zero_grad()
        (((X @ w + b - y) ** 2).mean() / 2).backward()
        optimizer.step()
    # Karush-Kuhn-Tucker conditions: the gradient balances the penalty; at 0 it is at most as large.
    gradient = X.T @ (X @ w + b - y).detach() / len(y)
    active = w != 0
    assert 2 <= active.sum() < 10
    torch.testing.assert_close(gradient[active], -lambd * w[active].sign(), rtol=0, atol=1e-9)
    assert (gradient[~active].abs() <= lambd).all()
    assert (X @ w + b - y).mean().abs() < 1e-9  # the bias has no penalty


def test_members_may_have_different_penalties() -> None:
    w = nn.Parameter(torch.ones(2, 3))
    w.grad = torch.zeros(2, 3)
    ProximalSGD([{"params": [w], "l1": torch.tensor([[1.0], [4.0]])}], lr=0.5).step()
    assert w.tolist() == [[0.5] * 3, [0.0] * 3]


def test_a_negative_penalty_is_an_error() -> None:
    for l1 in (-0.1, torch.tensor([0.5, -0.5])):
        with pytest.raises(InputError, match="l1 must not be negative"):
            ProximalSGD([{"params": [nn.Parameter(torch.ones(2))], "l1": l1}], lr=0.1)


@pytest.mark.parametrize("lr", [0.0, -0.1, float("nan"), float("inf")])
def test_a_learning_rate_that_is_not_positive_is_an_error(lr: float) -> None:
    with pytest.raises(InputError, match="lr must be positive"):
        SGD([nn.Parameter(torch.ones(1))], lr=lr)


@pytest.mark.parametrize(
    "make",
    [lambda **k: LinearRegression(3, **k), lambda **k: SoftmaxRegression(3, 2, **k)],
    ids=["linear", "softmax"],
)
def test_linear_models_take_an_optimizer_by_name(make: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = make(lr=0.2, optimizer="adamw")
    X = torch.tensor([[1.0, 100.0, 0.01]])
    y = torch.zeros(1, dtype=torch.long) if isinstance(model, SoftmaxRegression) else torch.zeros(1)
    optimizer = model.configure_optimizers()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model.loss(X, y).backward()
    optimizer.step()
    # The first step is as long as the learning rate, for features of any scale.
    for parameter, start in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close((parameter - start).abs(), torch.full_like(start, 0.2), rtol=1e-3, atol=0)
    assert isinstance(make().configure_optimizers(), torch.optim.SGD)
    with pytest.raises(InputError, match="optimizer must be one of sgd, adamw, not 'lion'"):
        make(optimizer="lion")
