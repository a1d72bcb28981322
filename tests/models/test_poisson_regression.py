"""Poisson regression agrees with scikit-learn; stacked members agree with models that are trained alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.linear_model import PoissonRegressor
from sklearn.metrics import mean_poisson_deviance
from torch.nn import functional as F  # noqa: N812

from d2l_lightning.data.counts import SyntheticCountData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models.poisson_regression import PoissonRegression

DATA: dict[str, Any] = {"num_train": 200, "num_val": 50}


def test_its_loss_is_least_at_the_weights_of_scikit_learn() -> None:
    data, model = SyntheticCountData(**DATA), PoissonRegression(2)
    train, val = data.rows["train"], data.rows["val"]
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model.loss(data.X[train], data.y[train])
        loss.backward()
        return loss

    optimizer.step(closure)
    reference = PoissonRegressor(alpha=0, tol=1e-8).fit(data.X[train].numpy(), data.y[train].numpy())
    w, b = model.get_w_b()
    expected = torch.tensor([*reference.coef_, reference.intercept_]).float()
    torch.testing.assert_close(torch.cat([w, b[None]]), expected, rtol=0, atol=1e-3)
    deviance = model.example_metrics(data.X[val], data.y[val])["deviance"].mean().item()
    rate = model(data.X[val]).detach()
    assert deviance == pytest.approx(mean_poisson_deviance(data.y[val].numpy(), rate.numpy()), rel=1e-4)


def test_the_softplus_link_predicts_rates_that_are_linear_where_they_are_large() -> None:
    model = PoissonRegression(1, link="softplus")
    with torch.no_grad():
        model.net.weight.fill_(3.0)
    X, y = torch.tensor([[-2.0], [0.5], [30.0]]), torch.tensor([0.0, 2.0, 80.0])
    torch.testing.assert_close(model(X), F.softplus(3 * X[:, 0]))
    expected = F.poisson_nll_loss(model(X), y, log_input=False, eps=0, reduction="none") + torch.lgamma(y + 1)
    torch.testing.assert_close(model.example_losses(X, y), expected)
    torch.testing.assert_close(model.example_metrics(X, y)["loss"], expected)


@pytest.mark.parametrize("link", ["log", "softplus"])
def test_a_member_learns_what_it_learns_alone(link: Any, trainer: Callable[..., Trainer]) -> None:
    data = SyntheticCountData(**DATA, batch_size=40)
    rows = {"train": [data.rows["train"]] * 2}
    members = StackedModule([PoissonRegression(2, lr, link) for lr in (0.01, 0.1)])
    stacked = StackedData(data.X, data.y, rows, 40, data.seed, same_order=True)
    trainer(max_epochs=2).fit(members, stacked)
    alone = PoissonRegression(2, 0.1, link)
    trainer(max_epochs=2, limit_val_batches=0).fit(alone, data)
    member: Any = members.unstack()[1]
    for found, expected in zip(member.get_w_b(), alone.get_w_b(), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_checkpoint_restores_it(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    data = SyntheticCountData(**DATA)
    model = PoissonRegression(2, 0.1, "softplus", "sgd")
    fit = trainer(max_epochs=1)
    fit.fit(model, data)
    fit.save_checkpoint(tmp_path / "model.ckpt")
    restored = PoissonRegression.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert restored.hparams == model.hparams
    assert torch.equal(restored(data.X), model(data.X))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_inputs": 0}, "num_inputs must be positive"),
        ({"num_inputs": 2, "lr": 0.0}, "lr must be positive"),
        ({"num_inputs": 2, "link": "identity"}, "link must be one of log, softplus"),
        ({"num_inputs": 2, "optimizer": "adam"}, "optimizer must be one of sgd, adamw"),
    ],
)
def test_settings_out_of_range_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PoissonRegression(**settings)


def test_shapes_that_do_not_match_are_errors() -> None:
    model = PoissonRegression(3)
    with pytest.raises(InputError, match="X has 4 features and num_inputs is 3"):
        model(torch.zeros(2, 4))
    with pytest.raises(InputError, match=r"does not go with y of shape \(2, 1\)"):
        model.example_losses(torch.zeros(2, 3), torch.zeros(2, 1))
