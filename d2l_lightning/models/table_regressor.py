"""A regression of a number from the features of a table: linear, or a multilayer perceptron."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from d2l_lightning.errors import (
    InputError,
    require_finite,
    require_known,
    require_not_negative,
    require_positive,
)
from d2l_lightning.functional.precision import without_autocast
from d2l_lightning.functional.regression import (
    absolute_error,
    huber_loss,
    squared_error,
    squared_log_error,
    squared_loss,
)
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.checks import require_stable_decay
from d2l_lightning.models.layers import Activation, Dropout, NTKLinear, make_activation, require_activation
from d2l_lightning.optim.proximal import ProximalAdamW

Parametrization = Literal["standard", "ntk"]
Loss = Literal["squared", "huber"]
RegressionMetric = Literal["rmse", "log_rmse", "mae"]
Optimizer = Literal["adam", "adamw"]
Schedule = Literal["constant", "cosine"]

# The values whose mean over examples gives each metric.
_ERRORS = {
    "rmse": ("squared_error", squared_error),
    "log_rmse": ("squared_log_error", squared_log_error),
    "mae": ("absolute_error", absolute_error),
}


class TableRegressor(SupervisedModule):
    """A regression of a number, the target, from the features of a table.

    Each stage logs ``metric``. With ``standardize`` or ``clip``, call ``fit_target`` before the fit.

    Args:
        num_features: Number of features, d.
        hidden_sizes: Width of each hidden layer. Without any, the model is linear.
        activation: The activation of the hidden layers; ``add_activation`` adds one of your own.
        dropout: Probability, from 0 to below 1, that a hidden unit is dropped in training.
        parametrization: How layers are scaled: PyTorch's layers (standard), or weights from N(0, 1) that are
            divided by the root of the number of inputs, and hidden biases from N(0, 1) (ntk).
        log_target: Whether the loss is on the logarithm of the target. If not given, only with the metric
            log_rmse.
        standardize: Whether the model learns the target, or its logarithm, in standardised form: with mean 0
            and standard deviation 1 over the training rows.
        clip: Whether predictions are clipped to the lowest and the highest training target.
        loss: Half the squared error (squared), or the Huber loss: half the squared error up to the threshold,
            and linear beyond (huber).
        huber_threshold: The threshold of the Huber loss, in the unit of what the model learns.
        metric: The root of the mean squared error (rmse), the same of the logarithms (log_rmse), or the mean
            absolute error (mae); in the unit of the target, except for the logarithms.
        optimizer: Adam with an L2 penalty on all parameters (adam), or AdamW, which decays weights but not
            biases (adamw).
        lr: The learning rate.
        bias_lr: AdamW's learning rate of the biases. If not given, that of the weights.
        betas: The decay rates of the optimizer's two moments, each from 0 to below 1.
        schedule: The learning rate over a fit: constant, or down to 0 along a cosine, step by step (cosine).
        weight_decay: Adam's L2 penalty, or AdamW's weight decay.
        l1: AdamW's l1 penalty on the weights of the first layer, by proximal steps, which set weights to 0.
        label_noise: Standard deviation of normal noise, which is added in each training step to what the
            model learns: the target, its logarithm or its standardised form.

    Raises:
        InputError: If ``bias_lr`` or ``l1`` is set without AdamW; in a fit, if ``cosine`` has no end.
    """

    buffer_hparams = frozenset({"lr", "bias_lr", "betas", "weight_decay", "l1", "dropout", "label_noise"})
    label_noise: Tensor
    mean: Tensor
    sd: Tensor
    low: Tensor
    high: Tensor
    floor: Tensor

    def __init__(
        self,
        num_features: int,
        hidden_sizes: Sequence[int] = (),
        activation: Activation = "relu",
        dropout: float = 0.0,
        parametrization: Parametrization = "standard",
        log_target: bool | None = None,
        standardize: bool = False,
        clip: bool = False,
        loss: Loss = "squared",
        huber_threshold: float = 1.0,
        metric: RegressionMetric = "rmse",
        optimizer: Optimizer = "adam",
        lr: float = 0.001,
        bias_lr: float | None = None,
        betas: Sequence[float] = (0.9, 0.999),
        schedule: Schedule = "constant",
        weight_decay: float = 0.0,
        l1: float = 0.0,
        label_noise: float = 0.0,
    ) -> None:
        super().__init__()
        if any(size < 1 for size in hidden_sizes):
            raise InputError(f"hidden_sizes must be positive, not {list(hidden_sizes)}")
        require_activation(activation)
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be in [0, 1), not {dropout}")
        require_known("parametrization", parametrization, Parametrization)
        require_known("loss", loss, Loss)
        require_known("metric", metric, RegressionMetric)
        require_known("optimizer", optimizer, Optimizer)
        require_known("schedule", schedule, Schedule)
        require_positive(lr=lr, bias_lr=lr if bias_lr is None else bias_lr, huber_threshold=huber_threshold)
        require_not_negative(weight_decay=weight_decay, l1=l1, label_noise=label_noise)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise InputError(f"betas must be two numbers in [0, 1), not {list(betas)}")
        for name, value in {"bias_lr": bias_lr, "l1": l1}.items():
            if value and optimizer != "adamw":
                raise InputError(f"{name} goes with the optimizer adamw, not with {optimizer}")
        self.save_hyperparameters()
        self.standardize, self.clip, self.metric = standardize, clip, metric
        self.log_target = metric == "log_rmse" if log_target is None else log_target
        linear = nn.Linear if parametrization == "standard" else NTKLinear
        layers: list[nn.Module] = []
        widths = [num_features, *hidden_sizes]
        for shape in pairwise(widths):
            layers += [linear(*shape), make_activation(activation)]
            layers.append(Dropout(dropout) if dropout else nn.Dropout(0.0))
        output = linear(widths[-1], 1)
        if parametrization == "ntk":
            nn.init.zeros_(output.bias)
        self.net = nn.Sequential(*layers, output)
        # A model without them has the checkpoints of earlier versions.
        buffers = {"mean": 0.0, "sd": 1.0} if standardize else {}
        buffers |= {"low": -math.inf, "high": math.inf} if clip else {}
        for name, value in buffers.items():
            self.register_buffer(name, torch.tensor(value))
        # The least prediction whose logarithm is taken: 1 as in eq. 4.10.2, unless targets are below it.
        self.register_buffer("floor", torch.tensor(1.0), persistent=False)
        if label_noise:
            self.register_buffer("label_noise", torch.tensor(label_noise), persistent=False)

    @torch.no_grad()
    def fit_target(self, y: Tensor) -> None:
        """Take over mean, standard deviation and range of the training targets.

        Args:
            y: The training targets, shape ``(n,)``.

        Raises:
            InputError: If there is none, one is not finite, one is not positive with ``log_target``, or all
                are equal with ``standardize``.
        """
        if not len(y):
            raise InputError("there are no training targets")
        require_finite(y=y)
        if self.log_target and y.min() <= 0:
            raise InputError(f"log_target needs positive training targets; the least is {y.min():g}")
        if self.metric == "log_rmse":
            self.floor.copy_(y.min().clamp(max=1))
        if self.clip:
            self.low.copy_(y.min())
            self.high.copy_(y.max())
        if self.standardize:
            target = y.double().log() if self.log_target else y.double()
            if target.min() == target.max():
                raise InputError(f"the training targets are all {y[0]:g}; there is nothing to learn")
            self.mean.copy_(target.mean())
            self.sd.copy_(target.std(correction=0))

    def forward(self, X: Tensor) -> Tensor:
        """Return predictions of shape ``(B,)``, in the unit of y, for features of shape ``(B, d)``."""
        output = self._output(X)
        if self.standardize:
            output = output * self.sd + self.mean
        if self.log_target:
            output = output.exp()
        return output.clamp(self.low, self.high) if self.clip else output

    def _output(self, X: Tensor) -> Tensor:
        """Return the output of the net, shape ``(B,)``; the last layer never computes in half precision."""
        # bfloat16 would round the logarithm of a price to a multiple of 1 / 16.
        if not torch.is_autocast_enabled(X.device.type):
            return self.net(X).squeeze(-1)
        for layer in self.net[:-1]:
            X = layer(X)
        with without_autocast(X):
            return self.net[-1](X.float()).squeeze(-1)

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each example, on what the net predicts: shape ``(B,)``."""
        target = y.log() if self.log_target else y
        if self.standardize:
            target = (target - self.mean) / self.sd
        if self.training and self.hparams["label_noise"]:
            target = target + self.label_noise * torch.randn_like(target)
        output = self._output(X)
        if self.hparams["loss"] == "huber":
            return huber_loss(output, target, self.hparams["huber_threshold"])
        return squared_loss(output, target)

    def example_metrics(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the error of each example whose mean gives the metric: shape ``(B,)``."""
        name, error = _ERRORS[self.metric]
        if self.metric == "log_rmse":
            return {name: squared_log_error(self(X), y, self.floor)}
        return {name: error(self(X), y)}

    def epoch_metrics(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the metric."""
        mean = means[_ERRORS[self.metric][0]]
        return {self.metric: mean if self.metric == "mae" else mean.sqrt()}

    def configure_optimizers(self) -> Any:
        """Return the optimizer, and the schedule of the learning rate."""
        optimizer = self._make_optimizer()
        if self.hparams["schedule"] == "constant":
            return optimizer
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.num_training_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}

    def _make_optimizer(self) -> torch.optim.Optimizer:
        lr, weight_decay, l1 = (self.hparams[name] for name in ("lr", "weight_decay", "l1"))
        betas = tuple(self.hparams["betas"])
        if self.hparams["optimizer"] == "adam":
            return self.make_optimizer("adam", lr, weight_decay, betas)
        require_stable_decay(lr=lr, weight_decay=weight_decay)
        first, *others = [layer.weight for layer in self.net if isinstance(layer, nn.Linear)]
        rest = [p for p in self.parameters() if all(p is not weight for weight in (first, *others))]
        groups: list[dict[str, Any]] = [
            {"params": [first], "l1": l1},
            *([{"params": others}] if others else []),
            {"params": rest, "weight_decay": 0.0, "lr": self.hparams["bias_lr"] or lr},
        ]
        # Without the penalty too, so that it may differ between members.
        fused = not self.clips_gradients
        return ProximalAdamW(groups, lr, betas=betas, weight_decay=weight_decay, fused=fused)
