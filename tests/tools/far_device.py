"""A device that does not exist: it computes on the CPU and counts how often a program waits for it."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest import mock

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.fx.experimental import proxy_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

aten = torch.ops.aten
# PyTorch knows this type, needs no initialization of it, and computes its gradients in the CPU's thread.
DEVICE = torch.device("lazy", 0)
# Operations whose result the host needs, or whose result has a shape that depends on values.
_READING = {
    *(aten._local_scalar_dense, aten.equal, aten.nonzero, aten.nonzero_static, aten.masked_select),
    *(aten.is_nonzero, aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount),
}


class FarTensor(Tensor):
    """A tensor on the device; ``values`` has the same values on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls: Any, values: Tensor) -> "FarTensor":
        """Return a tensor with the shape and strides of these values."""
        layout = {
            "strides": values.stride(),
            "storage_offset": values.storage_offset(),
            "dtype": values.dtype,
        }
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, **layout, device=DEVICE)  # type: ignore

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def untyped_storage(self) -> torch.UntypedStorage:
        """Return the memory of the values."""
        return self.values.untyped_storage()

    def tolist(self) -> Any:
        """Return the values after one copy, as a tensor on CUDA does."""
        return self.cpu().tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"FarTensor({self.values!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on the far device outside of its mode")


class FarDevice(TorchDispatchMode):
    """Carries out the operations on the device, and notes which of them make the host wait.

    As with CUDA, tensors of the device and tensors of the CPU with dimensions do not go together.

    Attributes:
        waits: Each wait: the operation, and the line of the package that calls it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._undo = ExitStack()

    def __enter__(self) -> "FarDevice":
        """Enter the mode. ``torch.tensor(..., device=...)`` then makes a tensor on the CPU and copies it."""
        lifted, autocast = torch._C._only_lift_cpu_tensors(), torch.is_autocast_enabled
        self._undo.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        torch._C._set_only_lift_cpu_tensors(True)
        # What PyTorch does not know of this device: fused optimizers work there, and autocast does not.
        on = partial(_is_autocast_enabled, autocast)
        self._undo.enter_context(mock.patch.object(torch, "is_autocast_enabled", on))
        fused = "torch.optim.optimizer._get_fused_kernels_supported_devices"
        self._undo.enter_context(mock.patch(fused, return_value=[DEVICE.type, "cpu"]))
        types = (*proxy_tensor.HANDLED_TYPES, FarTensor)
        self._undo.enter_context(mock.patch.object(proxy_tensor, "HANDLED_TYPES", types))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave the mode."""
        super().__exit__(*error)
        self._undo.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry out an operation."""
        kwargs = dict(kwargs or {})
        if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None:
            return self._trace(func, types, args, kwargs)
        tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        far = [x for x in tensors if isinstance(x, FarTensor)]
        target = kwargs.get("device")
        on_device = bool(far) if target is None else torch.device(target).type == DEVICE.type
        if self._waits(func, args, tensors, far, on_device):
            self._note(func)
        elif far and any(x.ndim and not isinstance(x, FarTensor) for x in tensors) and not _copies(func):
            raise RuntimeError(f"{func} gets tensors of the far device and of the CPU")
        if target is not None and on_device:
            kwargs["device"] = torch.device("cpu")
        known: dict[int, Tensor] = {id(x.values): x for x in far}  # changed in place
        result = func(*tree_map(_near, args), **tree_map(_near, kwargs))
        if func is aten.copy_.default:
            return args[0]
        if not on_device:
            return result
        return tree_map(lambda x: known.get(id(x), FarTensor(x)) if isinstance(x, Tensor) else x, result)

    def _trace(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Let ``make_fx``, whose mode is below this one, note the operation before it is carried out."""
        with proxy_tensor.disable_proxy_modes_tracing() as proxies:
            super().__enter__()
            try:
                return proxies.__torch_dispatch__(func, types, args, kwargs)
            finally:
                super().__exit__(None, None, None)

    def _waits(
        self, func: Any, args: Any, tensors: Sequence[Tensor], far: Sequence[Tensor], on_device: bool
    ) -> bool:
        packet = func.overloadpacket
        if packet in (aten._to_copy, aten.copy_):
            return bool(far) != on_device or (packet is aten.copy_ and 0 < len(far) < len(tensors))
        if packet in (aten.index, aten.index_put, aten.index_put_) and far:
            indices = [index for index in args[1] if index is not None]
            return any(index.dtype == torch.bool or not isinstance(index, FarTensor) for index in indices)
        return bool(far) and packet in _READING

    def _note(self, func: Any) -> None:
        lines = [
            f"{frame.filename.rpartition('d2l_lightning/')[2]}:{frame.lineno} {frame.line}"
            for frame in traceback.extract_stack()
            if "d2l_lightning/" in frame.filename and "/tests/" not in frame.filename
        ]
        self.waits.append(f"{func} at {lines[-1] if lines else 'another package'}")


def _is_autocast_enabled(of_torch: Callable[..., bool], device: str | None = None) -> bool:
    return device != DEVICE.type and (of_torch() if device is None else of_torch(device))


def _near(value: Any) -> Any:
    return value.values if isinstance(value, FarTensor) else value


def _copies(func: Any) -> bool:
    return func.overloadpacket in (aten._to_copy, aten.copy_)


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        pass


def far_trainer_flags() -> Mapping[str, Any]:
    """Return the flags of a Trainer that trains on the device."""
    return {"accelerator": "auto", "strategy": SingleDeviceStrategy(DEVICE, accelerator=_Accelerator())}
