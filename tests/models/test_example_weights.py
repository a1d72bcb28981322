"""All models accept weights of examples: weighted empirical risk (Section 4.9.3, eq. 4.9.5)."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.linear_model import LinearRegression as Reference
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.models.backpropagation import BackpropagationMLP
from d2l_lightning.models.dropout_mlp import DropoutMLP, DropoutMLPScratch
from d2l_lightning.models.linear_regression import LinearRegression, LinearRegressionScratch
from d2l_lightning.models.logistic_regression import LogisticRegression
from d2l_lightning.models.mlp import MLP, MLPScratch
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.models.softmax_regression import SoftmaxRegression, SoftmaxRegressionScratch
from d2l_lightning.models.weight_decay import Lasso, WeightDecay, WeightDecayScratch

REGRESSORS: list[Callable[[], Any]] = [
    lambda: LinearRegressionScratch(6, lr=0.1),
    lambda: LinearRegression(6, lr=0.1),
    lambda: WeightDecayScratch(6, lambd=0.1, lr=0.1),
    lambda: WeightDecay(6, wd=0.1, lr=0.1),
    lambda: Lasso(6, lambd=0.1, lr=0.1),
    lambda: PriceRegressor(6, lr=0.1, hidden_sizes=[5], dropout=0.3, log_price=True),
]
BINARY: list[Callable[[], Any]] = [lambda: LogisticRegression(6, lr=0.1, weight_decay=0.1)]
CLASSIFIERS: list[Callable[[], Any]] = [
    lambda: SoftmaxRegressionScratch(6, 3),
    lambda: SoftmaxRegression(6, 3),
    lambda: MLPScratch(6, 3, 5),
    lambda: MLP(6, 3, [5], label_smoothing=0.1, batch_norm=True, dropouts=[0.2]),
    lambda: DropoutMLPScratch(6, 3, [5, 4]),
    lambda: DropoutMLP(6, 3, [5, 4]),
    lambda: BackpropagationMLP(6, 3, 5, lambd=0.1),
]
MAKE = pytest.mark.parametrize(
    "make", REGRESSORS + BINARY + CLASSIFIERS, ids=lambda make: type(make()).__name__
)


def examples(make: Callable[[], Any]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    X = torch.randn(50, 6, generator=generator)
    if make in BINARY:
        return X, torch.randint(2, (50,), generator=generator)
    if make in CLASSIFIERS:
        return X, torch.randint(3, (50,), generator=generator)
    return X, torch.rand(50, generator=generator) + 1


def fitted(model: Any, trainer: Callable[..., Trainer], *tensors: torch.Tensor) -> Any:
    model = copy.deepcopy(model)
    torch.manual_seed(7)
    loader = DataLoader(TensorDataset(*tensors), batch_size=16)
    trainer(max_epochs=3).fit(model, loader, loader)
    return model


@MAKE
def test_weights_of_1_change_no_bit(make: Callable[[], Any], trainer: Any) -> None:
    model, (X, y) = make(), examples(make)
    plain, weighted = fitted(model, trainer, X, y), fitted(model, trainer, X, y, torch.ones(len(y)))
    for (name, ours), theirs in zip(plain.state_dict().items(), weighted.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    before = model.parameters()
    assert any(not torch.equal(p, q) for p, q in zip(plain.parameters(), before, strict=True))
    assert plain.evaluated == weighted.evaluated


@MAKE
def test_the_loss_is_the_weighted_empirical_risk(make: Callable[[], Any]) -> None:
    model, (X, y) = make().eval(), examples(make)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    weight = torch.rand(50) * 2
    losses = model.example_losses(X, y)
    penalty = model.loss(X, y) - losses.mean()
    risk = sum(w * loss for w, loss in zip(weight, losses, strict=True)) / 50  # (4.9.5)
    torch.testing.assert_close(model.loss(X, y, weight), risk + penalty)
    # Examples of weight 0 fill up a batch and change nothing.
    filled = torch.cat([weight, torch.zeros(9)])
    torch.testing.assert_close(
        model.loss(torch.cat([X, X[:9]]), torch.cat([y, y[:9]]), filled), risk + penalty
    )


@pytest.mark.parametrize("batch_size", [500, 100, 10, 1])
def test_batches_of_any_size_approach_weighted_least_squares(batch_size: int, trainer: Any) -> None:
    generator = torch.Generator().manual_seed(4)
    X = torch.randn(500, 2, generator=generator)
    y = X[:, 0] + 0.5 * X[:, 0] ** 2  # no line fits, so the weights matter
    weight = (X[:, 0] - 0.5).exp()
    weight /= weight.mean()
    exact = Reference().fit(X.numpy(), y.numpy(), weight.numpy())
    model = LinearRegression(2, lr=0.05 if batch_size > 10 else 0.0005 * batch_size)
    loader = DataLoader(TensorDataset(X, y, weight), batch_size=batch_size, shuffle=True)
    torch.manual_seed(0)
    trainer(max_steps={1: 8000, 10: 2500}.get(batch_size, 300), max_epochs=-1).fit(model, loader)
    w, b = model.get_w_b()
    assert torch.cat([w, b[None]]).tolist() == pytest.approx(
        [*exact.coef_, exact.intercept_], abs={500: 1e-4, 100: 0.03, 10: 0.03, 1: 0.06}[batch_size]
    )
    plain = Reference().fit(X.numpy(), y.numpy())
    assert abs(plain.coef_[0] - exact.coef_[0]) > 0.8


@MAKE
def test_a_batch_of_weight_0_has_no_effect(make: Callable[[], Any]) -> None:
    model, (X, y) = make(), examples(make)
    weight = torch.zeros(50)
    loss = model.loss(X, y, weight)
    assert loss.isfinite()
    loss.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    other = model.loss(9 * X.flip(1), y.flip(0), weight)  # only a penalty may be left
    other.backward()
    assert torch.equal(loss, other)
    again = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(g, h) and g.isfinite().all() for g, h in zip(gradients, again, strict=True))
