"""Who may import whom, what is at the package's top, and who may print."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import d2l_lightning
from tests.conftest import ROOT

PACKAGE = ROOT / "d2l_lightning"
PRINTING = {
    *("d2l_lightning.runs.report", "d2l_lightning.runs.cli", "d2l_lightning.runs.streams"),
    "d2l_lightning.benchmarks.plain_kaggle_house",  # a script of its own
}

# What modules of each package may import of d2l_lightning, beside errors and their own package: packages,
# with all in them, and modules. A package that is missing here may import all but benchmarks.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "functional": set(),
    "optim": {"functional"},
    "distributed": set(),
    "models": {"functional", "optim", "distributed"},
    "data": {"functional"},
    "ensemble": {"functional", "optim", "distributed", "models.base", "models.sharing", "data.batches"},
    "plots": set(),
    "callbacks": {"plots", "distributed", "models.base", "runs.folder"},
    "runs": {
        "functional",
        "distributed",
        "callbacks",
        "plots",
        "ensemble",
        "models.base",
        "models.classifier",
        "models.execution",
    },
    "search": {
        *("functional", "optim", "ensemble", "callbacks", "plots", "runs"),
        *("models.base", "data.batches"),
    },
}


def sources() -> dict[str, str]:
    """Return the text of all modules of the package and of all experiments, by the module's name."""
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "experiments").glob("*.py")]
    return {name_of(file): file.read_text(encoding="utf-8") for file in files}


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def imported(module: str, text: str) -> Iterator[str]:
    """Yield the full names of what a module imports anywhere: under TYPE_CHECKING and in functions too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            source = ".".join([*parents, *filter(None, [node.module])])
            for alias in node.names:
                # A public name counts as imported from its own module.
                public = d2l_lightning._modules.get(alias.name) if source == "d2l_lightning" else None
                yield f"{public or source}.{alias.name}"
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            yield from (str(word.value) for word in node.args if isinstance(word, ast.Constant))


def forbidden_imports(module: str, text: str) -> list[str]:
    """Return what a module imports against the rules; experiments may import everything."""
    if module.startswith("experiments."):
        return []
    package = module.split(".")[1]
    wrong = []
    for name in imported(module, text):
        top, _, inner = name.partition(".")
        if top == "d2l_lightning":
            allowed = ALLOWED.get(package)
            own = {"errors", package}
            if allowed is None:
                fine = package == "benchmarks" or not inner.startswith("benchmarks")
            else:
                fine = any(f"{inner}.".startswith(f"{prefix}.") for prefix in allowed | own)
        elif top == "experiments":
            fine = False
        elif package in ("functional", "errors"):
            fine = top == "torch" or top in sys.stdlib_module_names
        else:
            fine = not (package == "plots" and top == "lightning")
        if not fine:
            wrong.append(name)
    return wrong


def printing_calls(text: str) -> list[int]:
    """Return the lines that print, or write to stdout or stderr."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    streams = ("sys.stdout.write", "sys.stderr.write")
    return [node.lineno for node in calls if _called(node) == "print" or ast.unparse(node.func) in streams]


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func).split(".")[-1]


SOURCES = sources()


def test_modules_import_only_what_their_package_may() -> None:
    found = {module: forbidden_imports(module, text) for module, text in SOURCES.items()}
    assert {module: wrong for module, wrong in found.items() if wrong} == {}


def test_only_the_report_and_the_command_line_print() -> None:
    found = {module: printing_calls(text) for module, text in SOURCES.items()}
    assert {module: lines for module, lines in found.items() if lines and module not in PRINTING} == {}


def test_no_experiment_imports_matplotlib_before_the_package() -> None:
    # The package drops a backend that matplotlib refuses, and lets Lightning import only what it needs.
    for module, text in SOURCES.items():
        if module.startswith("experiments."):
            top = ast.Module([node for node in ast.parse(text).body if not isinstance(node, ast.If)], [])
            packages = {name.split(".")[0] for name in imported(module, ast.unparse(top))}
            assert not packages & {"matplotlib", "lightning", "torchmetrics"}, module


def test_every_experiment_imports_the_package_first() -> None:
    # Until then, Ctrl-C and a deleted working folder end with a traceback.
    for module, text in SOURCES.items():
        if module.startswith("experiments."):
            packages = [name.split(".")[0] for name in imported(module, text)]
            assert next(p for p in packages if p not in sys.stdlib_module_names) == "d2l_lightning", module


def test_only_these_files_are_at_the_packages_top() -> None:
    files = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    assert files == {"__init__.py", "__init__.pyi", "errors.py", "py.typed"}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(ALLOWED) - {"errors"} <= packages


def test_runs_name_no_experiment() -> None:
    experiments = {name.split(".")[1] for name in SOURCES if name.startswith("experiments.")}
    experiments -= {"predict", "benchmark"}  # also a stage and a flag of Lightning's
    for module, text in SOURCES.items():
        if module.startswith("d2l_lightning.runs."):
            texts = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
            assert not texts & (experiments | {f"{name}.py" for name in experiments}), module


@pytest.mark.parametrize(
    ("module", "text", "wrong"),
    [
        ("functional.bad", "import numpy as np", "numpy"),
        ("functional.bad", "from d2l_lightning.models.mlp import MLP", "d2l_lightning.models.mlp.MLP"),
        ("functional.bad", "def f():\n    import lightning.pytorch", "lightning.pytorch"),
        ("models.bad", "from d2l_lightning import data", "d2l_lightning.data"),
        ("models.bad", "from ..data import hub", "d2l_lightning.data.hub"),
        ("models.__init__", "from ..data import hub", "d2l_lightning.data.hub"),
        ("models.bad", "from d2l_lightning import download", "d2l_lightning.data.hub.download"),
        ("models.bad", "import d2l_lightning", "d2l_lightning"),
        ("optim.bad", "from d2l_lightning.models import base", "d2l_lightning.models.base"),
        ("data.bad", "if TYPE_CHECKING:\n    import d2l_lightning.models", "d2l_lightning.models"),
        ("data.bad", "importlib.import_module('d2l_lightning.models.mlp')", "d2l_lightning.models.mlp"),
        ("ensemble.bad", "from d2l_lightning.models import mlp", "d2l_lightning.models.mlp"),
        ("ensemble.bad", "import d2l_lightning.models.base_class", "d2l_lightning.models.base_class"),
        ("ensemble.bad", "from d2l_lightning.data.hub import download", "d2l_lightning.data.hub.download"),
        ("plots.bad", "from lightning.pytorch import Trainer", "lightning.pytorch.Trainer"),
        ("plots.bad", "import d2l_lightning.functional.linear", "d2l_lightning.functional.linear"),
        ("runs.bad", "from d2l_lightning.data import fashion_mnist", "d2l_lightning.data.fashion_mnist"),
        ("runs.bad", "from experiments import mlp", "experiments.mlp"),
        ("search.bad", "from d2l_lightning.models.mlp import MLP", "d2l_lightning.models.mlp.MLP"),
        ("search.bad", "from d2l_lightning.tabular import models", "d2l_lightning.tabular.models"),
        ("runs.bad", "from d2l_lightning.search import trials", "d2l_lightning.search.trials"),
        ("search.bad", "from d2l_lightning.data import kaggle_house", "d2l_lightning.data.kaggle_house"),
        ("shift.bad", "from d2l_lightning.benchmarks import base", "d2l_lightning.benchmarks.base"),
        ("data.bad", "from d2l_lightning.tabular import export", "d2l_lightning.tabular.export"),
        ("tabular.bad", "from d2l_lightning.benchmarks import base", "d2l_lightning.benchmarks.base"),
    ],
)  # fmt: skip
def test_an_import_against_the_rules_is_found(module: str, text: str, wrong: str) -> None:
    assert forbidden_imports(f"d2l_lightning.{module}", text) == [wrong]


def test_imports_within_the_rules_are_allowed() -> None:
    for module, text in (
        ("functional.good", "import math, torch\nfrom torch import nn\nfrom d2l_lightning.errors import A"),
        ("models.good", "import lightning\nfrom d2l_lightning.optim.sgd import SGD\nfrom . import base"),
        ("ensemble.good", "from d2l_lightning.models import base\nfrom d2l_lightning.data.batches import A"),
        ("benchmarks.good", "from d2l_lightning.benchmarks import base\nfrom d2l_lightning import MLP"),
    ):  # fmt: skip
        assert forbidden_imports(f"d2l_lightning.{module}", text) == []


@pytest.mark.parametrize(
    "text", ["def f():\n    print(1)", "\nsys.stderr.write('a')", "\nconsole.print('a')"]
)
def test_a_call_that_prints_is_found(text: str) -> None:
    assert printing_calls(text) == [2]
