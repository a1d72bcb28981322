"""Polynomial features against powers and the gamma function, exact fits against rational numbers."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import PolynomialFeatures

from d2l_lightning.errors import InputError
from d2l_lightning.functional.linear import least_squares_with_bias
from d2l_lightning.functional.polynomial import (
    basis_features,
    exact_losses,
    losses_by_amount,
    mean_fold_losses,
    orthogonal_polynomials,
    polynomial_features,
    quadratic_features,
)


@settings(deadline=None, max_examples=40)
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


def test_a_linear_model_of_quadratic_features_finds_a_quadratic_function() -> None:
    X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    features = quadratic_features(X)
    reference = PolynomialFeatures(2, include_bias=False).fit_transform(X.numpy())
    torch.testing.assert_close(features, torch.from_numpy(reference))
    y = 2 + X[:, 0] - 3 * X[:, 1] ** 2 + 0.5 * X[:, 0] * X[:, 2]
    w, b = least_squares_with_bias(features, y)
    # x1, x2, x3, x1 x1, x1 x2, x1 x3, x2 x2, x2 x3, x3 x3
    torch.testing.assert_close(w, torch.tensor([1, 0, 0, 0, 0, 0.5, -3, 0, 0]).double())
    assert b.item() == pytest.approx(2)


def draw(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=generator), torch.randn(n, generator=generator)


def test_exact_losses_are_numpys_for_low_degrees() -> None:
    x, y = draw(30)
    found = exact_losses(x, y, 20, 6)
    assert found.shape == (7, 2)
    for degree, losses in enumerate(found.tolist()):
        fitted = np.polynomial.Polynomial.fit(x[:20].double().numpy(), y[:20].double().numpy(), degree)
        squares = (fitted(x.double().numpy()) - y.double().numpy()) ** 2 / 2
        assert losses == pytest.approx([squares[:20].mean(), squares[20:].mean()], rel=1e-9)


def test_degree_n_minus_1_goes_through_n_rows_and_is_as_rational_numbers_give_it() -> None:
    n = 30
    x, y = draw(n + 5)
    *_, (train, test) = exact_losses(x, y, n, 99).tolist()
    assert train < 1e-25
    points = [(Fraction(a), Fraction(b)) for a, b in zip(x.tolist(), y.tolist(), strict=True)]

    def interpolate(at: Fraction) -> Fraction:
        total = Fraction(0)
        for i, (x_i, y_i) in enumerate(points[:n]):
            for j, (x_j, _) in enumerate(points[:n]):
                y_i *= (at - x_j) / (x_i - x_j) if i != j else 1
            total += y_i
        return total

    squares = [float(interpolate(at) - label) ** 2 / 2 for at, label in points[n:]]
    assert test == pytest.approx(sum(squares) / 5, rel=1e-6)


def test_exact_losses_end_where_rows_have_the_same_x_or_numbers_are_too_large() -> None:
    x, y = draw(10)
    x[:4] = 1.0
    assert len(exact_losses(x, y, 8, 20)) == 5
    x, y = draw(450)
    ended = exact_losses(x, y, 400, 399)
    assert 100 < len(ended) < 400
    assert ended.isfinite().all()
    assert len(exact_losses(*draw(5), 5, 4)) == 5  # without rows to test on


def test_orthogonal_polynomials_are_orthonormal_on_the_training_rows() -> None:
    Q = orthogonal_polynomials(draw(120)[0].double(), 100, 99)
    torch.testing.assert_close(Q[:100].T @ Q[:100], torch.eye(100, dtype=Q.dtype), rtol=0, atol=1e-12)


def test_mean_losses_of_folds_are_means_of_exact_losses() -> None:
    x, y = draw(12)
    first, second = torch.arange(6), torch.arange(6, 12)
    found = mean_fold_losses(x, y, [second, first], [first, second], 2)
    swapped = exact_losses(torch.cat([x[6:], x[:6]]), torch.cat([y[6:], y[:6]]), 6, 2)
    torch.testing.assert_close(found, (exact_losses(x, y, 6, 2) + swapped) / 2)


def test_losses_by_amount_leave_out_too_few_rows() -> None:
    found = losses_by_amount(lambda n: [draw(2 * n, seed) for seed in range(3)], 4, [3, 5, 8])
    assert found["n"] == [5, 8]
    assert found["train_loss"][0] < 1e-20 < found["train_loss"][1]


def test_bases_span_the_same_polynomials() -> None:
    x = draw(40)[0].double()
    powers = torch.tensor(np.vander(x.numpy(), 5, increasing=True))
    torch.testing.assert_close(basis_features(x, 4, "powers", 30), powers)
    for basis in ("factorial", "standardized", "orthogonal"):
        X = basis_features(x, 4, basis, 30)
        assert torch.linalg.matrix_rank(torch.cat([X, powers], dim=1), rtol=1e-9) == 5
        torch.testing.assert_close(X[:, 0], torch.ones_like(x))
    standardized = basis_features(x, 4, "standardized", 30)[:30, 1:]
    torch.testing.assert_close(standardized.mean(dim=0), torch.zeros(4, dtype=x.dtype), rtol=0, atol=1e-12)
    torch.testing.assert_close(standardized.std(dim=0), torch.ones(4, dtype=x.dtype))
    X = basis_features(x, 4, "orthogonal", 30)[:30]
    torch.testing.assert_close(X.T @ X / 30, torch.eye(5, dtype=x.dtype), rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="3 training rows determine 3 orthogonal polynomials, and degree 4"):
        basis_features(x, 4, "orthogonal", 3)
    with pytest.raises(InputError, match="training rows that differ in x; take at least two"):
        basis_features(torch.ones(3), 4, "standardized", 3)
    with pytest.raises(InputError, match="basis"):
        basis_features(x, 4, "sines", 3)  # type: ignore[arg-type]
