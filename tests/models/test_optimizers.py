"""The optimizers of the models: weight decay, learning rates, mixed precision with clipping."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.models.dropout_mlp import DropoutMLP
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.models.logistic_regression import LogisticRegression
from d2l_lightning.models.mlp import MLP
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.models.softmax_regression import SoftmaxRegression
from d2l_lightning.models.weight_decay import WeightDecay


def step(model: Any, gradient: float = 0.0) -> dict[str, tuple[Tensor, Tensor]]:
    """Return every parameter before and after a step with the given gradient, by name."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(-1.5, 2.5, parameter.numel()).view(parameter.shape))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = model.configure_optimizers()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()
    return {name: (before[name], parameter.detach()) for name, parameter in model.named_parameters()}


# The factors of weights and biases in a step without gradient: 1 - lr * wd where they decay.
SHRINKING: dict[str, tuple[Callable[[], Any], float, float]] = {
    "mlp, sgd": (lambda: MLP(6, 3, [5], lr=0.1, weight_decay=0.5), 0.95, 0.95),
    "mlp, adamw": (lambda: MLP(6, 3, [5], lr=0.1, weight_decay=0.5, optimizer="adamw"), 0.95, 0.95),
    "mlp, sgd, none": (lambda: MLP(6, 3, [5], lr=0.1), 1, 1),
    "mlp, adamw, none": (lambda: MLP(6, 3, [5], lr=0.1, optimizer="adamw"), 1, 1),
    "dropout mlp": (lambda: DropoutMLP(6, 3, [5, 4], lr=0.2, weight_decay=0.3), 0.94, 0.94),
    "dropout mlp, none": (lambda: DropoutMLP(6, 3, [5, 4], lr=0.2), 1, 1),
    "weight decay": (lambda: WeightDecay(6, wd=0.7, lr=0.1), 0.93, 1),
    "weight decay, none": (lambda: WeightDecay(6, wd=0.0, lr=0.1), 1, 1),
    "linear": (lambda: LinearRegression(6, lr=0.1), 1, 1),
    "linear, adamw": (lambda: LinearRegression(6, lr=0.1, optimizer="adamw"), 1, 1),
    "softmax": (lambda: SoftmaxRegression(6, 3, lr=0.1), 1, 1),
    "softmax, adamw": (lambda: SoftmaxRegression(6, 3, lr=0.1, optimizer="adamw"), 1, 1),
    "price, none": (lambda: PriceRegressor(6, [5], lr=0.1), 1, 1),
    "logistic, none": (lambda: LogisticRegression(6, lr=0.1), 1, 1),
}


@pytest.mark.parametrize(("make", "weights", "biases"), SHRINKING.values(), ids=SHRINKING)
def test_a_step_without_gradient_shrinks_the_parameters_that_decay(
    make: Callable[[], Any], weights: float, biases: float
) -> None:
    for name, (before, after) in step(make()).items():
        factor = biases if name.endswith("bias") else weights
        torch.testing.assert_close(after, factor * before, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_an_optimizer_made_by_name_has_the_given_weight_decay(optimizer: Any, weight_decay: float) -> None:
    class Model(LinearRegression):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.make_optimizer(optimizer, 0.1, weight_decay)

    for before, after in step(Model(6)).values():
        torch.testing.assert_close(after, (1 - 0.1 * weight_decay) * before, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "bias_decays"),
    [
        (lambda: PriceRegressor(6, [5], lr=0.1, weight_decay=0.5), True),
        (lambda: LogisticRegression(6, lr=0.1, weight_decay=0.5), False),
    ],
    ids=["price", "logistic"],
)
def test_adam_adds_the_decay_to_the_gradient(make: Callable[[], Any], bias_decays: bool) -> None:
    # Adam's first step is as long as the learning rate and against the gradient, here wd * w + 0.2.
    for name, (before, after) in step(make(), gradient=0.2).items():
        gradient = 0.2 + 0.5 * before * (bias_decays or not name.endswith("bias"))
        torch.testing.assert_close(after, before - 0.1 * gradient.sign(), rtol=1e-5, atol=1e-6)
        if not name.endswith("bias"):
            assert len(gradient.sign().unique()) == 2  # the decay decides the sign


def test_sgd_takes_a_step_of_the_learning_rate() -> None:
    for before, after in step(MLP(6, 3, [5], lr=0.1, weight_decay=0.5), gradient=2.0).values():
        torch.testing.assert_close(after, before - 0.1 * (2 + 0.5 * before))


FUSED: dict[str, Callable[[], Any]] = {
    "linear": lambda: LinearRegression(6, lr=0.01, optimizer="adamw"),
    "logistic": lambda: LogisticRegression(6, lr=0.01),
    "softmax": lambda: SoftmaxRegression(6, 2, lr=0.01, optimizer="adamw"),
    "mlp": lambda: MLP(6, 2, [5], lr=0.01, optimizer="adamw"),
    "mlp, one cycle": lambda: MLP(6, 2, [5], lr=0.01, optimizer="adamw", schedule="one_cycle"),
    "price": lambda: PriceRegressor(6, [5], lr=0.01, log_price=True),
}


def examples(model: Any) -> tuple[Tensor, Tensor]:
    X = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    y = (X[:, 0] > 0).long()
    return X, y if isinstance(model, MLP | SoftmaxRegression | LogisticRegression) else y + 1.0


@pytest.mark.parametrize("stack", [False, True], ids=["alone", "stacked"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("clip", [None, 0.5], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_an_optimizer_is_fused_unless_gradients_are_clipped(
    make: Callable[[], Any], clip: float | None, precision: Any, stack: bool, trainer: Callable[..., Trainer]
) -> None:
    torch.manual_seed(0)
    model = make()
    X, y = examples(model)
    data: Any = DataLoader(TensorDataset(X, y), batch_size=10)
    if stack:
        model = StackedModule([model, make()])
        data = StackedData(X, y, {"train": [torch.arange(30)] * 2, "val": [torch.arange(9)] * 2}, 10, seed=0)
    flags: dict[str, Any] = {"precision": precision}
    if precision == "16-mixed":  # Lightning would replace it by bf16-mixed on a CPU
        flags = {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]}
    start = [parameter.detach().clone() for parameter in model.parameters()]
    fit = trainer(max_epochs=2, gradient_clip_val=clip, **flags)
    fit.fit(model, data)
    (optimizer,) = fit.optimizers
    assert all(bool(group["fused"]) is (clip is None) for group in optimizer.param_groups)
    for parameter, before in zip(model.parameters(), start, strict=True):
        assert parameter.dtype == torch.float32
        assert parameter.isfinite().all()
        assert not torch.equal(parameter, before)


class LargeGradients(LinearRegression):
    """Linear regression whose norms of clipped gradients are kept."""

    def on_before_zero_grad(self, optimizer: Any) -> None:
        if self.net.weight.grad is not None:
            self.norms.append(nn.utils.get_total_norm([p.grad for p in self.parameters()]).item())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_clipped_gradients_have_the_greatest_norm_allowed(
    precision: Any, trainer: Callable[..., Trainer]
) -> None:
    model = LargeGradients(6, lr=1e-6, optimizer="adamw")
    model.norms = []
    X, y = examples(model)
    loader = DataLoader(TensorDataset(100 * X, 100 * y), batch_size=10)
    trainer(max_epochs=1, gradient_clip_val=0.25, precision=precision).fit(model, loader)
    assert len(model.norms) >= 2
    assert model.norms == pytest.approx([0.25] * len(model.norms), rel=1e-3)
