"""Penalties and the proximal step against independent references."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from d2l_lightning.functional.penalties import l1_penalty, l2_penalty, soft_threshold, soft_threshold_

WEIGHTS = st.lists(st.floats(-10, 10), min_size=1, max_size=20).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


@given(WEIGHTS)
def test_penalties_are_norms(w: torch.Tensor) -> None:
    torch.testing.assert_close(l2_penalty(w), torch.linalg.norm(w) ** 2 / 2)
    torch.testing.assert_close(l1_penalty(w), torch.linalg.norm(w, 1))


def test_the_penalty_of_a_matrix_is_half_its_squared_frobenius_norm() -> None:
    W = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(l2_penalty(W), torch.trace(W.T @ W) / 2)
    torch.testing.assert_close(l2_penalty(W), torch.linalg.matrix_norm(W, "fro") ** 2 / 2)


@given(WEIGHTS, st.floats(0, 5))
def test_the_soft_threshold_agrees_with_torch(w: torch.Tensor, threshold: float) -> None:
    expected = F.softshrink(w, threshold)
    assert torch.equal(soft_threshold(w, threshold), expected)
    assert soft_threshold_(w, threshold) is w
    assert torch.equal(w, expected)


@given(st.floats(-3, 3), st.floats(0, 2))
def test_the_soft_threshold_minimises_penalty_plus_distance(w: float, threshold: float) -> None:
    v = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    cost = threshold * v.abs() + (v - w) ** 2 / 2
    best = v[cost.argmin()]
    assert (soft_threshold(torch.tensor(w, dtype=torch.float64), threshold) - best).abs() < 1e-3
