"""Activations and their derivatives, compared with torch and autograd."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from d2l_lightning.functional import activations as a

ALPHA = 0.3
Function = Callable[[Tensor], Tensor]
FUNCTIONS: dict[str, tuple[Function, Function, Function]] = {
    "relu": (a.relu, a.relu_derivative, torch.relu),
    "prelu": (
        lambda x: a.prelu(x, ALPHA),
        lambda x: a.prelu_derivative(x, ALPHA),
        lambda x: F.prelu(x, torch.tensor([ALPHA], dtype=x.dtype)),
    ),
    "sigmoid": (a.sigmoid, a.sigmoid_derivative, torch.sigmoid),
    "tanh": (a.tanh, a.tanh_derivative, torch.tanh),
}
NUMBERS = st.lists(st.floats(-50, 50), max_size=20).map(
    lambda numbers: torch.tensor([0.0, -1000.0, 1000.0, *numbers], dtype=torch.float64)
)


@pytest.mark.parametrize("name", FUNCTIONS)
@given(NUMBERS)
def test_values_and_derivatives_equal_torchs(name: str, x: Tensor) -> None:
    ours, derivative, theirs = FUNCTIONS[name]
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-12)
    for function in (ours, theirs):  # at 0 as well
        at = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(at).sum(), at)
        torch.testing.assert_close(derivative(x), gradient, rtol=1e-9, atol=1e-12)


def test_derivatives_at_zero() -> None:
    zero = torch.zeros(1)
    derivatives = {name: derivative(zero).item() for name, (_, derivative, _) in FUNCTIONS.items()}
    assert derivatives == pytest.approx({"relu": 0, "prelu": ALPHA, "sigmoid": 0.25, "tanh": 1})


def test_relu_keeps_nan() -> None:
    assert a.relu(torch.tensor([float("nan")])).isnan()


def test_relu_equals_the_layer() -> None:
    x = torch.randn(100)
    assert torch.equal(a.relu(x), nn.ReLU()(x))
