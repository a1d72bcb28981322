"""Validation sets choose the best setting of their own rows; weight decay is a normal prior."""

import math

import pytest
import torch

from d2l_lightning.errors import InputError
from d2l_lightning.functional.normal import gaussian_negative_log_likelihood
from d2l_lightning.functional.selection import (
    choose_by_validation_sets,
    most_probable_weights,
    prior_deviation,
)


def test_each_validation_set_chooses_its_best_setting() -> None:
    losses = torch.tensor([[1.0, 1, 4, 4, 2, 2], [2, 2, 2, 2, 2, 2], [3, 2, 3, 5, 1, 1]])
    chosen, excess = choose_by_validation_sets(losses, 3)
    assert chosen.tolist() == [0, 1, 2]
    means = [14 / 6, 2, 15 / 6]
    assert excess.tolist() == pytest.approx([mean / 2 - 1 for mean in means])
    assert choose_by_validation_sets(losses, 1)[0].tolist() == [1]


@pytest.mark.parametrize(
    ("losses", "sets"), [(torch.ones(2, 5), 2), (torch.ones(4), 2), (torch.ones(2, 0), 1)]
)
def test_rows_that_cannot_be_divided_are_refused(losses: torch.Tensor, sets: int) -> None:
    with pytest.raises(InputError, match="cannot be divided"):
        choose_by_validation_sets(losses, sets)


@pytest.mark.parametrize(("n", "d"), [(30, 4), (6, 9)])
def test_the_most_probable_weights_minimise_the_negative_log_posterior_and_weight_decay(
    n: int, d: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = X.sum(dim=1) + 2 + 0.3 * torch.randn(n, generator=generator, dtype=torch.float64)
    lambd, noise = 0.2, 0.3
    prior = prior_deviation(lambd, noise, n).item()
    w, b = (each.requires_grad_() for each in most_probable_weights(X, y, noise, prior))
    posterior = gaussian_negative_log_likelihood(X @ w + b, y, noise)
    posterior = posterior + gaussian_negative_log_likelihood(w, torch.zeros_like(w), prior)
    penalised = ((X @ w + b - y) ** 2).mean() / 2 + lambd / 2 * (w @ w)
    for objective in (posterior, penalised):  # both are convex
        for gradient in torch.autograd.grad(objective, (w, b)):
            torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-9, rtol=0)


def test_no_penalty_is_a_flat_prior() -> None:
    assert prior_deviation(0.0, 0.01, 20).item() == math.inf
    assert prior_deviation(torch.tensor([1.0, 4.0]), 0.1, 25).tolist() == pytest.approx([0.02, 0.01])
