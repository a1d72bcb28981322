"""The shifts are what they say: known ratios, changed images, houses on the right side."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from d2l_lightning.data.covariate_shift import (
    CovariateShiftData,
    ShiftedFashionMNIST,
    ShiftedHouses,
    SyntheticCovariateShift,
    shifted,
)
from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.errors import InputError
from d2l_lightning.models.linear_regression import LinearRegression
from tests.data.test_fashion_mnist import write


def made(data: Any) -> Any:
    data.prepare_data()
    data.setup()
    return data


def test_the_synthetic_ratio_is_that_of_the_densities() -> None:
    data = made(SyntheticCovariateShift(num_inputs=3, shift=0.7, num_source=50))
    X = data.X[data.rows["source"]].double()
    mean = 0.7 * data.direction.double()
    unit = torch.eye(3, dtype=torch.float64)
    q = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), unit)
    p = torch.distributions.MultivariateNormal(mean, unit)
    torch.testing.assert_close(data.ratio, (p.log_prob(X) - q.log_prob(X)).exp(), rtol=1e-5, atol=1e-6)
    assert data.direction.norm().item() == pytest.approx(1)


def test_the_synthetic_sides_are_where_they_say_and_follow_one_curve() -> None:
    data = made(
        SyntheticCovariateShift(shift=2.0, curvature=0.3, noise=0.2, num_source=30000, num_target=20000)
    )
    t = data.X @ data.direction
    for side, mean in (("source", 0.0), ("target", 2.0), ("test", 2.0)):
        rows = data.rows[side]
        assert t[rows].mean().item() == pytest.approx(mean, abs=0.03)
        assert t[rows].std().item() == pytest.approx(1, abs=0.03)
        e = data.y[rows] - t[rows] - 0.3 * t[rows].square()
        assert e.std().item() == pytest.approx(0.2, rel=0.05)
        assert e.mean().item() == pytest.approx(0, abs=0.01)
    # An expectation under the target is a weighted one under the source (eq. 4.9.3): E[t] = 2.
    near = made(SyntheticCovariateShift(shift=0.5, num_source=100_000))
    s = near.X[near.rows["source"]] @ near.direction
    assert near.ratio.mean().item() == pytest.approx(1, abs=0.02)
    assert (near.ratio * s).mean().item() == pytest.approx(0.5, abs=0.02)


def test_the_best_lines_are_those_of_the_docstring() -> None:
    s, c = 1.0, 0.5
    data = made(SyntheticCovariateShift(shift=s, curvature=c, noise=0.0, num_source=50000, num_test=50000))
    t = (data.X @ data.direction).double()
    for side, slope, offset in (("source", 1.0, c), ("test", 1 + 2 * c * s, c * (1 - s**2))):
        rows = data.rows[side]
        A = torch.stack([t[rows], torch.ones(len(rows)).double()], dim=1)
        found = torch.linalg.lstsq(A, data.y[rows].double()[:, None]).solution.flatten().tolist()
        assert found == pytest.approx([slope, offset], abs=0.05)


def test_it_trains_with_weights_where_there_are_any(trainer: Any) -> None:
    data = made(SyntheticCovariateShift(num_source=100, num_target=30, num_test=40, batch_size=32, seed=4))
    plain = list(data.train_dataloader())
    assert [len(batch) for batch in plain] == [2] * 4
    data.weights = data.ratio
    weighted = list(data.train_dataloader())
    t = torch.cat([X for X, _, _ in weighted]) @ data.direction
    torch.testing.assert_close(torch.cat([w for _, _, w in weighted]), (t - 0.5).exp())
    assert torch.equal(torch.cat([X for X, _ in plain]), torch.cat([X for X, _, _ in weighted]))
    torch.testing.assert_close(torch.cat([X for X, _ in data.test_dataloader()]), data.X[data.rows["test"]])
    predicted = torch.cat(list(data.predict_dataloader()))
    assert torch.equal(predicted, data.X[data.rows["target"]])
    model = LinearRegression(5)
    fit: Trainer = trainer(max_epochs=1)
    fit.fit(model, data)
    assert model.evaluated["val/loss"].isfinite()
    assert torch.cat(fit.predict(model, data)).shape == (30,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_inputs": 0}, "num_inputs must be positive"),
        ({"num_source": 0}, "num_source must be positive"),
        ({"num_target": 0}, "num_target must be positive"),
        ({"num_test": 0}, "num_test must be positive"),
        ({"shift": math.nan}, "shift must be a finite number"),
        ({"curvature": math.inf}, "curvature must be a finite number"),
        ({"noise": -1.0}, "noise must not be negative"),
        ({"batch_size": 0}, "batch_size must be positive"),
    ],
)
def test_bad_synthetic_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SyntheticCovariateShift(**settings)


# --- Images.


def test_images_are_turned_noisy_or_of_another_brightness() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(200, 28, 28, generator=generator)
    for quarter in (1, 2, -1):
        turned = shifted(images, "rotation", 90.0 * quarter, generator)
        torch.testing.assert_close(turned, images.rot90(quarter, (1, 2)), rtol=0, atol=1e-4)
    torch.testing.assert_close(shifted(images, "brightness", 0.5, generator), images / 2)
    torch.testing.assert_close(shifted(images, "brightness", 3.0, generator), (images * 3).clamp(0, 1))
    grey = torch.full((200, 28, 28), 0.5)
    noise = shifted(grey, "noise", 0.1, generator) - 0.5
    assert noise.std().item() == pytest.approx(0.1, rel=0.01)
    assert noise.mean().item() == pytest.approx(0, abs=0.001)
    wild = shifted(grey, "noise", 9.0, generator)
    assert (wild.min().item(), wild.max().item()) == (0, 1)


def test_some_images_of_each_side_are_changed_and_the_ratio_says_which(tmp_path: Path) -> None:
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
    # Nobody can weigh what the source has not.
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
        ({"amount": 0.0}, "an amount of 0 is no rotation of images at all"),
        ({"kind": "brightness", "amount": 1.0}, "an amount of 1 is no brightness of images at all"),
        ({"kind": "noise", "amount": -1.0}, "amount must not be negative"),
        ({"kind": "brightness", "amount": math.inf}, "amount must be finite"),
        ({"source_share": 1.1}, "source_share must be from 0 to 1"),
        ({"target_share": math.nan}, "target_share must be from 0 to 1"),
        ({"num_source": 0}, "num_source must be positive"),
    ],
)
def test_bad_image_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ShiftedFashionMNIST(**settings)


# --- Houses.


@pytest.mark.parametrize(
    "settings",
    [{"year": 1990}, {"split_by": "Neighborhood", "neighborhoods": ["OldTown", "NAmes"]}],
    ids=["year", "neighborhood"],
)
def test_houses_are_on_the_side_where_they_belong(settings: dict[str, Any]) -> None:
    data = made(ShiftedHouses(**settings))
    houses = made(KaggleHouse())
    split_by = settings.get("split_by", "YearBuilt")
    column = houses.raw[split_by][:1460]
    in_target = column.astype(int) >= 1990 if split_by == "YearBuilt" else column.isin(["OldTown", "NAmes"])
    assert set(data.rows["source"].tolist()) == {i for i, wanted in enumerate(in_target) if not wanted}
    both = torch.cat([data.rows["target"], data.rows["test"]])
    assert sorted(both.tolist()) == [i for i, wanted in enumerate(in_target) if wanted]
    assert abs(len(data.rows["target"]) - len(data.rows["test"])) <= 1
    kept = [i for i, name in enumerate(houses.feature_names) if not name.startswith(split_by)]
    assert len(kept) == 331 - (1 if split_by == "YearBuilt" else 26)
    assert torch.equal(data.X, houses.features()[:1460, kept])
    assert torch.equal(data.y, houses.prices)
    assert data.ratio is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split_by": "Street"}, "split_by must be one of YearBuilt, Neighborhood"),
        ({"year": 3000}, "year 3000: 1460 houses are the source and 0 the target; a target needs two"),
        ({"year": 1000}, "year 1000: 0 houses are the source and 1460 the target"),
        ({"split_by": "Neighborhood"}, r"neighborhoods \[\]: 1460 houses are the source and 0 the target"),
        (
            {"split_by": "Neighborhood", "neighborhoods": ["Soho"]},
            "there is no house in the neighborhood 'Soho'; there are Blmngtn, ",
        ),
    ],
)
def test_bad_house_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(ShiftedHouses(**settings))


def test_a_second_setup_does_nothing() -> None:
    data: CovariateShiftData = made(SyntheticCovariateShift(num_source=5, num_target=5, num_test=5))
    X = data.X
    data.setup()
    assert data.X is X
