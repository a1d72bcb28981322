"""On a GPU: the results of a CPU, the same bits twice, mixed precision, resuming, two devices, memory."""

import copy
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor

from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.runs.run import Run
from tests.conftest import ROOT, lean_trainer, run_results
from tests.data.test_fashion_mnist import write

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("no_figures")]
GPU = "gpu"
# Relative tolerances of metrics; those of 32-true are for another order of sums.
NEAR = {"32-true": 1e-3, "bf16-mixed": 0.05, "16-mixed": 0.05}
HOUSES = ("--max_epochs", "8", "--k", "3")
RUNS = {
    "linear": ("kaggle_house", *HOUSES),
    "perceptron": ("kaggle_house", *HOUSES, "--hidden_sizes", "64", "--log_price", "true", "--lr", "0.003"),
    "images": ("mlp", "--max_epochs", "1", "--validate_on_test", "true"),
    "by hand": ("backpropagation", "--max_epochs", "1", "--memory_depths", "1", "--memory_batch_sizes", "8"),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("images"), (6000, 500), pack=False)


def metrics_of(key: str, folder: Path, images: Path, accelerator: str, *flags: str) -> dict[str, float]:
    """Run an experiment and return its metrics by name."""
    name, *own = RUNS[key]
    data = [] if name == "kaggle_house" else ["--data_dir", str(images)]
    results = run_results(name, folder, *own, *data, *flags, "--accelerator", accelerator)
    found: dict[str, float] = {}

    def collect(path: str, value: Any) -> None:
        if isinstance(value, dict):
            for part, item in value.items():
                collect(f"{path}/{part}", item)
        elif path.endswith(("loss", "log_rmse", "accuracy")) and isinstance(value, float):
            found[path] = value

    collect("", results)
    assert found
    return found


@pytest.mark.parametrize("key", RUNS)
def test_a_gpu_gives_the_results_of_a_cpu_and_the_same_bits_twice(
    key: str, images: Path, tmp_path: Path
) -> None:
    expected = metrics_of(key, tmp_path / "cpu", images, "cpu")
    for precision, tolerance in NEAR.items():
        folder = tmp_path / precision
        found = metrics_of(key, folder, images, GPU, "--precision", precision)
        assert found == pytest.approx(expected, rel=tolerance), precision
        if precision != "16-mixed":
            again = tmp_path / f"{precision}_again"
            assert metrics_of(key, again, images, GPU, "--precision", precision) == found
            assert (again / "metrics.csv").read_text() == (folder / "metrics.csv").read_text()
    environment = json.loads((tmp_path / "32-true" / "results.json").read_text())["environment"]
    assert environment["device"].startswith("cuda")


class Killed(Exception):  # noqa: N818
    pass


class Kill(Callback):
    """Ends the process, as it were, after an epoch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == 3:
            raise Killed


def folds(prices: tuple[Tensor, Tensor]) -> tuple[StackedModule, StackedData]:
    train, val = k_fold(47, 3)
    seed_everything(1, verbose=False)
    members = [PriceRegressor(6, [8], dropout=0.2, log_price=True, lr=0.01) for _ in range(3)]
    return StackedModule(members), StackedData(*prices, {"train": train, "val": val}, 8, seed=2)


@pytest.mark.parametrize("precision", NEAR)
def test_a_run_that_is_killed_on_a_gpu_ends_with_the_same_bits(
    precision: Any, prices: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StackedModule, "replay_from", 7)

    def job(folder: Path, *callbacks: Callback, resume: bool = False) -> dict[str, Tensor]:
        flags: dict[str, Any] = {"accelerator": GPU, "precision": precision, "max_epochs": 8}
        with Run("job", run_dir=folder, resume=resume, checkpoint_every=0, **flags) as run:
            stacked, data = folds(prices)
            run.fit("folds", stacked, data, callbacks=callbacks)
            run.finish({})
            return copy.deepcopy(stacked.state_dict())

    expected = job(tmp_path / "whole")
    with pytest.raises(Killed):
        job(tmp_path / "killed", Kill())
    for name, weights in job(tmp_path / "killed", resume=True).items():
        assert torch.equal(weights, expected[name]), name


def test_a_checkpoint_of_one_device_goes_on_on_the_other(
    prices: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    def fit(accelerator: str, epochs: int, checkpoint: Path | None = None) -> tuple[Trainer, StackedModule]:
        stacked, data = folds(prices)
        for member in (stacked.stacked,):
            member.net[2].p.zero_()  # the masks of dropout differ between devices
        trainer = lean_trainer(accelerator=accelerator, devices=1, max_epochs=epochs)
        trainer.fit(stacked, data, ckpt_path=checkpoint, weights_only=True)
        return trainer, stacked

    expected = fit("cpu", 6)[1].cpu().state_dict()
    for before, after in ((GPU, "cpu"), ("cpu", GPU)):
        path = tmp_path / f"{before}.ckpt"
        fit(before, 3)[0].save_checkpoint(path)
        resumed = fit(after, 6, path)[1].cpu().state_dict()
        for name, weights in resumed.items():
            torch.testing.assert_close(weights, expected[name], rtol=1e-3, atol=1e-4, msg=name)


def test_two_gpus_give_the_results_of_one(tmp_path: Path, images: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    expected = metrics_of("perceptron", tmp_path / "one", images, GPU)
    name, *flags = RUNS["perceptron"]
    folder = tmp_path / "two"
    words = [*flags, "--accelerator", "gpu", "--devices", "2", "--run_dir", str(folder)]
    subprocess.run([sys.executable, str(ROOT / "experiments" / f"{name}.py"), *words], check=True)
    results = json.loads((folder / "results.json").read_text())["results"]
    for path, value in expected.items():
        found = results
        for part in path.strip("/").split("/"):
            found = found[part]
        assert found == pytest.approx(value, rel=1e-4), path


def test_a_fit_leaves_no_memory_in_use(prices: tuple[Tensor, Tensor]) -> None:
    in_use = []
    torch.cuda.reset_peak_memory_stats()  # of other tests
    for _ in range(4):
        stacked, data = folds(prices)
        lean_trainer(accelerator=GPU, devices=1, max_epochs=20).fit(stacked, data)
        del stacked, data
        gc.collect()  # the Trainer and the model refer to each other
        torch.cuda.synchronize()
        in_use.append(torch.cuda.memory_allocated())
    assert in_use[-1] <= in_use[1]  # the first fit loads libraries
    assert torch.cuda.max_memory_allocated() < 2**28
