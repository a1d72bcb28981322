"""K members of one architecture as one module, with every parameter stacked along a leading dimension."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.optim import Optimizer

from d2l_lightning.data.batches import StackedBatches, require_ascending, require_streams
from d2l_lightning.distributed.shares import Share
from d2l_lightning.ensemble.alike import require_alike
from d2l_lightning.ensemble.cuda_graph import CudaGraph
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.evaluation import evaluate_members
from d2l_lightning.ensemble.graph import LossGraph
from d2l_lightning.ensemble.optimizers import stacked_configuration
from d2l_lightning.ensemble.padding import Padding
from d2l_lightning.ensemble.scaling import StackedScaler
from d2l_lightning.ensemble.streams import Streams
from d2l_lightning.ensemble.vectorized import Vectorized
from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.models.sharing import share_of
from d2l_lightning.optim.schedulers import StackedScheduler, depends_on_steps
from d2l_lightning.optim.sgd import SGD
from d2l_lightning.optim.stacked import StackedOptimizer, keep_members


class StackedModule(SupervisedModule):
    """Trains K members in the same steps; each is trained as if it were alone.

    The loss is the sum of the members' losses, so that no member affects another's gradient. Gradients are
    clipped for each member separately. The optimizer is the members' own and works elementwise.

    Batches come from ``StackedData``. Every metric is logged for each member, as ``<stage>/<metric>/<name>``,
    and as the mean over the members, ``<stage>/<metric>``.

    Rows of weight 0, which pad a batch, do not count in a member's batch normalization either: batches with
    such rows are then computed member by member. Other layers that mix rows are an InputError in training.

    Args:
        members: Modules of one class with the same hyperparameters, except the class's ``buffer_hparams``.
            They may differ in weights and buffers.
        names: Their names; ``member_1`` and so on if not given.
        averaged: The names of the members whose mean is logged; all if not given.
        streams: For each member, the number of its stream of random numbers, from 0 to R - 1. In a training
            step, members with the same stream get the same numbers, which do not depend on how many they are.
            If not given, each member has numbers of its own. Members of one setting follow each other: where
            a stream comes again, a new setting starts, and its optimizer is called separately.
        raise_on_divergence: Whether a member that diverges ends the fit. If not, it is in ``diverged``, and
            left out of the means; the others train as they do without it.

    Attributes:
        diverged: What happened to the members that diverged, by name.

    Raises:
        InputError: If there are no members, they differ in more than weights and buffers, a parameter is
            frozen in only some of them, a method of theirs would not be called, the names are not unique or
            not as many as the members, the streams are not as many or have a gap, or the optimizer mixes the
            elements of a parameter.
    """

    _loss_ndim = 1
    replay_from = 50  # minibatches; tracing takes about as long as it saves in 200

    def __init__(
        self,
        members: Sequence[SupervisedModule],
        names: Sequence[str] | None = None,
        averaged: Sequence[str] | None = None,
        streams: Sequence[int] | None = None,
        raise_on_divergence: bool = True,
    ) -> None:
        super().__init__()
        if not members:
            raise InputError("there is no member to train")
        if names is not None and len(names) != len(members):
            raise InputError(f"{len(names)} names do not go with {len(members)} members")
        self.names = list(names) if names else [f"member_{k + 1}" for k in range(len(members))]
        if len(set(self.names)) < len(self.names):
            raise InputError(f"names must differ, because metrics are logged by name: {self.names}")
        if averaged is not None and not set(averaged) <= set(self.names):
            raise InputError(f"averaged must be names of members, {self.names}, not {list(averaged)}")
        self._averaged = [averaged is None or name in averaged for name in self.names]
        self.num_members = len(self.names)
        self.raise_on_divergence, self.diverged = raise_on_divergence, dict[str, str]()
        drawn = None
        if streams is not None:
            drawn = Streams(streams, require_streams(streams, self.num_members))
        require_alike(members, self.names)
        self.member_hparams = [dict(member.hparams) for member in members]
        # A member whose parameters have the leading dimension, so that its optimizer is that of all members.
        self.stacked = copy.deepcopy(members[0])
        self.stacked._metrics, self.stacked.evaluated, self.stacked._losses = {}, {}, []
        shared: dict[Tensor, Tensor] = {}  # a tensor that several modules share stays one
        for path, owner in self.stacked.named_modules():
            owners = [member.get_submodule(path) for member in members]
            for tensors in (owner._parameters, owner._buffers):
                for name, tensor in tensors.items():
                    if tensor is None:
                        continue
                    if tensor not in shared:
                        values = torch.stack([getattr(o, name).detach() for o in owners])
                        is_parameter = isinstance(tensor, nn.Parameter)
                        shared[tensor] = (
                            nn.Parameter(values, tensor.requires_grad) if is_parameter else values
                        )
                    tensors[name] = shared[tensor]
        self._members = Vectorized(self.stacked, drawn)
        self._padding = Padding(self._members)
        self._graph = LossGraph(self._members)
        self._steps: list[int] | None = None  # of each member in an epoch, if they differ
        self._idle: dict[Any, Tensor] = {}  # by who is active and the device: the others' indices

    def on_fit_start(self) -> None:
        """Begin a fit, in which losses and gradients are traced anew."""
        super().on_fit_start()
        if self.cuda_graphs is True:
            self.require_cuda_graphs(self.trainer)
        self._graph.cuda_graphs = self.cuda_graphs
        if self.cuda_graphs == "auto" and CudaGraph.obstacle(self.trainer, self._graph.has_hooks()):
            self._graph.cuda_graphs = False
        self._graph.reset(enabled=self._graph.enabled or self.trainer.ckpt_path is None)
        plugin: Any = self.trainer.precision_plugin
        self._graph.autocast = None
        if isinstance(plugin, MixedPrecision):
            self._graph.autocast = torch.bfloat16 if plugin.precision == "bf16-mixed" else torch.float16
        if getattr(plugin, "scaler", None) is not None:
            plugin.scaler = StackedScaler(plugin.scaler, self.num_members, self.trainer.strategy.root_device)

    @property
    def _scaler(self) -> StackedScaler | None:
        """What scales the gradients in a fit in half precision; None in others."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return scaler if isinstance(scaler, StackedScaler) else None

    def require_cuda_graphs(self, trainer: Trainer) -> None:
        """Raise an InputError where the steps of a fit cannot be a CUDA graph."""
        CudaGraph.require(trainer, self._graph.has_hooks())

    def fit_state(self) -> dict[str, Tensor]:
        """Return what the module keeps between the epochs of a fit, beside its ``state_dict``."""
        return {**super().fit_state(), "replays": torch.tensor(self._graph.enabled)}

    def load_fit_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``fit_state`` returned, before the fit goes on from a checkpoint."""
        super().load_fit_state(state)
        self._graph.enabled = bool(state.get("replays", True))

    def on_train_epoch_start(self) -> None:
        """Discard the losses of an interrupted epoch; see which members take part in which steps."""
        super().on_train_epoch_start()
        batches = getattr(self.trainer.train_dataloader, "batches", None)
        self._steps = None
        if isinstance(batches, StackedBatches) and {*batches.steps} != {len(batches)}:
            self._steps = batches.steps

    def on_execution_start(self) -> None:
        """Check that the graph of losses and gradients still holds."""
        self._graph.check()

    def _active_members(self) -> list[bool] | None:
        """Return which members take part in this step, and leave the others out of it; None if all do.

        Raises:
            InputError: If the optimizer cannot leave out members.
        """
        if self._steps is None:
            return None
        batch_idx = self.trainer.fit_loop.batch_idx
        active = [batch_idx < steps for steps in self._steps]
        # With accumulated gradients, a member takes a step if it had rows in one of the batches.
        first = batch_idx - batch_idx % self.trainer.accumulate_grad_batches
        steps_now = [first < steps for steps in self._steps]
        if not all(active):
            for config in self.trainer.lr_scheduler_configs:
                if config.interval == "step" and not isinstance(config.scheduler, StackedScheduler):
                    raise InputError(
                        "some members take fewer steps than others, and a "
                        f"{type(config.scheduler).__name__} that goes on at every step is for all of them; "
                        "choose a batch_size with which all take as many, or another scheduler"
                    )
        if self._scaler is not None:
            self._scaler.active = steps_now
        optimizer = self.optimizers(use_pl_optimizer=False)
        if isinstance(optimizer, StackedOptimizer):
            optimizer.active = steps_now
        elif type(optimizer) is not SGD and not all(steps_now):
            raise InputError(
                f"some members take fewer steps than others, and {type(optimizer).__name__} cannot leave "
                "them out; take Adam, AdamW or SGD, or a batch_size with which all take as many"
            )
        return None if all(active) else active

    def _idle_members(self, active: Sequence[bool]) -> Tensor:
        """Return the indices of the members that are not active, on the device; they are moved there once."""
        key = *active, self.device
        if key not in self._idle:
            idle = [k for k, on in enumerate(active) if not on]
            self._idle[key] = torch.tensor(idle, device=self.device)
        return self._idle[key]

    def _clear_idle(self, gradients: Sequence[Tensor | None], active: Sequence[bool] | None) -> None:
        """Set the gradients of members that take no part in a step to 0, such as those of a penalty."""
        for gradient in gradients:
            if active is not None and gradient is not None:
                gradient.index_fill_(0, self._idle_members(active), 0)

    def training_loss(self, *batch: Any) -> Tensor:
        """Return the losses of the members, shape ``(K,)``; 0 for members that take no part in the step."""
        active = self._active_members()
        replayed = self._replay(*batch)
        if replayed is None:
            losses = self.loss(*batch)
            if active is not None:
                losses = losses.index_fill(0, self._idle_members(active), 0)
            return losses if self._scaler is None else self._scaler.scale_losses(losses)
        losses, *gradients = replayed
        self._clear_idle(gradients, active)
        return self._graph.as_loss(losses, gradients)

    def backpropagate(self, batch: Any, optimizer: Optimizer) -> Tensor:
        """Compute the gradients of a batch's loss; return the loss, a scalar."""
        share = share_of(self, batch[1])
        with self._drawing(share):
            replayed = self._replay(*(batch if share is None else share.take(*batch)))
        if replayed is None:
            return super().backpropagate(batch, optimizer)
        losses, *gradients = replayed
        self._clear_idle(gradients, self._active_members())
        if share is not None:
            factor = share.factor(batch[2] if len(batch) > 2 else None, losses.dtype)
            losses = losses * factor
            _multiply(gradients, factor / share.processes)
        for parameter, gradient in zip(self._graph.trained, gradients, strict=True):
            parameter.grad = gradient
        self.accumulate_loss(losses, batch)
        return losses.sum()

    @contextmanager
    def _drawing(self, share: Share | None) -> Iterator[None]:
        self._members.share = share
        try:
            yield
        finally:
            self._members.share = None

    def _replay(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> tuple[Any, ...] | None:
        """Return the members' losses and the gradients by a graph; None if there is none for this batch."""
        if weight is not None and self._padding.is_mixed(weight):
            return None
        # The step alone decides, so that a resumed fit has the same bits.
        if self.trainer.fit_loop.epoch_loop.total_batch_idx < self.replay_from:
            return None
        self._padding.check(X, y, weight)
        scales, share = None if self._scaler is None else self._scaler.scales, self._members.share
        if scales is not None and share is not None:
            scales = scales / share.processes  # half precision holds what it does in one process
        results = self._graph(X, y, *([] if weight is None else [weight]), scales=scales)
        if results is not None and scales is not None and share is not None:
            _multiply(results[1:], share.processes)
        return results

    def forward(self, X: Tensor) -> Tensor:
        """Return the predictions of every member, shape ``(K, B)``, for features of shape ``(B, ...)``."""
        return self._members.each("forward", (None,), X)

    def loss(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss of each member, shape ``(K,)``."""
        if self.stacked.loss_owner is not None and not self.stacked.loss_is_mean:
            self._require_mean(X, y)
        if weight is not None and self._padding.is_mixed(weight):
            return self._padding.losses_without(X, y, weight)
        self._padding.check(X, y, weight)
        return self._members.each("training_loss", (0, 0, None if weight is None else 0), X, y, weight)

    @torch.no_grad()
    def _require_mean(self, X: Tensor, y: Tensor) -> None:
        """Raise an InputError if ``loss(y_hat, y)`` of the members' class is no mean over rows."""
        own = self._members.state
        try:
            with torch.random.fork_rng([X.device] if X.is_cuda else []):
                self._members.call("training_loss", [value[0] for value in own], X[0], y[0])
        finally:
            self._members.put(own)

    def example_losses(self, X: Tensor, y: Tensor) -> Tensor:
        """Return the losses of the members' examples, ``(K, B)``; members share a y of shape ``(B,)``."""
        dim = 0 if y.ndim > 1 else None
        return self._members.each("example_losses", (dim, dim), X, y)

    def example_metrics(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the metrics of the members' examples, ``(K, B)``; members share a y of shape ``(B,)``."""
        dim = 0 if y.ndim > 1 else None
        return self._members.each("example_metrics", (dim, dim), X, y)

    def _values(self, X: Tensor, y: Tensor) -> dict[str, Tensor]:
        dim = 0 if y.ndim > 1 else None
        return self._members.each("_values", (dim, dim), X, y)

    def epoch_metrics(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the metrics of each member, shape ``(K,)``."""
        return self.stacked.epoch_metrics(means)

    def name_of(self, index: int) -> str:
        """Return the name of the member at ``index``."""
        return self.names[index]

    def log_metrics(self, metrics: dict[str, Tensor]) -> None:
        """Log the metrics of an epoch: of every member, and their mean."""
        row: dict[str, float] = {"epoch": self.current_epoch}
        averaged_members = [
            on and name not in self.diverged for name, on in zip(self.names, self._averaged, strict=True)
        ]
        for metric, values in metrics.items():
            name = self.log_prefix + metric
            has_examples = torch.ones_like(values, dtype=torch.bool)
            if metric != "train/loss":
                has_examples = (self.examples[metric.partition("/")[0]] > 0).expand_as(values)
            averaged = torch.tensor(averaged_members, device=values.device) & has_examples
            row[name] = values[averaged].mean().item()
            members = zip(self.names, values.tolist(), has_examples.tolist(), strict=True)
            row.update({f"{name}/{member}": value for member, value, has in members if has})
            # `log` takes 0.3 ms per name and epoch, so it gets only the metrics that a callback may monitor.
            if not metric.startswith("train/"):
                self.log(
                    name, torch.tensor(row[name]), logger=False
                )  # a number would be copied to the device
        if not self.trainer.sanity_checking:
            for logger in self.loggers:
                logger.log_metrics(row, step=self.global_step)

    def configure_optimizers(self) -> Any:
        """Return the members' optimizers and schedulers for the stacked parameters, as one."""
        first = self._configured(0)
        steps = [0] * self.num_members  # if they do not count, members with other steps stay together
        if depends_on_steps(first):
            steps = [self._own_training_steps(k) for k in range(self.num_members)]
        drawn = self._members.streams
        settings = [0] * self.num_members if drawn is None else drawn.settings
        keys = list(zip(steps, settings, self.member_hparams, strict=True))
        configured = [first]
        for k in range(1, self.num_members):  # neighbours with the same key have one scheduler
            configured.append(configured[-1] if keys[k] == keys[k - 1] else self._configured(k))
        return stacked_configuration(configured, apart=drawn is not None)

    def _configured(self, index: int) -> Any:
        """Return what ``configure_optimizers`` of a member returns."""
        own = dict(self.stacked.hparams)
        try:
            self.stacked.hparams.update(self.member_hparams[index])
            vars(self.stacked)["num_training_steps"] = partial(self._own_training_steps, index)
            return self.stacked.configure_optimizers()
        finally:
            self.stacked.hparams.update(own)
            del vars(self.stacked)["num_training_steps"]

    def _own_training_steps(self, index: int) -> int:
        """Return the number of steps that a member takes in this fit."""
        total = self.num_training_steps()
        if self.trainer.train_dataloader is None:
            self.trainer.fit_loop.setup_data()
        batches = getattr(self.trainer.train_dataloader, "batches", None)
        if not isinstance(batches, StackedBatches):
            return total
        # With accumulated gradients, the last step of an epoch may have fewer batches.
        accumulated, limit = self.trainer.accumulate_grad_batches, int(self.trainer.num_training_batches)
        in_epoch, own = (-(-min(n, limit) // accumulated) for n in (limit, batches.steps[index]))
        epochs, rest = divmod(total, in_epoch)
        return epochs * own + min(rest, own)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient of each member separately, by value or by its own norm over all parameters."""
        if gradient_clip_val is None:
            return
        if gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norms = torch.stack([g.reshape(len(g), -1).norm(dim=1) for g in gradients]).norm(dim=0)
        factors = (gradient_clip_val / (norms + 1e-6)).clamp(max=1)
        _multiply(gradients, factors)

    def on_divergence(self, wrong: Tensor, what: Sequence[str]) -> None:
        """Raise a DivergenceError for the first of the members that diverged, or add them to ``diverged``."""
        if self.raise_on_divergence:
            super().on_divergence(wrong, what)
        for k in wrong.nonzero().flatten().tolist():
            self.diverged.setdefault(self.names[k], self._divergence("", what[k]))

    def evaluate(self, data: StackedData, stage: str, max_bytes: int = 2**24) -> dict[str, Tensor]:
        """Return the metrics of every member on its rows of a stage, by name as in ``evaluated``: ``(K,)``.

        A value does not depend on the other members. It is NaN for members without rows of the stage.

        Args:
            data: The data of these members.
            stage: A stage of the data, such as ``val``.
            max_bytes: The most bytes of features that are in memory at once, beside those of one member.

        Raises:
            InputError: If the data are of other members, or have no such stage.
        """
        training = self.training
        self.eval()
        try:
            return evaluate_members(self._members, self.epoch_metrics, data, stage, max_bytes)
        finally:
            self.train(training)

    def keep(self, indices: Sequence[int]) -> None:
        """Drop all members but these; the others train on as if they all were there, to the bit.

        In a fit, call it before an epoch, such as in ``on_train_epoch_start`` of a callback. The optimizers,
        schedulers and data of the fit drop the members too. Members of equal settings, which are updated
        together, must leave together: a kernel rounds the last elements of a tensor differently. For the same
        reason, some activations (``silu``) and optimizers other than Adam, AdamW and SGD give the same bits
        only where a member's part of a tensor is a multiple of 128 bytes; and so may products of matrices.

        Args:
            indices: The members that are kept, in ascending order.

        Raises:
            InputError: If the indices are none, not ascending or out of range, or the fit's data cannot drop
                members.
        """
        require_ascending(indices, self.num_members)
        if len(indices) == self.num_members:
            return
        trainer = self._trainer
        if trainer is not None and trainer.train_dataloader is not None:
            data = getattr(trainer, "datamodule", None)
            if not isinstance(data, StackedData):
                raise InputError("members can only be dropped in a fit whose data are a StackedData")
            data.keep(indices)
        before, self.num_members = self.num_members, len(indices)
        places = torch.tensor(list(indices))
        for tensor in self._members.distinct:
            tensor.data = tensor.detach().index_select(0, places.to(tensor.device))
            tensor.grad = None
        for optimizer in trainer.optimizers if trainer is not None else ():
            keep_members(optimizer, indices, before)
        for config in trainer.lr_scheduler_configs if trainer is not None else ():
            if isinstance(config.scheduler, StackedScheduler):
                config.scheduler.keep(indices)
        if trainer is not None and self._scaler is not None:
            self._scaler.keep(indices)
        self._keep_state(indices)

    def _keep_state(self, indices: Sequence[int]) -> None:
        """Drop what else is kept of the members but these."""

        def of_kept(value: Any) -> Any:
            return value[list(indices)] if isinstance(value, Tensor) else value

        self.names = [self.names[k] for k in indices]
        self._averaged = [self._averaged[k] for k in indices]
        self.member_hparams = [self.member_hparams[k] for k in indices]
        self._losses = [(of_kept(loss), of_kept(weight)) for loss, weight in self._losses]
        self._first_loss, self._first_size = of_kept(self._first_loss), of_kept(self._first_size)
        self._epoch_loss = of_kept(self._epoch_loss)
        self.evaluated = {name: of_kept(values) for name, values in self.evaluated.items()}
        self.examples = {stage: of_kept(values) for stage, values in self.examples.items()}
        self._metrics.clear()
        self._losses_on_cpu = []
        if self._steps is not None:
            self._steps = [self._steps[k] for k in indices]
        if self._members.streams is not None:
            self._members.streams = self._members.streams.keep(indices)
        self._graph.reset(enabled=self._graph.enabled)

    def unstack(self) -> list[SupervisedModule]:
        """Return the members as modules of their own, with their present weights."""
        members = []
        for k, hparams in enumerate(self.member_hparams):
            memo: dict[int, Any] = {}  # what the copy has in place of each stacked tensor
            for owner, name in self._members.slots:
                stacked = owner[name]
                own = stacked.detach()[k].clone()
                is_parameter = isinstance(stacked, nn.Parameter)
                memo[id(stacked)] = nn.Parameter(own, stacked.requires_grad) if is_parameter else own
            member = copy.deepcopy(self.stacked, memo)
            member.hparams.update(copy.deepcopy(hparams))
            member._hparams_initial = copy.deepcopy(member.hparams)
            members.append(member)
        return members


def _multiply(gradients: Sequence[Tensor | None], factors: Tensor | float) -> None:
    """Multiply the gradients of members, which have the leading dimension, by a factor, or one of each."""
    for gradient in gradients:
        if gradient is not None:
            shape = (-1, *[1] * (gradient.ndim - 1))
            gradient.mul_(factors.view(shape) if isinstance(factors, Tensor) else factors)
