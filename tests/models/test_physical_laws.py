"""Learned constants are the optima of reference methods, from starts that are far away."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from scipy.optimize import least_squares

from d2l_lightning.data.physical_laws import OhmData, PlanckData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.functional.physical_laws import log_spectral_density, spectral_density
from d2l_lightning.models.physical_laws import OhmsLaw, PlancksLaw

DATA: dict[str, Any] = {"num_train": 40, "batch_size": 40}


def learn(members: list[Any], data: Any, trainer: Callable[..., Trainer]) -> list[float]:
    """Return the constants that members learn from all rows in each step."""
    rows = {"train": [data.rows["train"]] * len(members)}
    stacked = StackedModule(members)
    trainer(max_epochs=100).fit(stacked, StackedData(data.X, data.y, rows, 40, 0))
    return [member.constant.item() for member in stacked.unstack()]  # type: ignore[attr-defined]


def test_the_resistance_is_the_least_squares_solution(trainer: Callable[..., Trainer]) -> None:
    data = OhmData(**DATA)
    found = learn([OhmsLaw(start) for start in (100.0, 400.0)], data, trainer)
    current = data.X[:, 0]
    assert found == pytest.approx([((current @ data.y) / (current @ current)).item()] * 2, rel=1e-4)


@pytest.mark.parametrize("loss", ["log", "squared"])
def test_the_temperature_is_that_of_scipys_least_squares(loss: Any, trainer: Callable[..., Trainer]) -> None:
    data = PlanckData(**DATA)
    X, y = data.X[:, 0].double(), data.y.double()

    def errors(temperature: Any) -> Any:
        if loss == "log":
            return (log_spectral_density(X, temperature[0]) - y.log()).numpy()
        return (spectral_density(X, temperature[0]) - y).numpy()

    expected = least_squares(errors, [5000.0], x_scale=1000.0, xtol=1e-12).x[0]
    found = learn([PlancksLaw(start, loss=loss) for start in (4000.0, 7500.0)], data, trainer)
    assert found == pytest.approx([expected] * 2, rel=1e-4)


def test_the_constant_itself_moves_by_the_learning_rate_at_most(trainer: Callable[..., Trainer]) -> None:
    model = PlancksLaw(3000.0, lr=0.5, scale="plain")
    trainer(max_epochs=3).fit(model, PlanckData(**DATA))
    assert 3000 < model.constant.item() <= 3000 + 3 * 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OhmsLaw(0.0), "start must be positive, not 0.0"),
        (lambda: OhmsLaw(1.0, lr=-1.0), "lr must be positive"),
        (lambda: OhmsLaw(1.0, scale="linear"), "scale must be one of log, plain"),
        (lambda: PlancksLaw(1.0, loss="huber"), "loss must be one of log, squared"),
        (lambda: OhmsLaw(1.0).example_losses(torch.ones(2, 1), torch.ones(2, 1)), "does not go with y"),
        (lambda: PlancksLaw(1.0).example_losses(torch.ones(2, 1), torch.ones(2, 1)), "does not go with y"),
    ],
)
def test_bad_arguments_are_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
