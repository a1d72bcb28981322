"""The base class of supervised models: a weighted loss, and metrics over an epoch's examples."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from d2l_lightning.distributed.shares import Share
from d2l_lightning.distributed.strategy import shares_rows
from d2l_lightning.errors import DivergenceError, InputError, require_same_shape
from d2l_lightning.functional.precision import single
from d2l_lightning.functional.risk import empirical_risk
from d2l_lightning.functional.transfer import to_cpu
from d2l_lightning.models.checks import (
    explain_error,
    missing_method,
    parameter_size,
    require_batches,
    require_new_fit,
    require_parameters,
    require_stable_decay,
    shape_error,
)
from d2l_lightning.models.epoch_mean import ExampleMean, batch_counts, sum_first
from d2l_lightning.models.execution import Execution, StepsPerExecution
from d2l_lightning.models.hyperparameters import HyperparameterAttributes
from d2l_lightning.models.loaders import give_shapes, require_repeatable, take_generator_functions
from d2l_lightning.models.sharing import (
    drawing,
    mean_losses,
    require_mean_over_rows,
    require_separate_rows,
    require_sharing,
    share_of,
    shown,
    sum_metrics,
)
from d2l_lightning.models.signatures import adapt_methods, training_loss

OptimizerName = Literal["sgd", "adamw"]

# A fit has diverged if its loss has grown by the first factor and its parameters by the second, its root. One
# alone is no sign: weights grow from small initial ones, and a loss that is about 0 at first may grow a lot.
DIVERGED_LOSS, DIVERGED_PARAMETERS = 1e4, 1e2
# The minibatch from which steps are replayed. The step alone decides: a resumed fit has the same bits.
_REPLAY_FROM = 50


class SupervisedModule(HyperparameterAttributes):
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
        buffer_hparams: Hyperparameters in which members that train side by side may differ: each is kept in a
            buffer of the same name, or is a learning rate, the weight decay or the ``l1`` of the optimizer.
        steps_follow_loss: Whether a ``training_step`` of the class's own takes the steps that ``loss`` gives,
            so that its modules may train side by side.
        steps_per_execution: How many minibatches one ``training_step`` trains on, which saves what the
            Trainer does between two of them; the rest of an epoch at most. ``auto`` takes a whole epoch, or 1
            where a callback or a flag needs every step. The results are the same.
        cuda_graphs: Whether a GPU replays steps as CUDA graphs, with little work for the CPU. ``auto`` does
            so where it is possible. The results are the same. A model that is trained alone needs a ``Run``.
        evaluated: The metrics of the last evaluation, by name, on the CPU; shape ``(K,)`` for K models side
            by side, with NaN for models that have no examples of the stage.
        examples: The weight of the examples of the last evaluation, by stage; shape as ``evaluated``.
        log_prefix: Text before the names of all metrics, which distinguishes the fits of a run.
        encoding: The fitted encoder of the table that the features are made from, as plain values and
            tensors, see ``TableEncoder.state``. Checkpoints have it, and the name of the module's class.
    """

    steps_follow_loss: ClassVar[bool] = False
    num_members = 1
    _loss_ndim = 0
    # The first class with a ``loss(y_hat, y)``, among this class and those before it; None if there is none.
    loss_owner: ClassVar[type["SupervisedModule"] | None] = None
    log_prefix = ""
    steps_per_execution: StepsPerExecution = "auto"
    cuda_graphs: bool | Literal["auto"] = "auto"

    def __init__(self) -> None:
        super().__init__()
        self._metrics: dict[str, ExampleMean] = {}
        self.evaluated: dict[str, Tensor] = {}
        self.examples: dict[str, Tensor] = {}
        # Of each batch of the epoch: its loss, and its weights or the number of its examples.
        self._losses: list[tuple[Tensor, Tensor | int]] = []
        # The parameters' size before a fit, the loss of its first batch, and that of its last epoch.
        self._first_loss: Tensor | None = None
        self._first_size: Tensor | None = None
        self._epoch_loss: Tensor | None = None
        self.loss_is_mean = False  # whether ``loss(y_hat, y)`` is known to be a mean over rows
        self._has_shared = False  # whether the processes of this fit have shared a batch
        # What `_sum_losses` returned, if a validation moved it already.
        self._losses_on_cpu: list[Tensor] = []
        self._fitted_by = 0  # the id of the Trainer of the last fit
        self._execution: Execution | None = None
        # Replays the losses and gradients of a fit, see ``ensemble.single``; None if nothing does.
        self.step_graph: Any = None
        self.encoding: Mapping[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy has no Trainer, so it is in no execution.
        return {**super().__getstate__(), "_execution": None, "step_graph": None}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        adapt_methods(cls)

    @property
    def clips_gradients(self) -> bool:
        """Whether the Trainer clips gradients; with a fused optimizer it cannot in 16-mixed precision."""
        return self._trainer is not None and self.trainer.gradient_clip_val is not None

    def make_optimizer(
        self,
        name: OptimizerName | Literal["adam"],
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> torch.optim.Optimizer:
        """Return minibatch SGD, Adam or AdamW over all parameters; errors as in ``require_stable_decay``."""
        if name != "adam":  # Adam divides the gradient of its penalty by its size
            require_stable_decay(lr=lr, weight_decay=weight_decay)
        if name == "sgd":
            return torch.optim.SGD(self.parameters(), lr=lr, weight_decay=weight_decay)
        kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
        fused = not self.clips_gradients
        return kind(self.parameters(), lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)

    def num_training_steps(self) -> int:
        """Return the number of the optimizer's steps in this fit, as the length of a schedule.

        For a member that trains beside others, this is the number of its own steps.

        Raises:
            InputError: If the fit has no steps, or no end.
        """
        steps = self.trainer.estimated_stepping_batches
        if not 0 < steps < math.inf:
            raise InputError("a schedule needs steps, and max_epochs or max_steps as its end")
        return int(steps)

    def forward(self, X: Tensor) -> Tensor:
        """Return the predictions of ``self.net``; a class without ``net`` defines this method."""
        if "net" not in self._modules:
            raise missing_method(self, "forward(self, X)", "the predictions, or an attribute net, a module")
        return self._modules["net"](X)  # type: ignore[misc]

    def losses_of(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each example, shape ``(B,)``, given the predictions."""
        raise missing_method(self, "loss(self, y_hat, y)", "the mean loss of a batch or a loss per example")

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each example, shape ``(B,)``."""
        return self.losses_of(self(X), y)

    def example_metrics(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the values that evaluation averages over examples: tensors of shape ``(B,)`` by name."""
        return {"loss": self.example_losses(X, y)}

    def epoch_metrics(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the metrics to log, given the averages of ``example_metrics``; elementwise."""
        return dict(means)

    def loss(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the risk of a batch, see ``functional.risk.empirical_risk``: a scalar.

        A class may define ``loss(self, y_hat, y)`` instead, as in the book: the mean loss of a batch, or the
        loss of each example, given the predictions. Its ``super().loss(y_hat, y)`` is the mean of the losses
        of the class before.
        """
        if self.loss_owner is not None:  # called by such a loss
            return single(super(self.loss_owner, self).losses_of(X, y)).mean()  # type: ignore[misc]
        losses = self.example_losses(X, y)
        if losses.shape != y.shape or losses.ndim != 1:
            raise shape_error(self, "example_losses", losses, X, y)
        return empirical_risk(single(losses), weight)

    def _values(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return ``example_metrics``; raise an InputError if they are not a value for each example."""
        metrics = self.example_metrics(X, y)
        for name, values in metrics.items():
            expected = y.shape if self.loss_owner is None else y.shape[:1]
            if values.shape != expected or values.ndim != 1:
                raise shape_error(self, f"{name!r} in example_metrics", values, X, y)
        return metrics

    def name_of(self, index: int) -> str:
        """Return the name of the member at ``index`` of several models that train side by side."""
        return f"member_{index + 1}"

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Train on the minibatches of the execution but the last; return the loss of the last one."""
        self.on_execution_start()
        if self._execution is not None:
            batch = self._execution.run(batch)
        loss = self._batch_loss(batch).sum()
        return shown(loss) if shares_rows(self._trainer) else loss

    def on_execution_start(self) -> None:
        """Check that the graph of the steps still holds, if there is one."""
        if self.step_graph is not None:
            self.step_graph.check()

    def backpropagate(self, batch: Any, optimizer: torch.optim.Optimizer) -> Tensor:
        """Compute the gradients of a batch's loss; return the loss, a scalar."""
        assert self._execution is not None
        if self.step_graph is not None and self.trainer.fit_loop.epoch_loop.total_batch_idx >= _REPLAY_FROM:
            replayed = self.step_graph(*batch)
            if replayed is not None:
                loss, *gradients = replayed
                for parameter, gradient in zip(self.step_graph.trained, gradients, strict=True):
                    parameter.grad = gradient
                self.accumulate_loss(loss, batch)
                return loss
        with self._execution.forward_context():
            loss = self._batch_loss(batch)
            loss = loss.sum() if loss.ndim else loss
        if type(optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:
            optimizer.zero_grad()
        for group in optimizer.param_groups:  # zero_grad() takes as long as a small model's forward pass
            for parameter in group["params"]:
                parameter.grad = None
        self._execution.scaled(loss).backward()
        return loss.detach()

    def training_loss(self, *batch: Any) -> Tensor:
        """Return the loss of a training batch: X, y and the weights, if there are any."""
        return self.loss(*batch) if self.loss_owner is None else training_loss(self, *batch)

    def _batch_loss(self, batch: Any) -> Tensor:
        """Return the loss of a training batch and add it to the epoch's loss.

        Of several processes, each computes its share; the loss is the mean of what they return.
        """
        share = share_of(self, batch[1])
        if share is not None and not self._has_shared:
            require_mean_over_rows(self, batch, share)
            self._has_shared = True
        try:
            with self._drawing(share):
                loss = self.training_loss(*(batch if share is None else share.take(*batch)))
        except (RuntimeError, ValueError) as error:
            explain_error(self, batch[0], error)
            raise
        if loss.ndim != self._loss_ndim:
            raise InputError(f"loss of {type(self).__name__} must be a scalar, not {tuple(loss.shape)}")
        if share is not None:
            loss = loss * share.factor(batch[2] if len(batch) > 2 else None, loss.dtype)
        self.accumulate_loss(loss, batch)
        return loss

    def _drawing(self, share: Share | None) -> AbstractContextManager[Any]:
        """Return a context in which the random numbers of a share are drawn for all rows of the batch."""
        return drawing(share)

    def accumulate_loss(self, loss: Tensor, batch: Any) -> None:
        """Add a batch's loss to the epoch's loss."""
        # Averaged at the epoch's end: a Metric's update costs as much as the whole step of a small model.
        # The weights are not of the type of y: sums of half-precision numbers would be rounded.
        self._losses.append((loss.detach(), batch[2] if len(batch) > 2 else len(batch[1])))

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
        share = share_of(self, y)
        if share is not None:
            X, y, weight = (*share.take(X, y, weight), None)[:3]
        try:
            with self._drawing(share):
                values = self._values(X, y)
        except (RuntimeError, ValueError) as error:
            explain_error(self, X, error)
            raise
        weights = weight if isinstance(weight, Mapping) else {stage: weight}
        for stage, stage_weight in weights.items():
            for metric, value in values.items():
                name = f"{stage}/{metric}"
                if name == "train/loss":  # this is the loss of the training steps
                    continue
                own_weight = stage_weight
                if own_weight is None:
                    own_weight = torch.ones_like(value, dtype=torch.float32)
                    if share is not None and share.is_empty:
                        own_weight.zero_()
                require_same_shape(**{f"weight of stage {stage}": own_weight, metric: value})
                dtype, mean = torch.promote_types(value.dtype, torch.float32), self._metrics.get(name)
                if mean is None or (mean.total.device, mean.total.dtype) != (value.device, dtype):
                    mean = ExampleMean(value.shape[:-1], dtype, sync_on_compute=False).to(value.device)
                    self._metrics[name] = mean
                mean.update(value, own_weight)

    def fit_state(self) -> dict[str, Tensor]:
        """Return what the module keeps between the epochs of a fit, beside its ``state_dict``."""
        kept = {"first_loss": self._first_loss, "first_size": self._first_size}
        return {name: value for name, value in kept.items() if value is not None}

    def load_fit_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``fit_state`` returned, before the fit goes on from a checkpoint."""
        self._first_loss, self._first_size = state.get("first_loss"), state.get("first_size")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a prediction needs beside the weights: the encoder and the name of the class."""
        if self.encoding is not None:
            checkpoint.update(encoding=dict(self.encoding), class_name=type(self).__name__)

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the encoder of a checkpoint that has one."""
        self.encoding = checkpoint.get("encoding")

    def setup(self, stage: str) -> None:
        """Prepare loaders that are generator functions, and the shapes of lazy layers."""
        take_generator_functions(self.trainer)
        give_shapes(self, self.trainer)

    def configure_optimizers(self) -> Any:
        """Return the optimizer; a class must define this method."""
        raise missing_method(
            self, "configure_optimizers(self)", "an optimizer such as SGD(self.parameters(), lr)"
        )

    def on_fit_start(self) -> None:
        """Raise an InputError for a Trainer that has fitted already, or a tensor that is no parameter."""
        require_new_fit(self.trainer, continues=self._fitted_by == id(self.trainer))
        require_parameters(self)
        require_sharing(self.trainer)
        if self.trainer.world_size > 1:
            require_separate_rows(self)
        self._has_shared = False
        self._fitted_by = id(self.trainer)
        if self.trainer.ckpt_path is None:
            self._first_loss = self._first_size = self._epoch_loss = None

    def on_train_start(self) -> None:
        """Keep the size of the parameters, by which ``on_train_end`` sees whether the fit diverged."""
        require_repeatable(self.trainer, self.trainer.train_dataloader, "training")
        self._execution = Execution(self.trainer, self)
        if self._first_size is None:
            self._first_size = parameter_size(self, self.num_members).cpu()

    def on_train_epoch_start(self) -> None:
        """Discard the losses of an interrupted epoch."""
        self._losses.clear()
        self._losses_on_cpu = []

    def _sum_losses(self) -> list[Tensor]:
        """Return the loss of the epoch's first batch, and the epoch's loss, on the module's device."""
        losses = torch.stack([loss for loss, _ in self._losses])
        losses = losses.to(torch.promote_types(losses.dtype, torch.float32))
        if shares_rows(self._trainer):
            losses = mean_losses(losses)
        counts, weight = batch_counts([weight for _, weight in self._losses], losses.device)
        return [losses[0], sum_first(losses * counts) / sum_first(weight)]

    def on_train_epoch_end(self) -> None:
        """Log the epoch's loss; raise a DivergenceError if it is not finite."""
        if not self._losses:
            require_batches(self)
            return
        first, loss = self._losses_on_cpu or to_cpu(self._sum_losses())
        if self._first_loss is None:
            self._first_loss = first
        finite = loss.isfinite()
        if not finite.all():
            epoch = self.current_epoch + 1
            self.on_divergence(~finite, [f"became {value:g} in epoch {epoch}" for value in loss.view(-1)])
        self._epoch_loss = loss
        self.log_metrics({"train/loss": loss})

    def on_divergence(self, wrong: Tensor, what: Sequence[str]) -> None:
        """Raise a DivergenceError for the first model whose loss is wrong.

        Args:
            wrong: Whether the loss is wrong, of shape ``()``, or ``(K,)`` for K models side by side.
            what: What each of the losses did.
        """
        index = int(wrong.view(-1).nonzero()[0])
        raise DivergenceError(
            self._divergence(f" of {self.name_of(index)}" if wrong.ndim else "", what[index])
        )

    def _divergence(self, of: str, what: str) -> str:
        clipping = " or a gradient_clip_val" if self.automatic_optimization else ""
        return f"the training loss{of} {what}; a lower lr{clipping} may help"

    def on_train_end(self) -> None:
        """Raise a DivergenceError if loss and parameters have grown by orders of magnitude."""
        if self._epoch_loss is None or self._first_loss is None or self._first_size is None:
            return
        growth = parameter_size(self, self.num_members).cpu() / self._first_size.clamp(min=1)
        grown = self._epoch_loss > DIVERGED_LOSS * self._first_loss.abs()
        grown = grown & (growth.view(grown.shape) > DIVERGED_PARAMETERS)
        if grown.any():
            losses = zip(self._first_loss.view(-1), self._epoch_loss.view(-1), strict=True)
            self.on_divergence(grown, [f"grew from {before:g} to {after:g}" for before, after in losses])

    def on_validation_start(self) -> None:
        """Raise an InputError if several processes would not give the results of one."""
        require_repeatable(self.trainer, self.trainer.val_dataloaders, "validation")
        require_sharing(self.trainer)

    on_test_start = on_validation_start

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of each stage."""
        if shares_rows(self._trainer):
            sum_metrics(self._metrics.values())
        means: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
        examples: dict[str, Tensor] = {}
        for name, mean in self._metrics.items():
            if mean.update_called:  # an earlier evaluation may have had other stages
                stage, metric = name.split("/")
                examples[stage] = mean.weight.clone()
                means[stage][metric] = mean.compute().view_as(mean.total)  # compute() squeezes
                mean.reset()
        evaluated = {
            f"{stage}/{metric}": value
            for stage, values in means.items()
            for metric, value in self.epoch_metrics(values).items()
        }
        # The epoch's loss is moved to the CPU together with the metrics, if the epoch ends here.
        losses = self._sum_losses() if self._ends_epoch() else []
        values = to_cpu([*evaluated.values(), *examples.values(), *losses])
        self.evaluated = dict(zip(evaluated, values, strict=False))
        self.examples.update(zip(examples, values[len(evaluated) :], strict=False))
        self._losses_on_cpu = values[len(evaluated) + len(examples) :]
        self.log_metrics(self.evaluated)

    on_test_epoch_end = on_validation_epoch_end

    def _ends_epoch(self) -> bool:
        """Return whether this is the validation after the last batch of a training epoch."""
        trainer = self.trainer
        in_fit = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        return in_fit and bool(self._losses) and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch

    def log_metrics(self, metrics: dict[str, Tensor]) -> None:
        """Log an epoch's metrics, which are on the CPU."""
        self.log_dict({self.log_prefix + metric: value for metric, value in metrics.items()})
