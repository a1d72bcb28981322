"""Polynomial features against powers and the gamma function."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d2l_lightning.errors import InputError
from d2l_lightning.functional.polynomial import polynomial_features


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=5), st.integers(0, 25))
def test_features_are_powers_over_factorials(numbers: list[float], degree: int) -> None:
    x = torch.tensor(numbers, dtype=torch.float64)
    expected = [[value**i / math.gamma(i + 1) for i in range(degree + 1)] for value in numbers]
    torch.testing.assert_close(polynomial_features(x, degree), torch.tensor(expected, dtype=x.dtype))


def test_features_of_the_first_sample_are_those_that_the_book_prints() -> None:
    features = polynomial_features(torch.tensor([2.2122064]), 19)[0]
    assert features[:4].tolist() == pytest.approx([1.0, 2.21220636, 2.44692850, 1.80437028])
    assert features[19].item() == pytest.approx(2.92814419e-11)


def test_features_are_finite_where_the_factorial_overflows() -> None:
    features = polynomial_features(torch.tensor([2.0, 0.0]), 400)
    assert features.isfinite().all()
    assert features[:, 0].tolist() == [1.0, 1.0]
    assert features.sum(dim=1).tolist() == pytest.approx([math.exp(2), 1.0])


def test_a_negative_degree_is_an_error() -> None:
    assert polynomial_features(torch.tensor([5.0]), 0).tolist() == [[1.0]]
    with pytest.raises(InputError, match="degree must not be negative; it is -1"):
        polynomial_features(torch.tensor([5.0]), -1)
