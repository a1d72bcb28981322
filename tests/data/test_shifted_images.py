"""Images are changed as asked, at the shares asked for, and the true weights follow from these shares."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from d2l_lightning.data.shifted_images import ShiftedFashionMNIST, shift_images
from d2l_lightning.errors import InputError
from tests.data.test_fashion_mnist import write


def made(data: Any) -> Any:
    data.setup()
    return data


def test_images_are_rotated_noisy_or_of_another_brightness() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(200, 28, 28, generator=generator)
    for quarter in (1, 2, -1):
        rotated = shift_images(images, "rotation", 90.0 * quarter, generator)
        torch.testing.assert_close(rotated, images.rot90(quarter, (1, 2)), rtol=0, atol=1e-4)
    torch.testing.assert_close(shift_images(images, "brightness", 0.5, generator), images / 2)
    torch.testing.assert_close(shift_images(images, "brightness", 3.0, generator), (images * 3).clamp(0, 1))
    grey = torch.full((200, 28, 28), 0.5)
    noise = shift_images(grey, "noise", 0.1, generator) - 0.5
    assert noise.std().item() == pytest.approx(0.1, rel=0.01)
    assert noise.mean().item() == pytest.approx(0, abs=0.001)
    wild = shift_images(grey, "noise", 9.0, generator)
    assert (wild.min().item(), wild.max().item()) == (0, 1)


def test_images_are_changed_at_the_given_shares_and_weights_follow_from_these(tmp_path: Path) -> None:
    folder = str(write(tmp_path, (4000, 2000)))
    settings: dict[str, Any] = {"kind": "brightness", "amount": 0.0, "num_source": 3000, "seed": 1}
    data = made(ShiftedFashionMNIST(folder, source_share=0.2, target_share=0.6, **settings))
    assert [len(data.rows[side]) for side in ("source", "target", "test")] == [3000, 1000, 1000]
    black = data.X.amax(dim=1) == 0
    for side, share in (("source", 0.2), ("target", 0.6), ("test", 0.6)):
        assert black[data.rows[side]].double().mean().item() == pytest.approx(share, abs=0.05)
    expected = torch.where(black[data.rows["source"]], 0.6 / 0.2, 0.4 / 0.8).double()
    torch.testing.assert_close(data.ratio, expected, rtol=1e-6, atol=1e-6)
    assert data.ratio.mean().item() == pytest.approx(1, abs=0.05)
    plain = ~black[data.rows["source"]]
    columns = data.X[data.rows["source"]][plain].view(-1, 28, 28)[:, 16, :20:2]
    assert torch.equal(columns.argmax(dim=1), data.y[data.rows["source"]][plain])
    # There are no weights for a kind of image that the source does not have.
    none = made(ShiftedFashionMNIST(folder, "brightness", 0.5, source_share=0, target_share=0.5, seed=1))
    assert none.ratio is None
    assert len(none.rows["source"]) == 4000
    alike = made(ShiftedFashionMNIST(folder, "noise", 0.5, source_share=0.3, target_share=0.3))
    assert torch.equal(alike.ratio, torch.ones(4000).double())
    other = made(ShiftedFashionMNIST(folder, source_share=0.2, target_share=0.6, **{**settings, "seed": 2}))
    assert not torch.equal(other.X, data.X)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "blur"}, "kind must be one of rotation, noise, brightness, not 'blur'"),
        ({"amount": 181.0}, "amount must be from -180 to 180 degrees of rotation, not 181"),
        ({"amount": math.nan}, "amount must be from -180"),
        ({"amount": 0.0}, "an amount of 0 does not change images by rotation"),
        ({"kind": "brightness", "amount": 1.0}, "an amount of 1 does not change images by brightness"),
        ({"kind": "noise", "amount": -1.0}, "amount must not be negative"),
        ({"kind": "brightness", "amount": math.inf}, "amount must be finite"),
        ({"source_share": 1.1}, "source_share must be from 0 to 1"),
        ({"target_share": math.nan}, "target_share must be from 0 to 1"),
        ({"num_source": 0}, "num_source must be positive"),
    ],
)
def test_settings_out_of_range_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ShiftedFashionMNIST(**settings)
