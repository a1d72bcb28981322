"""The Poisson distribution against torch.distributions, torch's loss and scikit-learn."""

import pytest
import torch
from sklearn.metrics import mean_poisson_deviance
from torch import nn
from torch.distributions import Poisson

from d2l_lightning.errors import InputError
from d2l_lightning.functional.normal import count_negative_log_likelihood
from d2l_lightning.functional.poisson import (
    poisson_deviance,
    poisson_negative_log_likelihood,
    poisson_negative_log_likelihood_of_log,
    poisson_probability,
)

RATE = torch.tensor([0.01, 0.5, 2.0, 8.0, 40.0]).double()
Y = torch.tensor([0.0, 1.0, 0.0, 11.0, 35.0]).double()


def test_probabilities_agree_with_torch_and_have_the_rate_as_their_mean() -> None:
    k = torch.arange(200).double()[:, None]
    p = poisson_probability(k, RATE)
    torch.testing.assert_close(p, Poisson(RATE).log_prob(k).exp())
    torch.testing.assert_close(p.sum(dim=0), torch.ones(5).double())
    torch.testing.assert_close((k * p).sum(dim=0), RATE)


def test_both_losses_are_the_negative_log_likelihood() -> None:
    expected = -Poisson(RATE).log_prob(Y)
    torch.testing.assert_close(poisson_negative_log_likelihood(RATE, Y), expected)
    torch.testing.assert_close(poisson_negative_log_likelihood_of_log(RATE.log(), Y), expected)
    for log_input, loss in (
        (False, poisson_negative_log_likelihood),
        (True, poisson_negative_log_likelihood_of_log),
    ):
        argument = RATE.log() if log_input else RATE
        reference = nn.PoissonNLLLoss(log_input=log_input, eps=0, reduction="none")(argument, Y)
        torch.testing.assert_close(loss(argument, Y), reference + torch.lgamma(Y + 1))


def test_the_gradient_for_a_log_rate_is_the_rate_minus_the_count() -> None:
    log_rate = RATE.log().requires_grad_()
    poisson_negative_log_likelihood_of_log(log_rate, Y).sum().backward()
    torch.testing.assert_close(log_rate.grad, RATE - Y)


def test_the_deviance_is_that_of_scikit_learn() -> None:
    reference = mean_poisson_deviance(Y.numpy(), RATE.numpy())
    assert poisson_deviance(RATE, Y).mean().item() == pytest.approx(reference)
    assert poisson_deviance(RATE, RATE).abs().max() == 0


def test_probabilities_of_counts_under_normal_noise_have_a_sum_of_1_and_do_not_underflow() -> None:
    k = torch.arange(-300, 300).double()
    mean, std = torch.tensor(1.3).double(), torch.tensor(2.5).double()
    losses = count_negative_log_likelihood(mean, k, std)
    assert losses.isfinite().all()
    assert (-losses).exp().sum().item() == pytest.approx(1)
    normal = torch.distributions.Normal(mean, std)
    near = (k - mean).abs() < 5
    expected = normal.cdf(k + 0.5) - normal.cdf(k - 0.5)
    torch.testing.assert_close((-losses).exp()[near], expected[near])


def test_shapes_that_differ_are_errors() -> None:
    for function in (
        poisson_negative_log_likelihood,
        poisson_negative_log_likelihood_of_log,
        poisson_deviance,
    ):
        with pytest.raises(InputError, match="does not go with y"):
            function(RATE[:, None], Y)
