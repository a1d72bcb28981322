"""Several minibatches in one training step, without what the Trainer does between two of them."""

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

from d2l_lightning.distributed.group import num_processes
from d2l_lightning.distributed.strategy import DataParallelStrategy, shares_rows
from d2l_lightning.errors import InputError

if TYPE_CHECKING:
    from d2l_lightning.models.base import SupervisedModule

StepsPerExecution = int | Literal["auto"]

# Hooks that Lightning calls for each minibatch.
_HOOKS = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward"),
    *("on_after_backward", "on_before_optimizer_step"),
)
# Methods of a module that replace a part of the step.
_METHODS = (*_HOOKS, "backward", "optimizer_step", "optimizer_zero_grad")
_TRANSFER = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def require_steps_per_execution(steps: StepsPerExecution, name: str = "steps_per_execution") -> None:
    """Raise an InputError unless a number of steps is positive or ``auto``."""
    if steps != "auto" and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise InputError(f"{name} must be a positive whole number or auto, not {steps}")


def require_whole_steps(trainer: Trainer, module: "SupervisedModule") -> str | None:
    """Return what needs a training step of its own for every minibatch; None if nothing does.

    Raises:
        InputError: If there is such a thing, and ``steps_per_execution`` of the module is more than 1.
    """
    steps = module.steps_per_execution
    require_steps_per_execution(steps)
    reason = obstacle(trainer, module)
    if reason is not None and steps not in (1, "auto"):
        raise InputError(_refusal(steps, reason))
    return reason


def obstacle(trainer: Any, module: "SupervisedModule") -> str | None:
    """Return what needs a training step of its own for every minibatch; None if nothing does."""
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DataParallelStrategy):
        return f"the strategy {type(trainer.strategy).__name__}"
    if type(trainer.precision_plugin) not in (Precision, DoublePrecision, HalfPrecision, MixedPrecision):
        return f"the precision {trainer.precision}"
    if trainer.accumulate_grad_batches != 1:
        return "accumulate_grad_batches"
    if trainer._val_check_time_interval is not None:
        return "a val_check_interval in units of time"
    if not isinstance(trainer.profiler, PassThroughProfiler):
        return "a profiler"
    if module.training_step.__qualname__ != "SupervisedModule.training_step":
        return f"training_step of {type(module).__name__}"
    for method in _METHODS:
        if getattr(getattr(module, method), "__func__", None) is not getattr(LightningModule, method):
            return f"{method} of {type(module).__name__}"
    for callback in trainer.callbacks:
        for hook in _HOOKS:
            if hook == "on_train_batch_end" and hasattr(callback, "on_train_minibatch_end"):
                continue
            function = getattr(callback, hook)  # of the object: a LambdaCallback has its own
            if function is not None and getattr(function, "__func__", None) is not getattr(Callback, hook):
                return f"{hook} of the callback {type(callback).__name__}"
    optimizers = trainer.optimizers
    if optimizers:
        closure = inspect.signature(optimizers[0].step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            return f"the optimizer {type(optimizers[0]).__name__}"
    return None


def _refusal(steps: StepsPerExecution, reason: str) -> str:
    return f"steps_per_execution {steps} does not go with {reason}; take 1 or auto"


class Execution:
    """The minibatches of a fit that are trained on within one training step.

    The state of Lightning's loops after each minibatch is the one that they have without it. What the Trainer
    does at certain steps (validation, the end of the fit) ends an execution.

    Args:
        trainer: The Trainer of the fit.
        module: The module.

    Raises:
        InputError: If ``steps_per_execution`` of the module is more than 1 and something needs every step.
    """

    def __init__(self, trainer: Any, module: "SupervisedModule") -> None:
        self.trainer, self.module = trainer, module
        self._loop = trainer.fit_loop.epoch_loop
        reason, steps = require_whole_steps(trainer, module), module.steps_per_execution
        self._steps: int | None = 1 if reason else None if steps == "auto" else int(steps)
        self._observers = [
            callback.on_train_minibatch_end
            for callback in trainer.callbacks
            if hasattr(callback, "on_train_minibatch_end")
        ]
        self._mixed = isinstance(trainer.precision_plugin, MixedPrecision)
        self._scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.shared = shares_rows(trainer)
        owners = [each for each in (module, trainer.datamodule) if each is not None]
        self._transfers = type(trainer.precision_plugin) not in (Precision, MixedPrecision) or any(
            getattr(type(owner), name).__module__ != "lightning.pytorch.core.hooks"
            for owner in owners
            for name in _TRANSFER
        )
        self._clips = trainer.gradient_clip_val is not None or (
            type(module).configure_gradient_clipping is not LightningModule.configure_gradient_clipping
        )
        self._first = True
        if self._steps != 1:
            loader = trainer.train_dataloader
            if hasattr(loader, "reuse"):
                loader.reuse = True  # a batch is not used after the next one is there

    def run(self, batch: Any) -> Any:
        """Take the steps on all minibatches but the last, which is returned.

        Args:
            batch: The first minibatch of the execution.
        """
        count = self._num_minibatches()
        if count == 1:
            return batch
        # A training step is in the context of autocast, and only the loss belongs there.
        device = self.trainer.strategy.root_device.type
        with torch.autocast(device, enabled=False) if self._mixed else nullcontext():
            return self._run(batch, count)

    def forward_context(self) -> AbstractContextManager[Any]:
        """Return the context in which the loss is computed."""
        return self.trainer.precision_plugin.forward_context() if self._mixed else nullcontext()

    def scaled(self, loss: Tensor) -> Tensor:
        """Return a loss as it is backpropagated: the part of this process, scaled in half precision."""
        loss = self.part(loss)
        return loss if self._scaler is None else self._scaler.scale(loss)

    def part(self, value: Tensor) -> Tensor:
        """Return a value of which N processes, which share the rows, sum their parts."""
        return value / num_processes() if self.shared else value

    def _step(self, optimizer: Optimizer) -> None:
        """Take a step, or skip it if scaled gradients are not finite."""
        scaler, trainer = self._scaler, self.trainer
        if scaler is not None and not getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)
        if self._clips:
            clipping = (trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
            self.module.configure_gradient_clipping(optimizer, *clipping)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()

    def _run(self, batch: Any, count: int | None) -> Any:
        trainer, module, loop = self.trainer, self.module, self._loop
        optimizer = trainer.optimizers[0]
        fetcher = trainer.fit_loop._data_fetcher
        step = loop.automatic_optimization.optim_progress.optimizer.step
        zero_grad = loop.automatic_optimization.optim_progress.optimizer.zero_grad
        progress = loop.batch_progress
        while count is None or count > 1:
            if progress.is_last_batch:
                break
            loss = module.backpropagate(batch, optimizer)
            if self.shared:
                (loss,) = trainer.strategy.sum_gradients(self.part(loss))
            self._step(optimizer)
            for counts in (step.total, step.current, zero_grad.total, zero_grad.current):
                counts.ready += 1
                counts.completed += 1
            zero_grad.total.started += 1
            zero_grad.current.started += 1
            for counts in (progress.total, progress.current):
                counts.processed += 1
            if trainer.lr_scheduler_configs:
                loop.update_lr_schedulers("step", update_plateau_schedulers=False)
            for observe in self._observers:
                observe(trainer, module, loss)
            for counts in (progress.total, progress.current):
                counts.completed += 1
            if trainer.lr_scheduler_configs:
                loop.update_lr_schedulers("step", update_plateau_schedulers=True)
            loop._batches_that_stepped += 1
            batch = self._on_device(next(fetcher)[0])
            progress.is_last_batch = fetcher.done
            for counts in (progress.total, progress.current):
                counts.ready += 1
                counts.started += 1
            count = None if count is None else count - 1
        return batch

    def _num_minibatches(self) -> int | None:
        """Return the number of minibatches of the next execution; None if it ends with the epoch's last."""
        trainer, loop = self.trainer, self._loop
        if self._steps == 1 or self._first or trainer.accumulate_grad_batches != 1:
            self._first = False
            return 1
        if any(key.startswith("training_step.") for key in loop._results):
            if self._steps is not None:
                raise InputError(_refusal(self._steps, "a loss that logs"))
            self._steps = 1
            return 1
        limits = [] if self._steps is None else [self._steps]
        if trainer.max_steps != -1:
            limits.append(trainer.max_steps - trainer.global_step)
        # The place of the minibatch, from 0, which was counted as ready already.
        place = loop.batch_idx
        if trainer.num_training_batches != float("inf"):
            limits.append(int(trainer.num_training_batches) - place)
        interval = trainer.val_check_batch
        if loop._should_check_val_epoch() and interval not in (None, float("inf")):
            since = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else place
            limits.append(int(interval) - since % int(interval))
        return max(min(limits), 1) if limits else None

    def _on_device(self, batch: Any) -> Any:
        """Return a batch as the Trainer hands it to ``training_step``."""
        trainer, module = self.trainer, self.module
        device = trainer.strategy.root_device
        if not self._transfers and all(isinstance(x, Tensor) and x.device == device for x in batch):
            return batch
        batch = trainer.precision_plugin.convert_input(batch)
        batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
        return trainer.strategy.batch_to_device(batch, dataloader_idx=0)
