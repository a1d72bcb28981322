"""Xavier's formulas, the variance of a layer's output, and products of Gaussian matrices."""

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from d2l_lightning.errors import InputError
from d2l_lightning.functional.initialization import (
    output_variance,
    product_of_gaussians,
    xavier_bound,
    xavier_deviation,
)


@given(st.integers(1, 60), st.integers(1, 60))
def test_the_uniform_bound_equals_torchs(num_inputs: int, num_outputs: int) -> None:
    bound = xavier_bound(num_inputs, num_outputs)
    weight = nn.init.xavier_uniform_(
        torch.empty(num_outputs, num_inputs), generator=torch.Generator().manual_seed(0)
    )
    # torch multiplies its bound by random numbers from -1 to 1.
    unit = torch.empty(num_outputs, num_inputs).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(weight, bound * unit, rtol=1e-4, atol=1e-6)


@given(st.integers(1, 60), st.integers(1, 60))
def test_the_normal_deviation_equals_torchs(num_inputs: int, num_outputs: int) -> None:
    deviation = xavier_deviation(num_inputs, num_outputs)
    weight = nn.init.xavier_normal_(
        torch.empty(num_outputs, num_inputs), generator=torch.Generator().manual_seed(0)
    )
    unit = torch.empty(num_outputs, num_inputs).normal_(generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(weight, deviation * unit, rtol=1e-4, atol=1e-6)


def test_both_have_the_same_variance_which_square_layers_preserve() -> None:
    assert xavier_bound(300, 100) ** 2 / 3 == pytest.approx(xavier_deviation(300, 100) ** 2)
    assert output_variance(400, xavier_deviation(400, 400)) == pytest.approx(1)


@pytest.mark.parametrize(("sigma", "gamma"), [(0.01, 1.0), (1.0, 0.5), (0.07, 3.0)])
def test_the_variance_of_the_output_is_that_of_the_formula(sigma: float, gamma: float) -> None:
    generator = torch.Generator().manual_seed(1)
    X = gamma * torch.randn(2000, 300, generator=generator, dtype=torch.float64)
    W = sigma * torch.randn(300, 400, generator=generator, dtype=torch.float64)
    assert (X @ W).var().item() == pytest.approx(output_variance(300, sigma, gamma), rel=0.03)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_product_equals_numpys() -> None:
    product, growth = product_of_gaussians(100, 4, generator(3))
    source = generator(3)
    matrices = [torch.randn(4, 4, dtype=torch.float64, generator=source).numpy() for _ in range(101)]
    np.testing.assert_allclose(product.numpy(), np.linalg.multi_dot(matrices), rtol=1e-9)
    assert len(growth) == 101
    assert growth[-1] == product.abs().max()


def test_the_product_grows_as_in_theory() -> None:
    # Newman (1986): a factor of exp((ln 2 + digamma(n / 2)) / 2) for each n by n matrix; n is 4.
    rate = (math.log(2) + torch.digamma(torch.tensor(2.0)).item()) / 2
    last = [math.log(product_of_gaussians(200, 4, generator(seed))[1][-1]) for seed in range(40)]
    assert statistics.fmean(last) / 201 == pytest.approx(rate, abs=0.03)


def test_a_product_outside_double_precision_is_an_error() -> None:
    with pytest.raises(
        InputError, match=r"the product of 3000 matrices is .*; choose a smaller num_matrices"
    ):
        product_of_gaussians(3000, 4, generator(0))
