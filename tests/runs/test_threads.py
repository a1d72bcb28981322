"""The number of threads: what the process may use, what the work needs, what the user asks for."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule

import d2l_lightning
from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.models.mlp import MLP
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.runs import threads
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.threads import VARIABLES, Threads, allowed_cpus
from tests.conftest import ROOT, load_experiment

FLAGS: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 2}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let PyTorch have eight threads and the process as many CPUs, whatever the machine has."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


def house_folds(**model: Any) -> tuple[LightningModule, LightningDataModule]:
    rows = [torch.arange(64)] * 5
    data = StackedData(torch.randn(64, 331), torch.ones(64), {"train": rows}, 64, seed=0)
    return StackedModule([PriceRegressor(331, **model) for _ in rows]), data


def perceptron() -> tuple[LightningModule, LightningDataModule]:
    return MLP(784, 10), FashionMNIST(batch_size=256)


# The files of a system by path, and the CPUs that a process with eight may use.
SYSTEMS: dict[str, tuple[dict[str, str], int]] = {
    "no control groups": ({}, 8),
    "a quota": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
    "a quota of more than the machine": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "6400000 100000\n"},
        8,
    ),
    "a quota with a fraction": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "290000 100000\n"},
        2,
    ),
    "less than one CPU": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
    "no quota": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
    "a group in a group, the inner one is less": (
        {
            "proc/self/cgroup": "0::/kube.slice/pod\n",
            "sys/fs/cgroup/kube.slice/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/kube.slice/pod/cpu.max": "200000 100000\n",
        },
        2,
    ),
    "a group in a group, the outer one is less": (
        {
            "proc/self/cgroup": "0::/kube.slice/pod\n",
            "sys/fs/cgroup/kube.slice/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/kube.slice/pod/cpu.max": "max 100000\n",
        },
        2,
    ),
    "another group": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/b/cpu.max": "100000 100000\n"}, 8),
    "version 1": (
        {
            "proc/self/cgroup": "5:memory:/\n4:cpu,cpuacct:/job\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
        },
        4,
    ),
    "version 1 in a container that sees its own group as the top one": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/0123\n0::/docker/0123\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n",
        },
        3,
    ),
    "version 1 without a quota": (
        {
            "proc/self/cgroup": "4:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        8,
    ),
    "version 2 beside version 1": (
        {"proc/self/cgroup": "4:memory:/\n0::/a\n", "sys/fs/cgroup/unified/a/cpu.max": "500000 100000\n"},
        5,
    ),
    "files that say something else": (
        {"proc/self/cgroup": "nonsense\n0::/\n", "sys/fs/cgroup/cpu.max": "100000 0\n"},
        8,
    ),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_quota_of_a_container_limits_the_cpus(system: str, tmp_path: Path) -> None:
    files, cpus = SYSTEMS[system]
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert allowed_cpus(tmp_path) == cpus


def test_the_affinity_mask_limits_the_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4, 6})
    assert allowed_cpus(tmp_path) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    for count, cpus in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert allowed_cpus(tmp_path) == cpus


Work = tuple[LightningModule, LightningDataModule]


def chosen(work: Callable[[], Work], device: torch.device = CPU, number: int | None = None) -> int:
    """Return the number of threads that a run sets for a fit."""
    run_threads = Threads(number)
    with run_threads:
        run_threads.choose(*work(), device)
        assert run_threads.most == torch.get_num_threads()
        return run_threads.most


def test_small_steps_have_one_thread_and_larger_ones_more() -> None:
    assert chosen(house_folds) == 1
    assert chosen(lambda: house_folds(hidden_sizes=[256])) == 2
    assert chosen(lambda: (MLP(784, 10), FashionMNIST(batch_size=64))) == 1
    assert chosen(perceptron) == 5
    assert chosen(lambda: (MLP(784, 10), FashionMNIST(batch_size=2048))) == 8


def test_data_without_a_batch_size_count_as_one_row() -> None:
    assert chosen(lambda: (MLP(784, 10), LightningDataModule())) == 1


def test_no_more_threads_than_cpus_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "allowed_cpus", lambda: 2)
    assert chosen(perceptron) == 2
    assert chosen(house_folds, torch.device("cuda")) == 2


def test_no_more_threads_than_pytorch_has_are_chosen() -> None:
    torch.set_num_threads(3)
    assert chosen(perceptron) == 3
    assert torch.get_num_threads() == 3


def test_the_work_of_a_gpu_does_not_count() -> None:
    assert chosen(house_folds, torch.device("cuda")) == 8


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_number_from_the_environment_stands(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "allowed_cpus", lambda: 2)
    monkeypatch.setenv(variable, "8")  # PyTorch has taken it
    assert chosen(house_folds) == 8
    assert chosen(house_folds, number=3) == 3


def test_a_given_number_beats_the_choice() -> None:
    assert chosen(house_folds, number=2) == 2
    assert chosen(perceptron, number=1) == 1
    assert chosen(perceptron, torch.device("cuda"), number=3) == 3


def test_a_run_reports_its_threads_and_restores_the_number(tmp_path: Path) -> None:
    found = {}
    for number in (None, 3):
        with Run("test", run_dir=tmp_path / str(number), threads=number, **FLAGS) as run:
            before = torch.get_num_threads()
            during = []
            for batch_size in (10_000_000, 32):
                data = SyntheticRegressionData(num_train=64, num_val=32, batch_size=batch_size)
                run.fit(f"line_{batch_size}", LinearRegression(2), data).validate()
                during.append(torch.get_num_threads())
            run.finish({})
        report = json.loads((run.folder / "results.json").read_text())
        found[number] = (before, during, report["environment"]["threads"])
        assert torch.get_num_threads() == 8
    assert found == {None: (8, [3, 1], 3), 3: (3, [3, 3], 3)}


def test_a_run_that_fails_restores_the_number(tmp_path: Path) -> None:
    def fail() -> None:
        with Run("test", run_dir=tmp_path, threads=2, **FLAGS):
            assert torch.get_num_threads() == 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.get_num_threads() == 8


def test_a_run_without_a_fit_reports_the_threads_of_pytorch(tmp_path: Path) -> None:
    with Run("test", run_dir=tmp_path, **FLAGS) as run:
        run.finish({})
    assert json.loads((tmp_path / "results.json").read_text())["environment"]["threads"] == 8


def test_a_run_is_resumed_with_the_same_threads_or_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def job(**flags: Any) -> None:
        config = f"threads: {flags.get('threads', 'null')}"
        with Run("test", config, run_dir=tmp_path, resume=True, checkpoint_every=0, **FLAGS, **flags) as run:
            run.start()  # before the threads of the first fit are chosen
            data = SyntheticRegressionData(num_train=64, num_val=32)
            run.fit("line", LinearRegression(2), data)
            run.fit("other", LinearRegression(2), data)
            if "threads" in flags:
                run.finish({})

    job()
    job()
    assert capsys.readouterr().err == ""
    job(threads=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "warning: the resumed run began with other versions (threads 1 -> 2); last bits may differ"
    )


def test_numbers_that_are_no_numbers_of_threads_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = load_experiment("vectorization").main
    for number, reason in (
        ("0", "--threads must be positive, not 0"),
        ("-1", "--threads must be positive, not -1"),
        ("1025", "--threads must be at most 1024, not 1025"),
        ("two", "threads: Expected"),
    ):
        with pytest.raises(SystemExit) as end:
            run_experiment(main, ["--threads", number, "--run_dir", str(tmp_path / "run")])
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert reason in line
    with pytest.raises(InputError, match="--threads must be positive, not 0"):
        Run("test", threads=0)
    assert not (tmp_path / "run").exists()


def test_more_threads_than_cpus_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Run("test", run_dir=tmp_path, threads=9, **FLAGS):
        assert torch.get_num_threads() == 9
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "warning: --threads 9 is more than the CPUs that the run may use (8)"
    with Run("test", run_dir=tmp_path, threads=8, **FLAGS):
        pass
    assert capsys.readouterr().err == ""


SPIN, POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"


@pytest.mark.parametrize(
    ("user", "expected"), [({}, "1000"), ({SPIN: "7"}, "7"), ({POLICY: "ACTIVE"}, None)], ids=str
)
def test_the_package_sets_how_threads_wait_unless_the_user_has(
    user: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (SPIN, POLICY):
        monkeypatch.setenv(name, "")  # restored afterwards, whatever the package does
        monkeypatch.delenv(name)
    for name, value in user.items():
        monkeypatch.setenv(name, value)
    runpy.run_path(d2l_lightning.__file__)  # too late, because torch is loaded
    assert os.environ.get(SPIN) == user.get(SPIN)
    monkeypatch.delitem(sys.modules, "torch")
    runpy.run_path(d2l_lightning.__file__)
    assert os.environ.get(SPIN) == expected


def test_the_tests_themselves_load_the_package_before_torch() -> None:
    assert SPIN in os.environ or POLICY in os.environ


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP is that of torch on Linux")
def test_openmp_takes_what_the_package_sets() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "import d2l_lightning, torch"],
        env={
            **{name: value for name, value in os.environ.items() if name not in (SPIN, POLICY)},
            **{"PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "verbose"},
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert "GOMP_SPINCOUNT = '1000'" in shown.stderr
