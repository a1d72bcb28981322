"""Lightning is imported without the packages that it hardly uses, and they work as ever afterwards."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Optional, Union

import pytest
import torch

from d2l_lightning.runs import lean_import
from d2l_lightning.runs.lean_import import (
    CUDA_CHECK,
    StandIn,
    _Finder,
    disable,
    import_lightning_lean,
    stand_ins,
)
from tests.conftest import ROOT

EXPENSIVE = {
    *("matplotlib", "tensorboard", "wandb", "torchvision", "scipy", "sklearn", "pandas", "IPython", "pooch"),
    *(
        "torch._dynamo",
        "torch.utils.flop_counter",
        "torch.utils.tensorboard",
        "torchmetrics",
        "sympy",
        "triton",
    ),
    "torchmetrics.functional",
}

# Runs the command lines of all experiments in one process, then uses what was not imported for them.
ALL_EXPERIMENTS = """
import contextlib, gc, importlib, io, json, sys
from pathlib import Path
import d2l_lightning
seen = {"with the package": sorted(sys.modules)}
assert not gc.isenabled()
from d2l_lightning.runs.cli import run_experiment  # this text makes the script one of an experiment
seen["collects"], seen["frozen"] = gc.isenabled(), gc.get_freeze_count()
root, wrong = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, str(root / "experiments"))
seen["answers"] = {}
mistakes = (["--unknown", "1"], ["--seed", "many"], ["--config", wrong])
for place, script in enumerate(sorted((root / "experiments").glob("*.py"))):
    main = importlib.import_module(script.stem).main
    job = ["kaggle_house"] if script.stem == "benchmark" else []
    for flags in (["--help"], mistakes[place % 3]):
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            try:
                run_experiment(main, job + flags)
            except SystemExit as end:
                lines = text.getvalue().splitlines()
                seen["answers"][f"{script.stem} {flags[0]}"] = (end.code, len(lines), lines[-1])
seen["with the answers"] = sorted(sys.modules)

for name in d2l_lightning.__all__:
    getattr(d2l_lightning, name)
import torch, torchmetrics
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import compile
from lightning.pytorch.utilities.model_summary import ModelSummary
from scipy.signal import hamming  # torchmetrics adds it to scipy
from torchvision.datasets import FashionMNIST
from d2l_lightning.models.epoch_mean import ExampleMean
from torchmetrics.classification import MulticlassAccuracy
compiled = torch.compile(torch.nn.Linear(3, 1), backend="eager")
mean, average = ExampleMean(), torchmetrics.MeanMetric()
average.update(1.0)
model = LightningModule()
model.layer, model.forward = torch.nn.Linear(784, 256), lambda X: model.layer(X)
model.example_input_array = torch.zeros(1, 784)
mean.update(torch.ones(2), torch.ones(2))
seen["works"] = [
    isinstance(compiled, compile.OptimizedModule) and not isinstance(mean, compile.OptimizedModule),
    isinstance(mean, torchmetrics.Metric) and isinstance(MulticlassAccuracy(2), torchmetrics.metric.Metric),
    type(average.plot()[0]).__name__ == "Figure",
    ModelSummary(model).total_flops == 2 * 784 * 256,
]
seen["names"] = sorted(set(dir(torchmetrics)))
print(json.dumps(seen))
"""

# Imports Lightning where torchmetrics cannot be imported in part; then all of it is imported.
ANOTHER_VERSION = """
import gc, json, sys
import d2l_lightning
from d2l_lightning.runs import lean_import
real = lean_import.import_module
def missing(name):
    if name == "torchmetrics.metric":
        raise ImportError(name)
    return real(name)
lean_import.import_module = missing
import lightning.pytorch
from d2l_lightning.models.epoch_mean import ExampleMean
import torchmetrics
from lightning.pytorch.trainer.connectors.logger_connector.result import Metric
assert isinstance(ExampleMean(), torchmetrics.Metric)
assert Metric is torchmetrics.Metric is torchmetrics.metric.Metric
print(json.dumps([gc.get_freeze_count(), sorted(set(dir(torchmetrics))), sorted(sys.modules)]))
"""


def run(*command: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "error", *command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def loaded(modules: list[str]) -> set[str]:
    return EXPENSIVE & set(modules)


def test_flags_are_answered_without_expensive_imports_which_work_afterwards(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("seed: many\n")
    (tmp_path / "script.py").write_text(ALL_EXPERIMENTS)
    seen = run(str(tmp_path / "script.py"), str(ROOT), str(tmp_path / "wrong.yaml"))
    assert not {"torch", "lightning", "numpy"} & set(seen["with the package"])
    assert loaded(seen["with the answers"]) == set()
    experiments = [path.stem for path in (ROOT / "experiments").glob("*.py")]
    assert len(seen["answers"]) == 2 * len(experiments) > 20
    for asked, (status, lines, last) in seen["answers"].items():
        if asked.endswith("--help"):
            assert status in (0, None)
            assert lines > 20
        else:
            assert (status, lines) == (2, 1), asked
            assert ("unknown" if asked.endswith("unknown") else "seed") in last
    assert seen["collects"]
    assert seen["frozen"] > 100_000
    assert seen["works"] == [True] * 4
    frozen, names, modules = run("-c", ANOTHER_VERSION)
    assert frozen == 0  # not the script of an experiment
    assert {"torchvision", "matplotlib", "torch._dynamo"} <= set(modules)
    assert seen["names"] == names


def test_lightning_that_was_imported_before_is_left_alone() -> None:
    finders = list(sys.meta_path)
    import_lightning_lean()
    assert sys.meta_path == finders


@pytest.fixture(name="module")
def module_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "expensive").mkdir()
    (tmp_path / "expensive/part.py").write_text("import sys\nsys.modules['expensive'].runs += 1")
    (tmp_path / "expensive/other.py").write_text("import sys\nsys.modules['expensive'].runs += 10")
    (tmp_path / "expensive/__init__.py").write_text(
        "runs = 0\nfrom expensive import part\n"
        "class Thing:\n    size = 3\n    def __init__(self, size=1):\n        self.size = size\n"
        "def disable(function, recursive=True, reason=None):\n"
        "    return lambda *values: ('disabled', recursive, reason, function(*values))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "expensive"
    for name in [name for name in sys.modules if name.startswith("expensive")]:
        del sys.modules[name]


def test_a_stand_in_does_what_the_class_does(module: str) -> None:
    thing: Any = StandIn(module, "Thing")
    assert not isinstance(3, thing)
    assert not isinstance(3, (str, thing))
    assert not issubclass(int, thing)
    assert Optional[thing] == Union[None, thing] == (thing | None) == (None | thing)  # noqa: UP007, UP045
    assert not hasattr(thing, "__wrapped__")
    assert module not in sys.modules
    assert thing.size == 3
    assert thing(5).size == 5
    assert isinstance(thing(), thing)
    assert not isinstance(3, thing)

    class Special(thing):  # type: ignore[misc]
        pass

    assert Special.__bases__ == (type(thing()),)
    assert issubclass(Special, thing)
    assert not issubclass(int, thing)


def test_stand_ins_are_in_sight_only_within_the_context(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_import, "STAND_INS", {module: {"Thing": "a stand-in"}, "json": {"loads": None}})
    with stand_ins():
        import expensive  # type: ignore[import-not-found]

        assert expensive.Thing == "a stand-in"
        assert json.loads("1") == 1  # a module that is imported already
    assert module not in sys.modules
    with stand_ins():
        import expensive

        assert expensive.disable.__name__ == "disable"  # a name without a stand-in: of the real module
        assert sys.modules[module].Thing.size == 3
        assert not hasattr(expensive, "nothing")
    assert type(sys.modules[module]) is ModuleType


@pytest.mark.parametrize("part", ["part", "other"])
def test_a_module_of_a_package_with_a_stand_in_is_imported_once_after_the_package(
    module: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lean_import, "STAND_INS", {module: {"Thing": "a stand-in"}})
    monkeypatch.setattr(sys, "meta_path", [_Finder(), *sys.meta_path])
    with stand_ins():
        imported = importlib.import_module(f"{module}.{part}")
    package = sys.modules[module]
    assert (package.Thing.size, getattr(package, part)) == (3, imported)
    assert package.runs == (1 if part == "part" else 11)
    assert imported.__spec__ is not None
    assert imported.__spec__.loader is imported.__loader__


def test_a_function_is_disabled_once_something_could_compile_it(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lean_import, "DYNAMO", module)

    def double(x: int) -> int:
        """Double it."""
        return 2 * x

    wrapped, decorated = disable(double, False, reason="why"), disable(recursive=False)(double)
    assert wrapped.__doc__ == "Double it."
    assert (wrapped(2), decorated(3)) == (4, 6)
    assert module not in sys.modules
    __import__(module)
    assert wrapped(2) == wrapped(2) == ("disabled", False, "why", 4)
    assert decorated(3) == ("disabled", False, None, 6)


def test_steps_do_not_ask_for_a_gpu_where_there_is_none() -> None:
    """The tests import Lightning after the package, as scripts do."""
    assert torch.cuda.is_available() or CUDA_CHECK not in os.environ
