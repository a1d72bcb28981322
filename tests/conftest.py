"""What several tests need: lean Trainers, tiny data, experiments as modules."""

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# Workers that run tests side by side share the cores; threads that wait by spinning would take them away.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from d2l_lightning.data.fashion_mnist import SYSTEM_FOLDER
from d2l_lightning.run import run_experiment

ROOT = Path(__file__).parents[1]


# CI, which installs the data, does not want its absence skipped.
needs_fashion_mnist = pytest.mark.skipif(
    not SYSTEM_FOLDER.is_dir() and "CI_HAS_FASHION_MNIST" not in os.environ,
    reason=f"Fashion-MNIST is not in {SYSTEM_FOLDER}: install Debian's package dataset-fashion-mnist",
)


def lean_trainer(**flags: Any) -> Trainer:
    """Return a CPU Trainer with nothing on but what the flags ask for."""
    off = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    return Trainer(**{"accelerator": "cpu", "num_sanity_val_steps": 0, **off, **flags})


def load_experiment(name: str) -> ModuleType:
    """Import an experiment from its file."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(name="trainer")
def trainer_fixture() -> Callable[..., Trainer]:
    return lean_trainer


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
