"""Steps that become shorter reach the median; equal steps jump over it."""

from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import Trainer

from d2l_lightning.callbacks.parameter_path import ParameterPath
from d2l_lightning.data.exercises import ExponentialNoiseData
from d2l_lightning.functional.linear import sgd_update
from d2l_lightning.models.absolute_loss import LeastAbsoluteDeviations


@pytest.mark.parametrize("falling", [True, False])
def test_each_step_is_that_of_the_formula(falling: bool, trainer: Callable[..., Trainer]) -> None:
    data = ExponentialNoiseData(num_train=9, batch_size=9)
    model = LeastAbsoluteDeviations(1, lr=1.0, falling=falling, sigma=0.0, bias=False)
    path = ParameterPath(model.net.weight)
    trainer(max_epochs=6, callbacks=[path]).fit(model, data)
    b, expected = torch.zeros(()), [torch.zeros(())]
    for t in range(1, 7):
        b = sgd_update(b, (b - data.y).sign().mean(), t**-0.5 if falling else 1.0)
        expected.append(b)
    torch.testing.assert_close(path.values.squeeze(), torch.stack(expected))
    assert model.hparams["loss"] == "absolute"
