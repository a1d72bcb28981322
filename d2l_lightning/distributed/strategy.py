"""The strategy with which N processes train a model as one does."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.utilities.distributed import _init_dist_connection
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.overrides.distributed import _sync_module_states
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.nn.parameter import is_lazy

from d2l_lightning.distributed.group import broadcast, num_processes, process, sum_over_processes
from d2l_lightning.errors import InputError


class DataParallelStrategy(DDPStrategy):
    """Trains one model in N processes, with the results of one process.

    Each process gets the whole batch, and a ``SupervisedModule`` computes its share of the rows. The
    gradients are averaged over the processes before each step of the optimizer. The random numbers of a step
    are those of one process, so the processes must have the same seed, and generators in the same state.

    Another ``LightningModule`` computes whole batches in every process: the results are right, but training
    is no faster.

    Pass it to a ``Trainer`` with ``use_distributed_sampler=False``. If there is a process group already, the
    strategy joins it and starts no processes.

    Args:
        cluster_environment: How the processes were started; Lightning finds it out if not given.
        process_group_backend: ``gloo`` or ``nccl``; the one that suits the device if not given.
        timeout: The longest time that a process waits for the others.
    """

    def __init__(
        self,
        cluster_environment: ClusterEnvironment | None = None,
        process_group_backend: str | None = None,
        timeout: timedelta | None = timedelta(minutes=30),
    ) -> None:
        super().__init__(
            cluster_environment=cluster_environment,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )
        self._parameters: list[Tensor] = []
        self._accumulates = False
        self._present: dict[tuple[bool, ...], Tensor] = {}

    @property
    def global_rank(self) -> int:
        """The number of this process."""
        return process() if num_processes() > 1 else super().global_rank

    @property
    def world_size(self) -> int:
        """The number of processes."""
        return num_processes() if num_processes() > 1 else super().world_size

    def _configure_launcher(self) -> None:
        if num_processes() == 1:
            super()._configure_launcher()

    def set_world_ranks(self) -> None:
        """Set the number of this process where Lightning looks for it."""
        if num_processes() == 1:
            super().set_world_ranks()
            return
        if self.cluster_environment is not None:
            self.cluster_environment.set_global_rank(process())
            self.cluster_environment.set_world_size(num_processes())
        rank_zero_only.rank = process()  # type: ignore[attr-defined]

    def setup_distributed(self) -> None:
        """Join the process group."""
        # Lightning resets the seed here: the random numbers would not be those of one process.
        self.set_world_ranks()
        self._process_group_backend = self._get_process_group_backend()
        assert self.cluster_environment is not None
        device = self.root_device if self.root_device.type != "cpu" else None
        _init_dist_connection(
            self.cluster_environment, self._process_group_backend, timeout=self._timeout, device_id=device
        )

    def configure_ddp(self) -> None:
        """Give all processes the parameters and buffers of process 0.

        Raises:
            InputError: If a parameter has no shape yet.
        """
        # What a module logs is the same in all processes.
        warnings.filterwarnings("ignore", r".*self\.log\(.*sync_dist=True")
        assert self.lightning_module is not None
        for name, parameter in self.lightning_module.named_parameters():
            if is_lazy(parameter):
                raise InputError(f"{name} has no shape yet; call the model on a batch before the fit")
        if num_processes() > 1:
            _sync_module_states(self.lightning_module)
        self._parameters = list(self.lightning_module.parameters())

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the gradients of a loss, and average them over the processes before a step."""
        module, precision = self.lightning_module, self.precision_plugin
        assert module is not None
        closure_loss = precision.pre_backward(closure_loss, module)
        # The loss is divided first: half precision would not hold N times the gradients of one process.
        once = module.automatic_optimization  # between two steps; a sum of sums would be wrong
        own = closure_loss / num_processes() if once else closure_loss
        precision.backward(own, module, optimizer, *args, **kwargs)
        if not self._accumulates:
            self.sum_gradients(mean=not once)
        return precision.post_backward(closure_loss, module)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Return a context in which gradients are accumulated and not averaged."""
        self._accumulates = True
        try:
            yield
        finally:
            self._accumulates = False

    @torch.no_grad()
    def sum_gradients(self, *values: Tensor, mean: bool = False) -> list[Tensor]:
        """Replace all gradients by their sums over the processes, or means; return those of other values."""
        if num_processes() == 1:
            return list(values)
        trained = [parameter for parameter in self._parameters if parameter.requires_grad]
        # A parameter may have a gradient in some processes only; the shapes are the same in all.
        present = self._present_of(tuple([parameter.grad is not None for parameter in trained]))
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        sums = sum_over_processes([present, *values, *gradients], mean)
        missing = [i for i, parameter in enumerate(trained) if parameter.grad is None]
        elsewhere = sums[0].tolist() if missing else []
        for i, (parameter, total) in enumerate(zip(trained, sums[len(values) + 1 :], strict=True)):
            if i not in missing or elsewhere[i]:
                parameter.grad = total
        return sums[1 : len(values) + 1]

    def _present_of(self, present: tuple[bool, ...]) -> Tensor:
        if present not in self._present:
            dtype = self._parameters[0].dtype if self._parameters else None
            self._present[present] = torch.tensor(present, dtype=dtype, device=self.root_device)
        return self._present[present]

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Return the checkpoint that process 0 reads: others may not see the file."""
        if num_processes() == 1:
            return super().load_checkpoint(checkpoint_path, weights_only)
        checkpoint: dict[str, Any] | Exception | None = None
        if self.is_global_zero:
            try:
                checkpoint = super().load_checkpoint(checkpoint_path, weights_only)
            except Exception as error:  # the others wait for an answer
                checkpoint = error
        checkpoint = broadcast(checkpoint)
        if isinstance(checkpoint, Exception):
            raise checkpoint
        assert checkpoint is not None
        return checkpoint


def shares_rows(trainer: Any) -> bool:
    """Return whether the processes of a Trainer share the rows of each batch."""
    if trainer is None or num_processes() == 1:
        return False
    return isinstance(trainer.strategy, DataParallelStrategy)
