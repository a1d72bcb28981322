"""Fashion-MNIST with label shift has other class shares in the target than in the source."""

from pathlib import Path
from typing import Any

import pytest
import torch

from d2l_lightning.data.label_shift import LabelShiftedFashionMNIST
from d2l_lightning.errors import InputError
from tests.data.test_fashion_mnist import write


def made(folder: Path, **settings: Any) -> LabelShiftedFashionMNIST:
    data = LabelShiftedFashionMNIST(str(write(folder, (200, 100))), **settings)
    data.setup()
    return data


def test_the_target_has_other_shares_and_no_training_row(tmp_path: Path) -> None:
    data = made(tmp_path, num_target=5000, seed=3)
    target = data.rows["test"]
    assert len(target) == 5000
    assert target.min() >= 200
    shares = torch.bincount(data.labels[target], minlength=10).double() / 5000
    torch.testing.assert_close(data.target_shares, shares)
    assert (data.target_shares - 0.1).abs().sum() > 0.3
    assert data.source_shares.sum().item() == pytest.approx(1)
    assert set(data.rows["train"].tolist()) & set(data.rows["val"].tolist()) == set()


def test_a_great_concentration_makes_the_shares_even(tmp_path: Path) -> None:
    even = made(tmp_path, concentration=1e6, num_target=5000)
    torch.testing.assert_close(even.target_shares, torch.full((10,), 0.1).double(), rtol=0, atol=0.02)


def test_the_target_depends_on_the_seed_alone(tmp_path: Path) -> None:
    first, same, other = (made(tmp_path, num_target=5000, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.rows["test"], same.rows["test"])
    assert not torch.equal(first.target_shares, other.target_shares)


@pytest.mark.parametrize("settings", [{"concentration": 0.0}, {"num_target": 0}])
def test_settings_out_of_range_are_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(settings))} must be positive"):
        LabelShiftedFashionMNIST(**settings)
