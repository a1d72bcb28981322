"""Backpropagation by formulas, compared with autograd and with differences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from d2l_lightning.functional import activations
from d2l_lightning.functional.backpropagation import Parameters, backward, forward

FUNCTIONS = {
    "relu": (activations.relu, activations.relu_derivative, F.relu),
    "sigmoid": (activations.sigmoid, activations.sigmoid_derivative, torch.sigmoid),
    "tanh": (activations.tanh, activations.tanh_derivative, torch.tanh),
}


def draw(seed: int, B: int, d: int, h: int, q: int) -> tuple[Tensor, Tensor, Tensor, Parameters]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((B, d), (h, d), (h,), (q, h), (q,))
    X, *parameters = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    y = torch.randint(q, (B,), generator=generator)
    weight = torch.rand(B, generator=generator, dtype=torch.float64) + 0.1
    return X, y, weight, Parameters(*parameters)


@settings(deadline=None)
@given(
    seed=st.integers(0, 1000),
    sizes=st.tuples(*[st.integers(1, 9)] * 4),
    lambd=st.sampled_from([0.0, 1e-3, 2.0]),
    name=st.sampled_from(sorted(FUNCTIONS)),
    weighted=st.booleans(),
)
def test_gradients_equal_autograds(
    seed: int, sizes: tuple[int, int, int, int], lambd: float, name: str, weighted: bool
) -> None:
    X, y, weight, parameters = draw(seed, *sizes)
    phi, phi_derivative, theirs = FUNCTIONS[name]
    given_weight = weight if weighted else None
    variables = forward(X, y, parameters, phi, lambd, given_weight)
    ours = backward(X, y, parameters, variables, phi_derivative, lambd, given_weight)

    # Only the framework's functions.
    leaves = [p.clone().requires_grad_() for p in parameters]
    W1, b1, W2, b2 = leaves
    losses = F.cross_entropy(F.linear(theirs(F.linear(X, W1, b1)), W2, b2), y, reduction="none")
    L = (weight * losses if weighted else losses).mean()
    J = L + lambd / 2 * (W1.norm() ** 2 + W2.norm() ** 2)
    torch.testing.assert_close(variables.J, J.detach(), rtol=1e-12, atol=1e-12)
    for gradient, expected in zip(ours, torch.autograd.grad(J, leaves), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10)


def test_gradients_equal_small_differences() -> None:
    X, y, _, parameters = draw(3, 6, 4, 5, 3)
    phi, phi_derivative, _ = FUNCTIONS["tanh"]
    gradients = backward(X, y, parameters, forward(X, y, parameters, phi, 0.1), phi_derivative, 0.1)
    step = 1e-6
    for place, gradient in enumerate(gradients):
        for element in range(gradient.numel()):
            J = []
            for sign in (1, -1):
                moved = [p.clone() for p in parameters]
                moved[place].view(-1)[element] += sign * step
                J.append(forward(X, y, Parameters(*moved), phi, 0.1).J)
            assert gradient.flatten()[element].item() == pytest.approx(
                ((J[0] - J[1]) / (2 * step)).item(), abs=1e-8
            )
