"""Imports Lightning without the packages that it imports but hardly uses.

Lightning and torchmetrics import torchvision, scipy, matplotlib, triton and ``torch._dynamo`` for a few names
each, which takes 2.5 seconds. While Lightning is imported here, stand-ins take the place of these names. A
stand-in imports what it stands for when it is used. Afterwards every import does what it always does.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any, ClassVar, Union

from d2l_lightning.runs.importing import collect_garbage

DYNAMO, FLOPS, METRICS = "torch._dynamo", "torch.utils.flop_counter", "torchmetrics"
CUDA_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"
PLOT = f"{METRICS}.utilities.plot"


class StandIn:
    """A name of a module that is imported when the name is called, subclassed, or asked for an attribute.

    Args:
        module: The module. If the name is a class, there is no instance of it before the module is imported.
        name: The name.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def _get(self) -> Any:
        return getattr(import_module(self._module), self._name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # typing and inspect look for such names in any object
            raise AttributeError(name)
        return getattr(self._get(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call what it stands for."""
        return self._get()(*args, **kwargs)

    def __instancecheck__(self, instance: Any) -> bool:
        return self._module in sys.modules and isinstance(instance, self._get())

    def __subclasscheck__(self, subclass: type) -> bool:
        return self._module in sys.modules and issubclass(subclass, self._get())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (self._get(),)

    def __or__(self, other: Any) -> Any:  # in annotations
        return Union[self, other]  # noqa: UP007

    def __ror__(self, other: Any) -> Any:
        return Union[other, self]  # noqa: UP007


def disable(function: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> Any:
    """Return a function that ``torch._dynamo`` does not compile; it is not imported for that."""
    if function is None:
        return lambda function: disable(function, *args, **kwargs)
    disabled: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*values: Any, **options: Any) -> Any:
        if DYNAMO not in sys.modules:  # then nothing is compiled
            return function(*values, **options)
        if not disabled:
            disabled.append(import_module(DYNAMO).disable(function, *args, **kwargs))
        return disabled[0](*values, **options)

    return call


# The names that Lightning, and what it needs of torchmetrics, take from modules that are expensive to import.
STAND_INS: dict[str, dict[str, Any]] = {
    DYNAMO: {"OptimizedModule": StandIn(DYNAMO, "OptimizedModule"), "disable": disable},
    FLOPS: {"FlopCounterMode": StandIn(FLOPS, "FlopCounterMode")},
    PLOT: {
        "_AX_TYPE": StandIn("matplotlib.axes", "Axes"),
        "_PLOT_OUT_TYPE": Any,  # only annotations use it
        "plot_single_or_multi_val": StandIn(PLOT, "plot_single_or_multi_val"),
    },
}


class _Module(ModuleType):
    """A module with a few names of the real one, which is imported when another name is used."""

    def __init__(self, name: str, **names: Any) -> None:
        super().__init__(name)
        self.__spec__, self.__path__ = ModuleSpec(name, None), []
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system looks for such names
            raise AttributeError(name)
        return getattr(self._real(), name)

    def _real(self) -> ModuleType:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return import_module(self.__name__)


@contextmanager
def stand_ins() -> Iterator[None]:
    """Let what is imported in this context get stand-ins, except of modules that are imported already."""
    modules = {name: _Module(name, **names) for name, names in STAND_INS.items() if name not in sys.modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        _remove(modules)


@contextmanager
def torchmetrics_in_part() -> Iterator[None]:
    """Let torchmetrics have only what Lightning needs in this context: its package imports all metrics."""
    spec = PathFinder.find_spec(METRICS)
    if METRICS in sys.modules or spec is None or spec.submodule_search_locations is None:
        yield
        return
    package = ModuleType(METRICS)
    package.__spec__, package.__path__ = spec, spec.submodule_search_locations
    vars(package)["_logger"] = logging.getLogger(METRICS)
    sys.modules[METRICS] = package
    try:
        # These modules import each other; in this order they can be imported without the package.
        parts = {part: import_module(f"{METRICS}.{part}") for part in ("utilities", "metric", "collections")}
        vars(package).update(
            __version__=import_module(f"{METRICS}.__about__").__version__,
            Metric=parts["metric"].Metric,
            MetricCollection=parts["collections"].MetricCollection,
        )
        package.__class__ = _Module
    except (ImportError, AttributeError):  # another version; Lightning imports all of it
        for name in [name for name in sys.modules if f"{name}.".startswith(f"{METRICS}.") and name != PLOT]:
            del sys.modules[name]
    try:
        yield
    finally:
        _remove({METRICS: package})


def _remove(modules: Mapping[str, ModuleType]) -> None:
    for name, module in modules.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]


class _Lightning(SourceFileLoader):
    """The loader of Lightning."""

    def exec_module(self, module: ModuleType) -> None:
        given = CUDA_CHECK in os.environ
        with stand_ins(), torchmetrics_in_part():
            super().exec_module(module)
        if not given and not import_module("torch").cuda.is_available():
            # Lightning sets it for processes that fork. With it, each step of Adam asks the driver for a GPU.
            os.environ.pop(CUDA_CHECK, None)
        collect_garbage()  # the imports that are left are small


class _Torchmetrics(SourceFileLoader):
    """The loader of the package torchmetrics, parts of which may be imported already."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        for name, part in list(sys.modules.items()):
            if name.rpartition(".")[0] == spec.name:
                setattr(module, name.rpartition(".")[2], part)
        return module


class _Imported(Loader):
    """A loader for once, of a module that is imported already."""

    def __init__(self, module: ModuleType, loader: Loader | None) -> None:
        self.module, self.loader = module, loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self.spec = spec
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        self.spec.loader = self.loader


class _Finder(MetaPathFinder):
    """Finds the packages that have a loader here, and the modules of packages that a stand-in replaces."""

    loaders: ClassVar[dict[str, type[SourceFileLoader]]] = {"lightning": _Lightning, METRICS: _Torchmetrics}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module."""
        parent = sys.modules.get(fullname.rpartition(".")[0])
        if isinstance(parent, _Module):
            path = parent._real().__path__
            imported = sys.modules.get(fullname)
            if imported is None or imported.__spec__ is None:
                return PathFinder.find_spec(fullname, path)
            imported.__spec__.loader = _Imported(imported, imported.__spec__.loader)
            return imported.__spec__
        if fullname not in self.loaders:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = self.loaders[fullname](fullname, spec.loader.path)
        return spec


def import_lightning_lean() -> None:
    """Let the first import of Lightning import only what it needs; do nothing if Lightning is imported."""
    if "lightning" not in sys.modules:
        sys.meta_path.insert(0, _Finder())
