"""What a module needs to train in several processes, which share the rows of each batch."""

import copy
import random
import zlib
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from d2l_lightning.distributed.draws import SharedDraws
from d2l_lightning.distributed.group import num_processes, sum_over_processes
from d2l_lightning.distributed.shares import Share
from d2l_lightning.distributed.strategy import DataParallelStrategy, shares_rows
from d2l_lightning.errors import InputError

if TYPE_CHECKING:
    from d2l_lightning.models.base import SupervisedModule
    from d2l_lightning.models.epoch_mean import ExampleMean


def require_sharing(trainer: Any) -> None:
    """Raise an InputError if several processes would not give the results of one."""
    if trainer.world_size == 1:
        return
    processes, strategy = f"{trainer.world_size} processes", type(trainer.strategy).__name__
    if not isinstance(trainer.strategy, DataParallelStrategy):
        what = f"{processes} do not give the results of one with {strategy}"
        raise InputError(f"{what}; pass strategy=DataParallelStrategy() to the Trainer")
    if trainer._accelerator_connector.use_distributed_sampler:
        what = f"Lightning would give each of {processes} batches of its own"
        raise InputError(f"{what}; pass use_distributed_sampler=False to the Trainer")


def require_separate_rows(module: nn.Module) -> None:
    """Raise an InputError if a layer that is trained computes statistics over the rows of its process."""
    for name, layer in module.named_modules():
        if not isinstance(layer, _NormBase) or isinstance(layer, nn.SyncBatchNorm) or not layer.training:
            continue
        if layer.track_running_stats or isinstance(layer, _BatchNorm):
            what = f"{name} ({type(layer).__name__}) would compute statistics over the rows of a process"
            raise InputError(f"{what}; take nn.SyncBatchNorm or nn.LayerNorm, or train in one process")


def share_of(module: "SupervisedModule", y: Tensor) -> Share | None:
    """Return the share of this process in a batch with these targets; None if it computes all rows."""
    return Share.of_process(y.shape[-1]) if shares_rows(module._trainer) else None


def drawing(share: Share | None, dim: int = 0) -> AbstractContextManager[Any]:
    """Return a context in which random numbers are drawn for all rows of a batch."""
    return nullcontext() if share is None else SharedDraws(share, dim)


@torch.no_grad()
def require_mean_over_rows(module: "SupervisedModule", batch: Any, share: Share) -> None:
    """Check the first batch of a fit: the loss must be the mean of what the processes compute.

    Raises:
        InputError: If it is not, the loss logs, or there are fewer rows than processes.
    """
    name, n = type(module).__name__, share.processes
    if share.total < n:
        raise InputError(f"a batch of {share.total} rows cannot be shared by {n} processes; raise batch_size")
    factor = share.factor(batch[2] if len(batch) > 2 else None, torch.float64)
    whole = _loss_of_copy(module, batch, None)
    own = _loss_of_copy(module, share.take(*batch), share)
    (mean,) = sum_over_processes([own.double() * factor], mean=True)
    if any(key.startswith("training_step.") for key in module.trainer.fit_loop.epoch_loop._results):
        raise InputError(f"the loss of {name} logs a value, which would be that of the rows of one process")
    exact = whole.dtype.itemsize > 2 and not torch.is_autocast_enabled(whole.device.type)
    finite, mean = whole.isfinite(), mean.to(whole.dtype)
    if not torch.allclose(whole[finite], mean[finite], rtol=1e-4 if exact else 0.03, atol=1e-6):
        values = f"{whole.sum():g} over a batch, and {mean.sum():g} over the shares of {n} processes"
        raise InputError(
            f"the loss of {name} is {values}; it must be a mean over rows that do not depend on each other"
        )


def _loss_of_copy(module: "SupervisedModule", batch: Any, share: Share | None) -> Tensor:
    """Return the loss of a batch without a change to the module or to random number generators."""
    states = random.getstate(), np.random.get_state(legacy=False)
    try:
        copied = copy.deepcopy(module)
    except Exception as error:  # of any type: attributes may be of any
        what = (
            f"{type(module).__name__} cannot be copied, so its loss cannot be checked for several processes"
        )
        raise InputError(f"{what}: {str(error).splitlines()[0]}") from error
    copied._trainer = module._trainer
    devices = {values.device for values in module.parameters() if values.is_cuda}
    try:
        with torch.random.fork_rng(devices), copied._drawing(share):
            return copied.training_loss(*batch)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def sum_metrics(metrics: Iterable["ExampleMean"]) -> None:
    """Replace the sums of metrics by those over the processes."""
    updated = [metric for metric in metrics if metric.update_called]
    sums = iter(sum_over_processes([each for metric in updated for each in (metric.total, metric.weight)]))
    for metric in updated:
        metric.total, metric.weight = next(sums), next(sums)


def mean_losses(losses: Tensor) -> Tensor:
    """Return the losses of an epoch's batches, given what this process computed.

    Raises:
        InputError: If the processes do not draw the same random numbers any more.
    """
    states = [torch.get_rng_state()]
    if losses.is_cuda:
        states.append(torch.cuda.get_rng_state(losses.device))
    state = zlib.crc32(b"".join(each.numpy().tobytes() for each in states)) % 2**20
    own = torch.tensor([state, state**2], dtype=torch.float64, device=losses.device)
    losses, mean = sum_over_processes([losses, own], mean=True)
    # All processes see a difference: the mean of different squares is above the square of the mean.
    if not torch.equal(mean, own):
        what = f"the random numbers of {num_processes()} processes differ"
        raise InputError(f"{what}; nothing may draw from PyTorch's generator in one of them only")
    return losses


def shown(loss: Tensor) -> Tensor:
    """Return the mean of a loss over the processes, with the gradients of this process's loss."""
    (mean,) = sum_over_processes([loss.detach()], mean=True)
    value: Tensor = _Shown.apply(loss, mean)
    return value


class _Shown(torch.autograd.Function):
    """Another value in place of a loss, with the loss's gradients."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, value: Tensor) -> Tensor:
        """Return the value."""
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return the gradient of the loss."""
        return gradients[0], None
