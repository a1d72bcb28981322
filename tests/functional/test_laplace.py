"""The likelihood of exponential noise against torch.distributions; its best constant is the median."""

import pytest
import torch
from torch.distributions import Laplace

from d2l_lightning.errors import InputError
from d2l_lightning.functional.laplace import laplace_negative_log_likelihood

Y = torch.randn(11, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_likelihood_agrees_with_torch(scale: float) -> None:
    y_hat = Y.flip(0)
    expected = -Laplace(y_hat, torch.tensor(scale).double()).log_prob(Y).sum()
    torch.testing.assert_close(laplace_negative_log_likelihood(y_hat, Y, scale), expected)


def test_the_constant_with_the_greatest_likelihood_is_the_median() -> None:
    constants = torch.cat([Y, Y + 0.01, Y - 0.01])
    costs = [laplace_negative_log_likelihood(b.expand(11), Y) for b in constants]
    assert constants[torch.stack(costs).argmin()] == Y.median()


def test_a_scale_that_is_not_positive_is_an_error() -> None:
    with pytest.raises(InputError, match="scale must be positive"):
        laplace_negative_log_likelihood(Y, Y, 0.0)
