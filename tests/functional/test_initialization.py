"""Xavier's formulas, and the variance of a layer's output."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from d2l_lightning.functional.initialization import (
    output_variance,
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
