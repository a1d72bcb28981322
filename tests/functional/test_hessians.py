"""Hessians against PyTorch's own, products with them, and the formula of the perceptron's."""

import torch
from torch.autograd.functional import hessian as torch_hessian

from d2l_lightning.functional.activations import tanh
from d2l_lightning.functional.backpropagation import forward, hessian_of_output_weights
from d2l_lightning.functional.hessians import flat_gradient, hessian, hessian_vector_product
from d2l_lightning.models.backpropagation import BackpropagationMLP


def test_the_hessian_and_its_products_equal_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, dtype=torch.float64, generator=generator, requires_grad=True)

    def function(at: torch.Tensor) -> torch.Tensor:
        return (at.sin().cumprod(dim=0) * at**2).sum()

    expected = torch_hessian(function, x.detach())
    parts = [x[:2].detach().requires_grad_(), x[2:].detach().requires_grad_()]
    gradient = flat_gradient(function(torch.cat(parts)), parts, create_graph=True)
    torch.testing.assert_close(hessian(gradient, parts), expected)
    vector = torch.arange(6, dtype=torch.float64)
    torch.testing.assert_close(hessian_vector_product(gradient, parts, vector), expected @ vector)


def test_the_second_derivatives_for_the_output_weights_are_those_of_the_formula() -> None:
    model = BackpropagationMLP(4, 3, 2, "tanh", lambd=0.3, sigma=1.0).double()
    X, y = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    variables = model.autograd_variables(X, y)
    gradient = flat_gradient(variables["J"], [variables["W2"]], create_graph=True)
    with torch.no_grad():
        of_forward = forward(X, y, model.weights, tanh, 0.3)
        expected = hessian_of_output_weights(of_forward, 0.3)
    torch.testing.assert_close(hessian(gradient, [variables["W2"]]), expected)


def test_a_parameter_without_second_derivatives_has_zeros() -> None:
    w, b = torch.ones(2, requires_grad=True), torch.ones(1, requires_grad=True)
    gradient = flat_gradient((w**2).sum() + b.sum(), [w, b], create_graph=True)
    assert hessian(gradient, [w, b]).equal(torch.diag(torch.tensor([2.0, 2.0, 0.0])))
