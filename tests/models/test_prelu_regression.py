"""The perceptron with a pReLU of fixed slope: members of several slopes equal models that train alone."""

from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import Trainer

from d2l_lightning.data.regression import RegressionData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models.prelu_regression import PReLURegression


def test_members_of_several_slopes_equal_models_that_train_alone(trainer: Callable[..., Trainer]) -> None:
    X = torch.linspace(-1, 1, 24)[:, None]
    y = X[:, 0].abs()
    alphas = (0.0, 0.25, 1.0)
    torch.manual_seed(0)
    members = [PReLURegression(1, [5, 4], alpha, lr=0.02) for alpha in alphas]
    for member in members[1:]:
        member.load_state_dict(members[0].state_dict())
    start = {name: value.clone() for name, value in members[0].state_dict().items()}
    stacked = StackedModule(members)
    trainer(max_epochs=4).fit(stacked, StackedData(X, y, {"train": [torch.arange(24)] * 3}, 8, 0, True))
    for alpha, member in zip(alphas, stacked.unstack(), strict=True):
        alone = PReLURegression(1, [5, 4], alpha, lr=0.02)
        alone.load_state_dict(start)
        trainer(max_epochs=4).fit(alone, RegressionData(X, y, 24, 8))
        torch.testing.assert_close(member(X), alone(X), rtol=1e-4, atol=1e-6)
        assert not torch.equal(alone(X), members[0](X))


def test_bad_arguments_are_errors() -> None:
    with pytest.raises(InputError, match=r"hidden_sizes must name at least one positive width, not \[\]"):
        PReLURegression(hidden_sizes=[])
    with pytest.raises(InputError, match="alpha must be a finite number"):
        PReLURegression(alpha=float("nan"))
    with pytest.raises(InputError, match="lr must be positive, not 0"):
        PReLURegression(lr=0)
