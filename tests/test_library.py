"""The public names of the package: complete, importable, loaded on first use; the examples in docstrings."""

import doctest
import inspect
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import pytest
import torch

import d2l_lightning
from tests.conftest import ROOT

# The classes of CLASSES and the functions of FUNCTIONS are public if no underscore begins their names.
CLASSES = ("callbacks", "data", "distributed", "ensemble", "errors", "models", "optim", "shift.covariate")
FUNCTIONS = ("data.hub", "ensemble", "models.notebooks", "shift.covariate")
# The number of examples in each module.
EXAMPLES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text(encoding="utf-8").count(">>> ")
    for path in sorted((ROOT / "d2l_lightning").rglob("*.py"))
}
FRAMEWORKS = {"torch", "lightning", "torchmetrics"}


def modules(name: str) -> Iterator[ModuleType]:
    """Yield a module of the package and all modules in it."""
    module = import_module(f"d2l_lightning.{name}")
    yield module
    for info in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{module.__name__}."):
        yield import_module(info.name)


def is_for_users(cls: type) -> bool:
    """Return whether a class is an error or derives from a class of PyTorch or Lightning."""
    bases = {base.__module__.split(".")[0] for base in cls.__mro__}
    return issubclass(cls, Exception) or not FRAMEWORKS.isdisjoint(bases)


def public_names() -> set[str]:
    names = set()
    for name in {*CLASSES, *FUNCTIONS}:
        for module in modules(name):
            for member, value in vars(module).items():
                if member.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                    continue
                if name in CLASSES and inspect.isclass(value) and is_for_users(value):
                    names.add(member)
                if name in FUNCTIONS and inspect.isfunction(value):
                    names.add(member)
    return names


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    return done.stdout.strip()


def test_all_public_classes_and_functions_are_exported() -> None:
    assert public_names() <= set(d2l_lightning.__all__)
    assert {"KaggleHouse", "InputError", "k_fold", "SGD", "estimate"} <= public_names()


def test_every_exported_name_can_be_imported_and_is_defined_where_the_stub_says() -> None:
    for name in d2l_lightning.__all__:
        value = getattr(d2l_lightning, name)
        assert value is getattr(import_module(d2l_lightning._modules[name]), name)
        if callable(value):
            assert value.__name__ == name
            assert value.__module__ == d2l_lightning._modules[name]
    assert set(d2l_lightning.__all__) <= set(dir(d2l_lightning))


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'd2l_lightning' has no attribute 'Perceptronn'"):
        d2l_lightning.Perceptronn  # noqa: B018


def test_importing_the_package_loads_no_library() -> None:
    code = "import sys; before = set(sys.modules); import d2l_lightning; print(*set(sys.modules) - before)"
    loaded = {name.split(".")[0] for name in run_python(code).split()}
    assert "d2l_lightning" in loaded
    assert loaded <= {"d2l_lightning", *sys.stdlib_module_names}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("module://no_such_package.backend_inline", "None"),
        ("module://tests.backend", "module://tests.backend"),
        ("svg", "svg"),
    ],
)
def test_a_plotting_backend_that_is_not_installed_is_dropped(given: str, expected: str) -> None:
    code = "import d2l_lightning, os; print(os.environ.get('MPLBACKEND'))"
    assert run_python(code, MPLBACKEND=given) == expected


@pytest.mark.parametrize("name", [name for name, number in EXAMPLES.items() if number])
def test_examples_in_docstrings_are_right(name: str) -> None:
    outcome = doctest.testmod(import_module(name), extraglobs={"torch": torch})
    assert outcome.attempted == EXAMPLES[name]
    assert outcome.failed == 0
