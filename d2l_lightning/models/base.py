"""The base class of supervised models: a weighted loss, and metrics over an epoch's examples."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import Metric

from d2l_lightning.errors import DivergenceError
from d2l_lightning.functional.risk import empirical_risk, num_examples

OptimizerName = Literal["sgd", "adamw"]


class ExampleMean(Metric):
    """The weighted mean over an epoch's examples, of shape ``()``, or ``(K,)`` for K models side by side.

    Example:
        >>> mean = ExampleMean()
        >>> mean.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
        >>> mean.update(torch.tensor([9.0, 5.0]), torch.tensor([1.0, 0.0]))
        >>> mean.compute()
        tensor(4.)
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(shape), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros(shape), dist_reduce_fx="sum")

    def update(self, values: Tensor, weight: Tensor) -> None:
        """Add a batch: values and weights of shape ``shape + (B,)``, or values that broadcast to it."""
        self.total += (weight * values).sum(dim=-1)
        self.weight += weight.sum(dim=-1)

    def compute(self) -> Tensor:
        """Return the means, of shape ``shape``; NaN where no example had any weight."""
        return self.total / self.weight


class SupervisedModule(LightningModule, ABC):
    """A model that learns to predict y from X (Section 3.2.2, adapted to Lightning; weights as in eq. 4.9.5).

    A batch is ``(X, y)`` or ``(X, y, weight)``: features of shape ``(B, ...)``, targets and weights of shape
    ``(B,)``. The weights have a mean of about 1 over all examples. In evaluation the weight may be a mapping
    from a stage's name to its weights, so that one forward pass gives the metrics of several stages. Without
    a mapping, the stage is the Trainer's (``val`` or ``test``).

    ``train/loss`` is logged once an epoch: the mean of the examples' losses, each at its training step. So is
    ``<stage>/<metric>`` for every entry of ``epoch_metrics``. An evaluation of training rows omits the metric
    ``loss``, so that ``train/loss`` has one meaning.

    The constructors of all models raise an ``InputError`` if a number is out of its range or a name unknown.

    Attributes:
        num_members: The number of models that this module trains side by side.
        buffer_hparams: Hyperparameters that are kept in a buffer of the same name, so that members that train
            side by side may differ in them.
        evaluated: The metrics of the last evaluation, by name; shape ``(K,)`` for K models side by side.
        log_prefix: Text before the names of all metrics, which distinguishes the fits of a run.
    """

    buffer_hparams: ClassVar[frozenset[str]] = frozenset()
    num_members = 1
    log_prefix = ""

    def __init__(self) -> None:
        super().__init__()
        self._metrics: dict[str, ExampleMean] = {}
        self.evaluated: dict[str, Tensor] = {}
        self._losses: list[tuple[Tensor, Tensor]] = []

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this attribute some 40 times a step, and nn.Module's __setattr__ is slow.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    @property
    def clips_gradients(self) -> bool:
        """Whether the Trainer clips gradients; with a fused optimizer it cannot in mixed precision."""
        return self._trainer is not None and self.trainer.gradient_clip_val is not None

    def make_optimizer(
        self, name: OptimizerName | Literal["adam"], lr: float, weight_decay: float = 0.0
    ) -> torch.optim.Optimizer:
        """Return minibatch SGD, Adam or AdamW over all parameters."""
        if name == "sgd":
            return torch.optim.SGD(self.parameters(), lr=lr, weight_decay=weight_decay)
        kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
        return kind(self.parameters(), lr=lr, weight_decay=weight_decay, fused=not self.clips_gradients)

    @abstractmethod
    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each example, shape ``(B,)``."""

    def example_metrics(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the values that evaluation averages over examples: tensors of shape ``(B,)`` by name."""
        return {"loss": self.example_losses(X, y)}

    def epoch_metrics(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the metrics to log, given the averages of ``example_metrics``; elementwise."""
        return dict(means)

    def loss(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the risk of a batch, see ``functional.risk.empirical_risk``: a scalar."""
        return empirical_risk(self.example_losses(X, y), weight)

    def name_of(self, index: int) -> str:
        """Return the name of the member at ``index`` of several models that train side by side."""
        return f"member_{index + 1}"

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the batch's loss and add it to the epoch's loss."""
        loss = self.loss(*batch)
        self.accumulate_loss(loss, batch)
        return loss.sum()

    def accumulate_loss(self, loss: Tensor, batch: Any) -> None:
        """Add a batch's loss to the epoch's loss."""
        # Averaged at the epoch's end: a Metric's update costs as much as the whole step of a small model.
        self._losses.append((loss.detach(), batch[2] if len(batch) > 2 else torch.ones_like(batch[1])))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the metrics of its stages."""
        self._evaluate("val", *batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the metrics of its stages."""
        self._evaluate("test", *batch)

    def predict_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> Tensor:
        """Return the predictions for a batch of features."""
        return self(batch[0] if isinstance(batch, Sequence) else batch)

    def _evaluate(
        self, stage: str, X: Tensor, y: Tensor, weight: Tensor | Mapping[str, Tensor] | None = None
    ) -> None:
        values = self.example_metrics(X, y)
        if not isinstance(weight, Mapping):
            weight = {stage: torch.ones_like(y) if weight is None else weight}
        for stage, stage_weight in weight.items():
            for metric, value in values.items():
                name = f"{stage}/{metric}"
                if name == "train/loss":  # this is the loss of the training steps
                    continue
                if name not in self._metrics or self._metrics[name].device != value.device:
                    self._metrics[name] = ExampleMean(stage_weight.shape[:-1]).to(value.device)
                self._metrics[name].update(value, stage_weight)

    def on_train_epoch_start(self) -> None:
        """Discard the losses of an interrupted epoch."""
        self._losses.clear()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's loss; raise a DivergenceError if it is not finite."""
        losses = torch.stack([loss for loss, _ in self._losses])
        counts = torch.stack([num_examples(weight) for _, weight in self._losses])
        weight = torch.stack([weight.sum(dim=-1) for _, weight in self._losses])
        loss = (losses * counts).sum(dim=0) / weight.sum(dim=0)
        finite = loss.isfinite()
        if not finite.all():
            of = f" of {self.name_of(int((~finite).nonzero()[0]))}" if loss.ndim else ""
            became = f"the training loss{of} became {loss[~finite][0]:g} in epoch {self.current_epoch + 1}"
            clipping = " or a gradient_clip_val" if self.automatic_optimization else ""
            raise DivergenceError(f"{became}; a lower lr{clipping} may help")
        self.log_metrics({"train/loss": loss})

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of each stage."""
        means: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, mean in self._metrics.items():
            if mean.update_called:  # an earlier evaluation may have had other stages
                stage, metric = name.split("/")
                means[stage][metric] = mean.compute().view_as(mean.total)  # compute() squeezes
                mean.reset()
        self.evaluated = {
            f"{stage}/{metric}": value
            for stage, values in means.items()
            for metric, value in self.epoch_metrics(values).items()
        }
        self.log_metrics(self.evaluated)

    on_test_epoch_end = on_validation_epoch_end

    def log_metrics(self, metrics: dict[str, Tensor]) -> None:
        """Log an epoch's metrics."""
        self.log_dict({self.log_prefix + metric: value for metric, value in metrics.items()})
