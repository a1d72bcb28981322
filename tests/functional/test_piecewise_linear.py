"""Perceptrons of linear pieces: collapsed layers, kinks against a fine grid, and outputs of batches."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from d2l_lightning.functional.piecewise_linear import (
    collapse,
    compare_collapsed,
    kinks,
    perceptron,
    pieces,
    spread_over_batches,
    standardize,
)


def layers(sizes: list[int], seed: int) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = list(pairwise(sizes))
    weights = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    return weights, [torch.randn(q, dtype=torch.float64, generator=generator) for _, q in shapes]


def network(weights: list[Tensor], biases: list[Tensor], activation: nn.Module) -> nn.Sequential:
    modules: list[nn.Module] = []
    for W, b in zip(weights, biases, strict=True):
        layer = nn.Linear(*W.shape, dtype=torch.float64)
        layer.weight.data, layer.bias.data = W.T.contiguous(), b
        modules += [layer, activation]
    return nn.Sequential(*modules[:-1])


def test_a_perceptron_equals_the_frameworks() -> None:
    weights, biases = layers([3, 4, 5, 2], 0)
    X = torch.randn(6, 3, dtype=torch.float64)
    for alpha, activation in ((0.0, nn.ReLU()), (0.25, nn.LeakyReLU(0.25)), (1.0, nn.Identity())):
        expected = network(weights, biases, activation)(X)
        torch.testing.assert_close(perceptron(X, weights, biases, torch.tensor(alpha)), expected)


def test_layers_without_a_nonlinearity_collapse_to_one() -> None:
    weights, biases = layers([7, 2, 5], 1)
    X = torch.randn(9, 7, dtype=torch.float64)
    W, b = collapse(weights, biases)
    torch.testing.assert_close(network(weights, biases, nn.Identity())(X), X @ W + b)
    found = compare_collapsed(X, weights, biases)
    assert found["rank"] == 2
    assert found["largest_difference"] < 1e-12 < 0.1 < found["largest_difference_with_relu"]
    assert (found["parameters"], found["parameters_of_one_layer"]) == (14 + 2 + 10 + 5, 35 + 5)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 30), st.sampled_from([0.0, 0.25, -0.5]))
def test_kinks_are_where_slopes_change(seed: int, alpha: float) -> None:
    weights, biases = layers([1, 4, 3, 1], seed)
    slope = torch.tensor(alpha, dtype=torch.float64)
    found = kinks(weights, biases, slope, -2.0, 2.0)
    grid = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    second = perceptron(grid[:, None], weights, biases, slope)[:, 0].diff(n=2).abs()
    bent = grid[1:-1][second > 1e-9]
    # Each change of slope on the grid is next to a kink.
    assert all(min(abs(point - kink) for kink in found) < 1.01e-3 for point in bent.tolist())
    assert found == sorted(set(found))
    assert pieces(weights, biases, slope, -2.0, 2.0)["second_difference_within"] < 1e-12


def test_one_hidden_layer_has_a_kink_for_each_unit_and_none_without_a_nonlinearity() -> None:
    weights = [torch.tensor([[1.0, -2.0, 1.0]]).double(), torch.ones(3, 1).double()]
    biases = [torch.tensor([0.5, 1.0, -5.0]).double(), torch.zeros(1).double()]
    assert kinks(weights, biases, torch.tensor(0.0), -1.0, 1.0) == pytest.approx([-0.5, 0.5])
    none = pieces(weights, biases, torch.tensor(1.0).double(), -1.0, 1.0)
    assert none["kinks"] == []
    assert none["second_difference_over_all"] < 1e-12


def test_outputs_of_batches_depend_on_the_other_rows_only_where_the_nonlinearity_does() -> None:
    generator = torch.Generator().manual_seed(0)
    assert spread_over_batches(torch.relu, 1.5, 8, 100, generator) == (1.5, 0.0)
    mean, std = spread_over_batches(standardize, 1.5, 1000, 200, generator)
    assert mean == pytest.approx(1.5, abs=0.02)
    # The mean of n numbers varies by 1 / sqrt(n), their standard deviation by 1 / sqrt(2 n).
    assert std == pytest.approx(np.sqrt((1 + 1.5**2 / 2) / 1000), rel=0.2)


def test_standardized_batches_have_mean_0_and_variance_1() -> None:
    X = standardize(torch.randn(3, 50, dtype=torch.float64) * 7 + 2)
    torch.testing.assert_close(X.mean(dim=1), torch.zeros(3, dtype=X.dtype), rtol=0, atol=1e-12)
    torch.testing.assert_close(X.var(dim=1, correction=0), torch.ones(3, dtype=X.dtype))
