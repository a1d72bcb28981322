"""Synthetic covariate shift has known density ratios, and its loaders give the right rows."""

import math
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from d2l_lightning.data.synthetic_shift import SyntheticCovariateShift
from d2l_lightning.errors import InputError
from d2l_lightning.models.linear_regression import LinearRegression


def made(data: Any) -> Any:
    data.setup()
    return data


def test_the_true_weights_are_the_ratio_of_the_densities() -> None:
    data = made(SyntheticCovariateShift(num_inputs=3, shift=0.7, num_source=50))
    X = data.X[data.rows["source"]].double()
    mean = 0.7 * data.direction.double()
    unit = torch.eye(3, dtype=torch.float64)
    q = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), unit)
    p = torch.distributions.MultivariateNormal(mean, unit)
    torch.testing.assert_close(data.ratio, (p.log_prob(X) - q.log_prob(X)).exp(), rtol=1e-5, atol=1e-6)
    assert data.direction.norm().item() == pytest.approx(1)


def test_source_and_target_have_their_means_and_share_one_curve() -> None:
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
    # An expectation under the target is a weighted expectation under the source (eq. 4.9.3): E[t] = 0.5.
    near = made(SyntheticCovariateShift(shift=0.5, num_source=100_000))
    s = near.X[near.rows["source"]] @ near.direction
    assert near.ratio.mean().item() == pytest.approx(1, abs=0.02)
    assert (near.ratio * s).mean().item() == pytest.approx(0.5, abs=0.02)


def test_the_best_lines_are_those_in_the_docstring() -> None:
    s, c = 1.0, 0.5
    data = made(SyntheticCovariateShift(shift=s, curvature=c, noise=0.0, num_source=50000, num_test=50000))
    t = (data.X @ data.direction).double()
    for side, slope, offset in (("source", 1.0, c), ("test", 1 + 2 * c * s, c * (1 - s**2))):
        rows = data.rows[side]
        A = torch.stack([t[rows], torch.ones(len(rows)).double()], dim=1)
        found = torch.linalg.lstsq(A, data.y[rows].double()[:, None]).solution.flatten().tolist()
        assert found == pytest.approx([slope, offset], abs=0.05)


def test_training_batches_have_weights_if_they_are_set(trainer: Any) -> None:
    data = made(SyntheticCovariateShift(num_source=100, num_target=30, num_test=40, batch_size=32, seed=4))
    plain = list(data.train_dataloader())
    assert [len(batch) for batch in plain] == [2] * 4
    data.weights = data.ratio
    loader: Any = data.train_dataloader()
    loader.sampler.set_epoch(0)
    weighted = list(loader)
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
def test_settings_out_of_range_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SyntheticCovariateShift(**settings)


def test_a_second_setup_does_nothing() -> None:
    data = made(SyntheticCovariateShift(num_source=5, num_target=5, num_test=5))
    X = data.X
    data.setup()
    assert data.X is X
