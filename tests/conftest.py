"""What several tests need: lean Trainers, tiny data, experiments as modules."""

import contextlib
import importlib.util
import io
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import d2l_lightning  # noqa: F401 - before torch and Lightning, because it sets how they are imported

# Workers that run tests side by side share the cores; threads that wait by spinning would take them away.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import pandas as pd
import torch
from lightning.fabric.utilities import registry
from lightning.pytorch import Trainer
from torch import Tensor

from d2l_lightning.data.fashion_mnist import SYSTEM_FOLDER
from d2l_lightning.runs import cli
from d2l_lightning.runs.cli import Experiment, run_experiment
from d2l_lightning.runs.run import Run

HOUSE_FIGURES = {"learning_curves", "final_fit", "predictions", "importance", "residuals", "calibration"}
ROOT = Path(__file__).parents[1]

# Tests fork this process. Autograd fails in a forked process if its first use was in a fit.
torch.ones(1, requires_grad=True).sum().backward()

# Tests make thousands of Trainers, each of which asks all installed packages for callbacks. They run each
# experiment many times, and each run makes its parser.
registry.entry_points = cache(entry_points)
cli.Experiment = cache(Experiment)  # type: ignore[assignment, misc]

# CI, which installs the data, does not want its absence skipped.
needs_fashion_mnist = pytest.mark.skipif(
    not SYSTEM_FOLDER.is_dir() and "CI_HAS_FASHION_MNIST" not in os.environ,
    reason=f"Fashion-MNIST is not in {SYSTEM_FOLDER}: install Debian's package dataset-fashion-mnist",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need a GPU where there is none.

    Run slow tests first: a worker that begins one last would leave the others without work.
    """
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs CUDA, and there is no GPU"))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def lean_trainer(**flags: Any) -> Trainer:
    """Return a CPU Trainer with nothing on but what the flags ask for."""
    off = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    return Trainer(**{"accelerator": "cpu", "num_sanity_val_steps": 0, **off, **flags})


@cache
def load_experiment(name: str) -> ModuleType:
    """Import an experiment from its file, once for all tests."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let SIGINT interrupt, which is ignored in a background process."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(name="trainer")
def trainer_fixture() -> Callable[..., Trainer]:
    return lean_trainer


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, where no test looks at them: drawing takes as long as a short training."""
    monkeypatch.setattr(Run, "_draw", no_figure)


@pytest.fixture(scope="session")
def prices() -> tuple[Tensor, Tensor]:
    """Return 47 rows of 6 features and positive prices that depend on them: a size that nothing divides."""
    generator = torch.Generator().manual_seed(7)
    X = torch.randn(47, 6, generator=generator)
    log_price = X @ torch.linspace(-0.4, 0.5, 6) + 5 + 0.1 * torch.randn(47, generator=generator)
    return X, log_price.exp()


def run_results(name: str, folder: Path, *flags: str) -> dict[str, Any]:
    """Run an experiment on the CPU and return its results."""
    run_experiment(load_experiment(name).main, ["--accelerator", "cpu", "--run_dir", str(folder), *flags])
    report = json.loads((folder / "results.json").read_text())
    assert report["experiment"] == name
    results: dict[str, Any] = report["results"]
    return results


def check_medians(within: Callable[[int], Mapping[str, bool]], seeds: int) -> None:
    """Check that the medians over an odd number of seeds are within bounds.

    A median is within bounds if most values are. So no more seeds are tried than are needed for this.

    Args:
        within: Returns for a seed, by the name of a value, whether the value is within its bounds.
        seeds: The number of seeds.
    """
    found: Counter[str] = Counter()
    for seed in range(seeds):
        found.update(within(seed))
        if min(found.values()) > seeds // 2:
            return
    pytest.fail(f"of {seeds} values, so many are within their bounds: {dict(found)}")


def own_flags(name: str) -> set[str]:
    """Return the names of an experiment's flags, without those of ``Run``."""
    experiment = Experiment(load_experiment(name).main)
    return {*experiment.settings, *(flag for flags in experiment.parts.values() for flag in flags)}


def run_outputs(name: str, folder: Path, *flags: str) -> dict[str, Any]:
    """Run an experiment and return everything that it writes or prints, except figures, by name.

    The names are ``results/KEY/...``, ``metrics/COLUMN``, ``weights/CHECKPOINT``,
    ``hparams/CHECKPOINT/NAME``, ``csv/FILE/COLUMN`` and, for the rows of printed tables,
    ``printed/FIRST CELL``.
    """
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        results = run_results(name, folder, *flags)
    outputs = dict(_leaves("results", results))
    for path in folder.glob("*.csv"):
        kind = "metrics" if path.stem == "metrics" else f"csv/{path.stem}"
        table = pd.read_csv(path, dtype=str).fillna("")
        outputs |= {f"{kind}/{column}": tuple(table[column]) for column in table if column != "step"}
    for path in (folder / "checkpoints").glob("*.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        outputs[f"weights/{path.stem}"] = {k: v.tolist() for k, v in checkpoint["state_dict"].items()}
        for key, value in checkpoint["hyper_parameters"].items():
            outputs[f"hparams/{path.stem}/{key}"] = value
    for line in text.getvalue().splitlines():
        label, *cells = (cell.strip() for cell in re.split("[│┃]", line.strip("│┃")))
        if cells:
            outputs.setdefault(f"printed/{label}", []).append(cells)
    return outputs


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = dict(enumerate(value, start=1))
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(f"{name}/{key}", item)
    else:
        yield name, value


def no_figure(run: Run, name: str, draw: Callable[[], Any]) -> None:
    """Take the place of ``Run._draw``; jsonargparse reads its source, so it is no lambda."""


def empty_file(figure: Any, path: Path) -> None:
    """Take the place of ``Figure.savefig`` where no test looks at the figure: drawing takes long."""
    Path(path).write_bytes(b"")
