"""Models compute their formulas for any weights and biases."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.models.backpropagation import BackpropagationMLP
from d2l_lightning.models.dropout_mlp import DropoutMLP, DropoutMLPScratch
from d2l_lightning.models.linear_regression import LinearRegression, LinearRegressionScratch
from d2l_lightning.models.logistic_regression import LogisticRegression
from d2l_lightning.models.mlp import MLP, MLPScratch
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.models.softmax_regression import SoftmaxRegression, SoftmaxRegressionScratch
from d2l_lightning.models.table_regressor import TableRegressor
from d2l_lightning.models.weight_decay import Lasso, WeightDecay, WeightDecayScratch


def layers(X: Tensor, parameters: Sequence[Tensor], phi: Callable[[Tensor], Tensor] = torch.relu) -> Tensor:
    """Return the output of affine layers; weights of shape (inputs, outputs) and biases alternate."""
    H, last = X, len(parameters) // 2 - 1
    for place, (W, b) in enumerate(zip(parameters[::2], parameters[1::2], strict=True)):
        H = torch.einsum("bi,io->bo", H, W) + b
        H = H if place == last else phi(H)
    return H


def of_net(model: Any) -> list[Tensor]:
    return [p.T if p.ndim == 2 else p for p in model.net.parameters()]


def affine(X: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return layers(X, [w[:, None], b.view(1)]).squeeze(1)


MODELS: dict[str, tuple[Callable[[], Any], Callable[[Any, Tensor], Tensor]]] = {
    "linear scratch": (lambda: LinearRegressionScratch(4), lambda m, X: affine(X, m.w, m.b)),
    "linear": (lambda: LinearRegression(4), lambda m, X: affine(X, m.net.weight[0], m.net.bias)),
    "weight decay scratch": (lambda: WeightDecayScratch(4, 1.0), lambda m, X: affine(X, m.w, m.b)),
    "weight decay": (lambda: WeightDecay(4, 1.0), lambda m, X: affine(X, m.net.weight[0], m.net.bias)),
    "lasso": (lambda: Lasso(4, 1.0), lambda m, X: affine(X, m.w, m.b)),
    "logistic": (lambda: LogisticRegression(4), lambda m, X: affine(X, m.net.weight[0], m.net.bias)),
    "softmax scratch": (lambda: SoftmaxRegressionScratch(4, 3), lambda m, X: layers(X, [m.W, m.b])),
    "softmax": (lambda: SoftmaxRegression(4, 3), lambda m, X: layers(X, of_net(m))),
    "mlp scratch": (lambda: MLPScratch(4, 3, 5), lambda m, X: layers(X, [m.W1, m.b1, m.W2, m.b2])),
    "mlp": (lambda: MLP(4, 3, [5, 6], "silu"), lambda m, X: layers(X, of_net(m), F.silu)),
    "dropout scratch": (
        lambda: DropoutMLPScratch(4, 3, [5, 6]),
        lambda m, X: layers(X, [p for both in zip(m.W, m.b, strict=True) for p in both]),
    ),
    "dropout": (lambda: DropoutMLP(4, 3, [5, 6]), lambda m, X: layers(X, of_net(m))),
    "gradients by hand": (
        lambda: BackpropagationMLP(4, 3, 5, "tanh"),
        lambda m, X: layers(X, [m.W1.T, m.b1, m.W2.T, m.b2], torch.tanh),
    ),
    "price": (lambda: PriceRegressor(4, [5, 6]), lambda m, X: layers(X, of_net(m)).squeeze(1)),
    "table, ntk": (
        lambda: TableRegressor(4, [5], "silu", 0.5, "ntk"),
        lambda m, X: (
            F.silu(X @ m.net[0].weight.T / 2 + m.net[0].bias) @ m.net[-1].weight[0] / 5**0.5 + m.net[-1].bias
        ),
    ),
    "log price": (
        lambda: PriceRegressor(4, [5], activation="gelu", dropout=0.5, log_price=True),
        lambda m, X: layers(X, of_net(m), F.gelu).squeeze(1).exp(),
    ),
}


@pytest.mark.parametrize(("make", "formula"), MODELS.values(), ids=MODELS)
def test_a_model_computes_its_formula(
    make: Callable[[], Any], formula: Callable[[Any, Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    members = [make().double().eval() for _ in range(2)]
    with torch.no_grad():
        for member in members:
            for parameter in member.parameters():
                parameter.normal_()
    X = torch.randn(7, 4, dtype=torch.float64)
    expected = torch.stack([formula(member, X) for member in members])
    assert (expected[0] - expected[1]).abs().max() > 0.1
    for member, y_hat in zip(members, expected, strict=True):
        torch.testing.assert_close(member(X), y_hat)
        if not isinstance(member, LinearRegression | LinearRegressionScratch):
            for batch in (X, (X,), [X, torch.zeros(7)]):
                torch.testing.assert_close(member.predict_step(batch, 0), y_hat)
    torch.testing.assert_close(StackedModule(members).eval()(X), expected)
