"""Softmax, cross-entropy and accuracy, compared with torch and torchmetrics."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from d2l_lightning.errors import InputError
from d2l_lightning.functional.classification import (
    confusion_matrix,
    correct_predictions,
    cross_entropy,
    softmax,
)


def draw(seed: int, scale: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(12, 5, generator=generator, dtype=torch.float64)
    return logits, torch.randint(5, (12,), generator=generator)


@given(st.integers(0, 1000), st.sampled_from([1e-3, 1.0, 30.0, 1e4]))
def test_values_equal_torchs(seed: int, scale: float) -> None:
    logits, y = draw(seed, scale)
    torch.testing.assert_close(softmax(logits), F.softmax(logits, dim=1))
    torch.testing.assert_close(softmax(logits).sum(dim=1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(cross_entropy(logits, y), F.cross_entropy(logits, y, reduction="none"))
    assert correct_predictions(logits, y).mean().item() == pytest.approx(
        multiclass_accuracy(logits, y, 5, average="micro").item()
    )
    assert torch.equal(confusion_matrix(logits, y), multiclass_confusion_matrix(logits, y, 5))


@given(st.integers(0, 1000))
def test_gradients_are_probabilities_minus_the_truth(seed: int) -> None:
    logits, y = draw(seed, 3.0)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(logits, y).sum(), logits)
    torch.testing.assert_close(gradient, softmax(logits).detach() - F.one_hot(y, 5))


def test_nothing_overflows() -> None:
    logits = torch.tensor([[1e4, 0.0], [-1e4, 0.0]])
    assert softmax(logits).tolist() == [[1, 0], [0, 1]]
    assert cross_entropy(logits, torch.tensor([1, 0])).tolist() == [1e4, 1e4]
    assert cross_entropy(torch.zeros(1, 10), torch.tensor([3])).item() == pytest.approx(math.log(10))


def test_shapes_that_do_not_match_are_an_error() -> None:
    with pytest.raises(InputError, match=r"logits of shape \(4, 3\) do not go with y of shape \(4, 1\)"):
        cross_entropy(torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.int64))
