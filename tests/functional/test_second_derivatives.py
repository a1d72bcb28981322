"""Second derivatives: of formulas that are known, by other methods, and steps that reach the minimum."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from d2l_lightning.errors import InputError
from d2l_lightning.functional.linear import least_squares
from d2l_lightning.functional.regression import huber_loss, squared_loss
from d2l_lightning.functional.second_derivatives import (
    conjugate_gradient,
    full_hessian,
    gauss_newton,
    hessian_product,
    newton_step,
    newton_step_without_hessian,
    outputs_of,
    reweighted_step,
)

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(60, 5, generator=GENERATOR).double()
Y = X @ torch.arange(5.0).double() + torch.randn(60, generator=GENERATOR).double()
W = torch.ones(5).double()


def quadratic(w: Tensor) -> Tensor:
    return squared_loss(X @ w, Y).mean()


def quartic(w: Tensor) -> Tensor:
    return (w**4).sum() + w[0] * w[1] ** 2


def test_hessians_are_those_of_the_formulas() -> None:
    torch.testing.assert_close(full_hessian(quadratic, W), X.T @ X / 60)
    w = torch.linspace(1, 2, 5).double()
    expected = torch.diag(12 * w**2)
    expected[1, 1] += 2 * w[0]
    expected[0, 1] = expected[1, 0] = 2 * w[1]
    torch.testing.assert_close(full_hessian(quartic, w), expected)
    v = torch.randn(5).double()
    torch.testing.assert_close(hessian_product(quartic, w, v), expected @ v)


def test_newton_steps_solve_least_squares_from_anywhere() -> None:
    for start in (W, -100 * W):
        torch.testing.assert_close(newton_step(quadratic, start), least_squares(X, Y))
        found = newton_step_without_hessian(quadratic, start, tolerance=1e-12)
        torch.testing.assert_close(found, least_squares(X, Y))


def test_conjugate_gradients_need_as_many_products_as_there_are_weights() -> None:
    A, b = X.T @ X, torch.arange(5.0).double()
    used = []

    def multiply(v: Tensor) -> Tensor:
        used.append(v)
        return A @ v

    torch.testing.assert_close(conjugate_gradient(multiply, b, 5, 0.0), torch.linalg.solve(A, b))
    assert len(used) == 5
    used.clear()
    conjugate_gradient(multiply, b, 50, 1e-3)
    assert len(used) < 5


def test_a_loss_with_kinks_has_no_newton_step() -> None:
    def absolute(w: Tensor) -> Tensor:
        return (X @ w - Y).abs().mean()

    assert not full_hessian(absolute, W).any()
    with pytest.raises(InputError, match="the Hessian has no inverse"):
        newton_step(absolute, W)


def test_reweighting_finds_the_minimum_of_the_huber_loss() -> None:
    outliers = Y.clone()
    outliers[4] = 1e4
    w = W
    losses = []
    for _ in range(60):
        losses.append(huber_loss(X @ w, outliers, 0.7).mean().item())
        w = reweighted_step(X, outliers, w, 0.7)
    assert (torch.tensor(losses).diff() < 1e-9).all()

    def of_numpy(w: np.ndarray) -> float:
        return huber_loss(X @ torch.from_numpy(w), outliers, 0.7).mean().item()

    expected = minimize(of_numpy, W.numpy(), tol=1e-12).x
    torch.testing.assert_close(w, torch.from_numpy(expected), rtol=0, atol=1e-4)


def test_gauss_newton_is_the_hessian_where_the_model_fits_and_never_negative() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    outputs, w = outputs_of(model, X)
    assert torch.equal(outputs(w), model(X).squeeze(-1).detach())
    assert len(w) == 29

    def loss(at: Tensor, y: Tensor) -> Tensor:
        return squared_loss(outputs(at), y).mean()

    fitted = outputs(w)
    G = gauss_newton(outputs, w)
    torch.testing.assert_close(full_hessian(lambda at: loss(at, fitted), w), G)
    assert torch.linalg.eigvalsh(G).min() > -1e-12
    assert torch.linalg.eigvalsh(full_hessian(lambda at: loss(at, Y), w)).min() < -0.01


def test_a_hessian_of_zeros_gives_no_step_by_products() -> None:
    with pytest.raises(InputError, match="not positive definite"):
        newton_step_without_hessian(lambda w: w.abs().sum(), torch.ones(3))
