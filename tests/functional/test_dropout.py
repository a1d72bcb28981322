"""Dropout: the share of dropped elements, the expected value, averages over masks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d2l_lightning.errors import InputError
from d2l_lightning.functional.dropout import average_over_masks, dropout_layer

X = torch.arange(16.0).reshape(2, 8)


def test_probabilities_0_and_1() -> None:
    assert torch.equal(dropout_layer(X, 0), X)
    assert torch.equal(dropout_layer(X, 1), torch.zeros_like(X))


@pytest.mark.parametrize("dropout", [0, 0.5, 1])
def test_the_integers_of_the_book_become_floats(dropout: float) -> None:
    integers, results = X.long(), []
    for values in (integers, X):
        torch.manual_seed(0)
        results.append(dropout_layer(values, dropout))
    assert results[0].dtype == torch.float32
    assert torch.equal(*results)


@given(st.floats(0.01, 0.99), st.integers(0, 1000))
def test_kept_elements_are_scaled(dropout: float, seed: int) -> None:
    torch.manual_seed(seed)
    dropped = dropout_layer(X + 1, dropout)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], (X + 1)[kept] / (1 - dropout))


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_the_share_of_dropped_elements_and_the_expected_value(dropout: float) -> None:
    torch.manual_seed(0)
    dropped = dropout_layer(torch.full((400_000,), 3.0), dropout)
    assert (dropped == 0).float().mean().item() == pytest.approx(dropout, abs=0.004)
    assert dropped.mean().item() == pytest.approx(3.0, rel=0.02)  # eq. 4.6.1


def test_gradients_are_dropped_with_their_elements() -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, requires_grad=True)
    dropped = dropout_layer(x, 0.25)
    (gradient,) = torch.autograd.grad(dropped.sum(), x)
    assert torch.equal(gradient, dropped.detach())


@pytest.mark.parametrize("dropout", [-0.1, 1.1, float("nan")])
def test_a_probability_outside_0_to_1_is_an_error(dropout: float) -> None:
    with pytest.raises(InputError, match="dropout must be from 0 to 1"):
        dropout_layer(X, dropout)


def test_the_average_over_masks() -> None:
    probabilities = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.3, 0.7], [0.4, 0.6]]])
    predicted, confidence, spread = average_over_masks(probabilities)
    assert predicted.tolist() == [0, 1]
    torch.testing.assert_close(confidence, torch.tensor([0.6, 0.7]))
    torch.testing.assert_close(spread, torch.tensor([0.3, 0.1]))
