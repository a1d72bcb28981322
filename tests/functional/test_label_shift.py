"""The estimated class shares solve their equation, or are the best distribution if there is no solution."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from d2l_lightning.errors import InputError
from d2l_lightning.functional.label_shift import confusion_matrix, label_distribution, project_onto_simplex


def draw(seed: int, k: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    C = torch.rand(k, k, dtype=torch.float64, generator=generator) + 2 * torch.eye(k)
    p = torch.rand(k, dtype=torch.float64, generator=generator)
    return C / C.sum(dim=0), p / p.sum()


@given(st.integers(0, 500), st.integers(2, 12))
def test_the_shares_behind_a_mean_prediction_are_found(seed: int, k: int) -> None:
    C, p = draw(seed, k)
    torch.testing.assert_close(label_distribution(C, C @ p), p)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(0, 500), st.integers(2, 12))
def test_outside_the_simplex_the_best_distribution_is_found(seed: int, k: int) -> None:
    C, p = draw(seed, k)
    mu = C @ (p + torch.linspace(-1, 1, k, dtype=torch.float64))
    found = label_distribution(C, mu)
    assert found.min() >= 0
    assert found.sum().item() == pytest.approx(1)
    # Karush, Kuhn and Tucker: the gradient is the same for all positive shares, and not less for others.
    gradient = C.T @ (C @ found - mu)
    level = gradient[found > 1e-6]
    torch.testing.assert_close(level, level.mean().expand_as(level), rtol=0, atol=1e-6)
    assert gradient.min() > level.mean() - 1e-6


def test_for_two_classes_it_is_the_best_of_a_fine_grid() -> None:
    C, mu = torch.tensor([[0.9, 0.3], [0.1, 0.7]]), torch.tensor([0.2, 0.8])
    share = torch.linspace(0, 1, 100001)
    p = torch.stack([share, 1 - share])
    best = p[:, (C @ p - mu[:, None]).norm(dim=0).argmin()]
    torch.testing.assert_close(label_distribution(C, mu).float(), best, rtol=0, atol=1e-4)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
def test_the_projection_is_the_nearest_distribution(values: list[float]) -> None:
    v = torch.tensor(values, dtype=torch.float64)
    found = project_onto_simplex(v)
    assert found.sum().item() == pytest.approx(1)
    for corner in torch.eye(len(v), dtype=torch.float64):  # no step towards a corner is nearer
        assert ((v - found) @ (corner - found)).item() <= 1e-9


def test_columns_of_the_confusion_matrix_are_mean_predictions() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.0, 1.0], [0.4, 0.6]])
    C = confusion_matrix(probabilities, torch.tensor([0, 0, 1, 1, 1]))
    expected = torch.tensor([[0.8, 0.2], [0.2, 0.8]], dtype=torch.float64)
    torch.testing.assert_close(C, expected, rtol=0, atol=1e-7)


def rotation(angle: float) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)


@pytest.mark.parametrize(("condition", "accepted"), [(999.9, True), (1000.1, False), (1e6, False)])
def test_a_condition_above_1000_is_an_error(condition: float, accepted: bool) -> None:
    C = rotation(0.7) @ torch.diag(torch.tensor([1.0, 1 / condition]).double()) @ rotation(-0.7)
    p = torch.tensor([0.3, 0.7], dtype=torch.float64)
    if accepted:
        torch.testing.assert_close(label_distribution(C, C @ p), p)
    else:
        with pytest.raises(InputError, match=re.escape(f"(condition number {condition:.3g})")):
            label_distribution(C, C @ p)


def test_bad_input_is_an_error() -> None:
    with pytest.raises(InputError, match=r"shape \(4, 2\) do not go with y of shape \(3,\)"):
        confusion_matrix(torch.zeros(4, 2), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(InputError, match=r"rows of the source lack the classes \[1\]; hold out more"):
        confusion_matrix(torch.zeros(2, 3), torch.tensor([0, 2]))
    with pytest.raises(InputError, match="classes must be from 0 to 1, but they are from 0 to 2"):
        confusion_matrix(torch.zeros(3, 2), torch.tensor([0, 1, 2]))
    with pytest.raises(InputError, match="must be a finite number, not nan"):
        confusion_matrix(torch.full((2, 2), torch.nan), torch.tensor([0, 1]))
    with pytest.raises(
        InputError, match=r"C of shape \(2, 2\) does not go with mean_prediction of shape \(3,\)"
    ):
        label_distribution(torch.eye(2), torch.ones(3))
    with pytest.raises(InputError, match="the confusion matrix is singular or nearly so"):
        label_distribution(torch.full((3, 3), 1 / 3), torch.full((3,), 1 / 3))
