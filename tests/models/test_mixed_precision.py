"""In mixed precision, linear models are the same, outputs are not rounded, and metrics are near."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.linear_regression import LinearRegression, LinearRegressionScratch
from d2l_lightning.models.logistic_regression import LogisticRegression
from d2l_lightning.models.mlp import MLP, MLPScratch
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.models.weight_decay import Lasso, WeightDecayScratch
from tests.conftest import lean_trainer

Prices = tuple[Tensor, Tensor]
LINEAR: dict[str, Callable[[], SupervisedModule]] = {
    "linear": lambda: LinearRegression(6, lr=1e-3),
    "linear from scratch": lambda: LinearRegressionScratch(6, lr=1e-3),
    "weight decay": lambda: WeightDecayScratch(6, 0.1, lr=1e-3),
    "lasso": lambda: Lasso(6, 0.1, lr=1e-3),
    "logistic": lambda: LogisticRegression(6),
    "prices": lambda: PriceRegressor(6, lr=2.0),
}
NETS: dict[str, tuple[Callable[[], SupervisedModule], str]] = {
    "prices": (lambda: PriceRegressor(6, [32], log_price=True, lr=0.01), "log_rmse"),
    "standardised prices": (
        lambda: PriceRegressor(6, [32], log_price=True, standardize=True, lr=0.01),
        "log_rmse",
    ),
    "perceptron": (lambda: MLP(6, 3, [32], lr=0.1), "loss"),
    "perceptron from scratch": (lambda: MLPScratch(6, 3, 32, lr=0.1), "loss"),
}


def fit(make: Callable[[], Any], X: Tensor, y: Tensor, precision: str, stack: bool = False) -> Any:
    """Train a model, or two side by side, in a precision."""
    seed_everything(1, verbose=False)
    model = make()
    if getattr(model, "standardize", False):
        model.fit_target(y)
    # With a higher scale, the first steps would be skipped.
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if precision == "16-mixed" else None
    plugins = [] if precision == "32-true" else [MixedPrecision(precision, "cpu", scaler)]  # type: ignore[arg-type]
    trainer = lean_trainer(max_epochs=4, plugins=plugins)
    loader = DataLoader(TensorDataset(X, y), batch_size=8)
    if stack:
        model = StackedModule([model, make()])
        trainer.fit(
            model, StackedData(X, y, {"train": [torch.arange(47)] * 2, "val": [torch.arange(47)] * 2}, 8, 0)
        )
    else:
        trainer.fit(model, loader, loader)
    return model


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_model_is_that_of_single_precision(name: str, prices: Prices) -> None:
    X, y = prices
    X = X * 1000 + 0.123  # half precision would round the features, or not hold their products
    y = (y > y.median()).float() if name == "logistic" else y
    X = X if name == "prices" else X / 1000
    expected, found = (
        fit(LINEAR[name], X, y, each, stack="scratch" not in name) for each in ("32-true", "bf16-mixed")
    )
    assert found.evaluated
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", NETS)
def test_the_metrics_of_a_perceptron_are_near_those_of_single_precision(name: str, prices: Prices) -> None:
    X, y = prices
    make, metric = NETS[name]
    y = y if metric == "log_rmse" else y.argsort() % 3
    expected = fit(make, X, y, "32-true").evaluated[f"val/{metric}"]
    for precision in ("bf16-mixed", "16-mixed"):
        found = fit(make, X, y, precision).evaluated[f"val/{metric}"]
        assert found.dtype == torch.float32
        assert found != expected  # it was computed in half precision
        assert found.item() == pytest.approx(expected.item(), rel=0.03), precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_outputs_are_not_rounded_to_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    X = torch.randn(200, 6)
    for name, (make, _) in NETS.items():
        model: Any = make()
        if name == "standardised prices":
            model.mean.fill_(12.0)
            model.sd.fill_(0.4)
        with torch.autocast("cpu", dtype):
            outputs = model(X)
            losses = model.example_losses(
                X, torch.full((200,), 2, dtype=torch.long if "perc" in name else None)
            )
        assert outputs.dtype == losses.dtype == torch.float32, name
        if "prices" in name:
            # Logarithms near 12 in bfloat16 would be multiples of 1/16.
            torch.testing.assert_close(outputs.log(), model(X).log(), rtol=0, atol=0.01)
