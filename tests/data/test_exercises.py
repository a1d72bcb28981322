"""Data of exercises: counts, dependent features, exponential noise, and measurements in physics."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from d2l_lightning.data.counts import CountData, SyntheticCountData
from d2l_lightning.data.exercises import DependentFeaturesData, ExponentialNoiseData
from d2l_lightning.data.physical_laws import OhmData, PlanckData
from d2l_lightning.errors import InputError
from d2l_lightning.functional.physical_laws import spectral_density


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_counts_of_any_type_become_numbers_of_the_type_of_the_features(dtype: torch.dtype) -> None:
    data = CountData(torch.zeros(4, 1).double(), torch.tensor([0, 3, 200, 1], dtype=dtype), 3, batch_size=2)
    assert data.y.tolist() == [0, 3, 200, 1]
    assert (data.y.dtype, data.num_val, data.batch_size) == (torch.float64, 1, 2)


def test_synthetic_counts_have_the_true_rates_as_their_mean() -> None:
    data = SyntheticCountData([0.3], -0.5, num_train=20000, num_val=5, batch_size=7)
    torch.testing.assert_close(data.rate, torch.exp(0.3 * data.X[:, 0] - 0.5))
    errors = (data.y - data.rate) / data.rate.sqrt()  # of mean 0 and variance 1
    assert errors.mean().item() == pytest.approx(0, abs=4 / math.sqrt(20000))
    assert errors.var().item() == pytest.approx(1, abs=0.06)
    assert (data.num_val, data.batch_size) == (5, 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [2, 5])
def test_the_last_feature_is_the_sum_of_the_others_to_the_bit(d: int, dtype: torch.dtype) -> None:
    data = DependentFeaturesData(d, noise=0.0, num_train=50)
    X = data.X.to(dtype)
    assert torch.equal(X[:, -1], X[:, :-1].sum(dim=1))
    assert torch.linalg.matrix_rank(X) == d - 1
    torch.testing.assert_close(data.y, data.X @ data.w)


def test_exponential_noise_has_the_density_of_its_name() -> None:
    errors = ExponentialNoiseData(-3.0, num_train=20000).y + 3
    assert errors.median().item() == pytest.approx(0, abs=4 / math.sqrt(20000))
    assert errors.abs().mean().item() == pytest.approx(1, abs=4 / math.sqrt(20000))
    assert (errors.abs() > 2).double().mean().item() == pytest.approx(math.exp(-2), abs=0.01)


def test_measurements_are_those_of_the_law_plus_noise() -> None:
    ohm = OhmData(50.0, voltage_noise=0.5, num_train=4000)
    errors = ohm.y - 50 * ohm.X[:, 0]
    assert errors.std().item() == pytest.approx(0.5, rel=0.05)
    planck = PlanckData(4000.0, density_noise=0.1, num_train=4000)
    errors = planck.y.log() - spectral_density(planck.X[:, 0], 4000.0).log()
    assert errors.std().item() == pytest.approx(0.1, rel=0.05)
    for data, low, high in ((ohm, 0.0, 0.1), (planck, 0.2, 3.0)):
        assert low <= data.X.min().item() < low + 0.01
        assert high - 0.01 < data.X.max().item() <= high


X = torch.zeros(3, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CountData(X, torch.tensor([1, -1, 0]), 2), r"y\[1\] is -1; counts are whole numbers"),
        (lambda: CountData(X, torch.tensor([1, 2.5, 0]), 2), r"y\[1\] is 2.5; counts are whole numbers"),
        (lambda: CountData(X, torch.tensor([1, math.nan, 0]), 2), r"y\[1\] must be a finite number"),
        (lambda: SyntheticCountData([]), "w must hold one weight for each feature"),
        (lambda: SyntheticCountData([math.inf]), "must be a finite number"),
        (lambda: SyntheticCountData(b=40.0), "w and b give a rate of .*; it must be below 1e7"),
        (lambda: SyntheticCountData(num_val=-1), "num_val must not be negative"),
        (lambda: DependentFeaturesData(1), "num_inputs must be at least 2"),
        (lambda: DependentFeaturesData(noise=-1.0), "noise must not be negative"),
        (lambda: ExponentialNoiseData(math.nan), "location must be a finite number"),
        (lambda: ExponentialNoiseData(num_train=0), "num_train must be positive"),
        (lambda: OhmData(-1.0), "resistance must be positive"),
        (lambda: OhmData(voltage_noise=-1.0), "voltage_noise must not be negative"),
        (lambda: PlanckData(0.0), "temperature must be positive"),
        (lambda: PlanckData(density_noise=-1.0), "density_noise must not be negative"),
    ],
)
def test_bad_arguments_are_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
