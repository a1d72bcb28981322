"""Products of matrices against NumPy's, their growth in theory, and bounds on their singular values."""

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2l_lightning.errors import InputError
from d2l_lightning.functional.matrix_products import (
    cumulative_products,
    gaussian_matrices,
    product_bounds,
)


def draw(number: int, seed: int, size: int = 4) -> torch.Tensor:
    return gaussian_matrices(number, size, torch.Generator().manual_seed(seed))


def test_the_products_equal_numpys() -> None:
    matrices = draw(101, seed=3)
    products = cumulative_products(matrices)
    expected = np.linalg.multi_dot([*matrices.numpy()])
    np.testing.assert_allclose(products[-1].numpy(), expected, rtol=1e-9)
    assert products.shape == (101, 4, 4)
    assert torch.equal(products[0], matrices[0])


def test_the_products_grow_as_in_theory() -> None:
    # Newman (1986): a factor of exp((ln 2 + digamma(n / 2)) / 2) for each n by n matrix; n is 4.
    rate = (math.log(2) + torch.digamma(torch.tensor(2.0)).item()) / 2
    last = [math.log(cumulative_products(draw(201, seed))[-1].abs().max()) for seed in range(40)]
    assert statistics.fmean(last) / 201 == pytest.approx(rate, abs=0.03)


def test_a_product_outside_double_precision_is_an_error() -> None:
    with pytest.raises(InputError, match=r"the product of 3000 matrices .* choose a smaller num_matrices"):
        cumulative_products(draw(3001, 0))
    with pytest.raises(InputError, match=r"a bound for 900 matrices is out of range"):
        product_bounds(draw(900, 0))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(1, 5), st.integers(0, 1000))
def test_singular_values_are_numpys_and_within_their_bounds(number: int, size: int, seed: int) -> None:
    matrices = draw(number, seed, size)
    if max(np.linalg.cond(matrices.numpy())) < 1e3:
        found = product_bounds(matrices)
        singular = np.linalg.svd(cumulative_products(matrices).numpy(), compute_uv=False)
        np.testing.assert_allclose(found["largest"], singular[:, 0], rtol=1e-9)
        if number < 4:  # the smallest singular values of longer products are rounding errors in NumPy's
            np.testing.assert_allclose(found["smallest"], singular[:, -1], rtol=1e-5)
        slack = 1 + 1e-9
        for value, bound in (("largest", "largest_bound"), ("smallest_bound", "smallest")):
            assert all(a <= b * slack for a, b in zip(found[value], found[bound], strict=True))
        assert all(a <= b * slack for a, b in zip(found["eigenvalue"], found["largest"], strict=True))


def test_the_smallest_singular_value_is_exact_where_the_product_has_lost_it() -> None:
    # Singular values of 2^50 and 2^-50 after 50 matrices: a condition number of 1e30.
    rotation = torch.linalg.qr(draw(1, 0, 2)[0]).Q
    matrix = rotation @ torch.diag(torch.tensor([2.0, 0.5], dtype=torch.float64)) @ rotation.T
    found = product_bounds(matrix.expand(50, 2, 2))
    rotated = product_bounds(torch.linalg.qr(draw(50, 1, 2)).Q)
    assert found["smallest"][-1] == pytest.approx(2.0**-50)
    assert found["smallest_bound"][-1] == pytest.approx(2.0**-50)
    assert rotated["smallest"][-1] == pytest.approx(rotated["largest"][-1]) == pytest.approx(1)
