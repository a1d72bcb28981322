"""Logistic regression agrees with scikit-learn and with softmax regression for two classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.linear_model import LogisticRegression as Reference
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.errors import InputError
from d2l_lightning.models.logistic_regression import LogisticRegression
from d2l_lightning.models.softmax_regression import SoftmaxRegression


def examples(n: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    X = torch.randn(n, 3, generator=generator)
    odds = X @ torch.tensor([1.0, -2.0, 0.5]) + 0.3
    return X, (torch.rand(n, generator=generator) < odds.sigmoid()).long()


def test_it_finds_the_weights_of_scikit_learn(trainer: Callable[..., Trainer]) -> None:
    X, y = examples()
    model = LogisticRegression(3, lr=0.05)
    trainer(max_epochs=400).fit(model, DataLoader(TensorDataset(X, y), batch_size=len(y)))
    reference = Reference(C=1e10, tol=1e-8).fit(X.numpy(), y.numpy())
    weights = torch.cat([model.net.weight.detach()[0], model.net.bias.detach()])
    expected = torch.tensor([*reference.coef_[0], *reference.intercept_]).float()
    torch.testing.assert_close(weights, expected, rtol=0, atol=2e-3)


def test_it_is_softmax_regression_with_two_classes() -> None:
    X, y = examples()
    model, softmax = LogisticRegression(3), SoftmaxRegression(3, 2)
    with torch.no_grad():
        for parameter in softmax.parameters():
            parameter.normal_()
        model.net.weight.copy_(softmax.net.weight[1:] - softmax.net.weight[:1])
        model.net.bias.copy_(softmax.net.bias[1:] - softmax.net.bias[:1])
    metrics, expected = model.example_metrics(X, y), softmax.example_metrics(X, y)
    for metric in ("loss", "accuracy"):
        torch.testing.assert_close(metrics[metric], expected[metric])
    torch.testing.assert_close(model.example_losses(X, y.float()), metrics["loss"])


def test_a_checkpoint_restores_it(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    X, y = examples(40)
    model = LogisticRegression(3, lr=0.1, weight_decay=0.01)
    fit = trainer(max_epochs=1)
    fit.fit(model, DataLoader(TensorDataset(X, y), batch_size=8))
    fit.save_checkpoint(tmp_path / "model.ckpt")
    restored = LogisticRegression.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert restored.hparams == model.hparams
    assert torch.equal(restored(X), model(X))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_inputs": 0}, "num_inputs must be positive"),
        ({"num_inputs": 3, "lr": 0.0}, "lr must be positive"),
        ({"num_inputs": 3, "weight_decay": -1.0}, "weight_decay must not be negative"),
    ],
)
def test_settings_out_of_range_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LogisticRegression(**settings)


def test_shapes_that_do_not_match_are_errors() -> None:
    model = LogisticRegression(3)
    with pytest.raises(InputError, match="X has 4 features and num_inputs is 3"):
        model(torch.zeros(2, 4))
    with pytest.raises(InputError, match=r"h of shape \(2,\) does not go with y of shape \(2, 1\)"):
        model.example_losses(torch.zeros(2, 3), torch.zeros(2, 1))
