"""The weights of the drifting stream rotate at a constant rate, and its batches come in order."""

import math
from typing import Any

import pytest
import torch

from d2l_lightning.data.streams import DriftingStream
from d2l_lightning.errors import InputError


@pytest.mark.parametrize("turn", [0.0, 0.3, math.pi / 2, -1.0])
def test_the_weights_rotate_at_a_constant_rate(turn: float) -> None:
    data = DriftingStream(num_inputs=4, num_rows=101, turn=turn)
    torch.testing.assert_close(data.w.norm(dim=1), torch.ones(101))
    cosines = data.w.double() @ data.w[0].double()
    expected = torch.cos(turn * torch.linspace(0, 1, 101, dtype=torch.float64))
    torch.testing.assert_close(cosines, expected, rtol=0, atol=1e-6)


def test_targets_are_a_linear_function_plus_noise() -> None:
    data = DriftingStream(num_rows=20000, noise=0.5)
    e = data.y - (data.w * data.X).sum(dim=1)
    assert e.std().item() == pytest.approx(0.5, rel=0.03)
    assert e.mean().item() == pytest.approx(0, abs=0.02)
    assert data.X.std().item() == pytest.approx(1, rel=0.02)
    exact = DriftingStream(num_rows=50, noise=0)
    torch.testing.assert_close(exact.y, (exact.w * exact.X).sum(dim=1))


def test_batches_come_in_order() -> None:
    data = DriftingStream(num_rows=23, batch_size=5)
    batches = list(data.train_dataloader())
    assert [len(y) for _, y in batches] == [5, 5, 5, 5, 3]
    assert torch.equal(torch.cat([X for X, _ in batches]), data.X)
    assert torch.equal(torch.cat([y for _, y in batches]), data.y)


def test_the_data_depend_on_the_seed_alone() -> None:
    assert torch.equal(DriftingStream(seed=1).y, DriftingStream(seed=1).y)
    assert not torch.equal(DriftingStream(seed=1).y, DriftingStream(seed=2).y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_inputs": 1}, "num_inputs must be at least 2"),
        ({"num_rows": 0}, "num_rows must be positive"),
        ({"turn": math.inf}, "turn must be a finite number"),
        ({"noise": -1.0}, "noise must not be negative"),
        ({"batch_size": 0}, "batch_size must be positive"),
    ],
)
def test_settings_out_of_range_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DriftingStream(**settings)
