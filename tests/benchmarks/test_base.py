"""Implementations are timed in turn, and rows come in the given order."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from d2l_lightning.benchmarks import base
from d2l_lightning.benchmarks.base import (
    GivenOrder,
    Job,
    mean_metrics,
    output_of,
    time_in_turn,
    without_lightning,
)
from d2l_lightning.errors import InputError
from d2l_lightning.runs.run import Run

CUDA_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"


@pytest.fixture(name="job")
def job_fixture(tmp_path: Path) -> Iterator[Job]:
    with Run("test", run_dir=tmp_path / "run") as run:
        yield Job(run, 1, tmp_path)


def test_every_other_turn_goes_backwards(job: Job) -> None:
    calls: list[str] = []
    job.implementations = {
        name: lambda name=name: calls.append(name) or {"count": len(calls)} for name in "abc"
    }
    seconds, metrics = time_in_turn(job, range(3))
    assert calls == list("abccbaabc")
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert metrics == {"a": {"count": 7}, "b": {"count": 8}, "c": {"count": 9}}


def test_time_is_that_of_the_implementations_clock_without_what_surrounds_it(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = {"slow": 0.0, "fast": 0.0}

    @contextmanager
    def surroundings(name: str) -> Iterator[None]:
        now[name] += 100
        yield
        now[name] += 100

    def call(name: str) -> dict[str, float]:
        now[name] += 7 if name == "slow" else 2
        return {}

    monkeypatch.setattr(job, "surroundings", surroundings)
    monkeypatch.setattr(job, "clock", lambda name: lambda: now[name])
    job.implementations = {name: lambda name=name: call(name) for name in now}
    assert time_in_turn(job, range(2))[0] == {"slow": [7, 7], "fast": [2, 2]}


def test_each_implementation_begins_with_pytorchs_own_number_of_threads(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "THREADS", 2)
    before = torch.get_num_threads()
    found = []

    def choose_threads() -> dict[str, float]:
        found.append(torch.get_num_threads())
        torch.set_num_threads(1)
        return {}

    job.implementations = {"a": choose_threads, "b": choose_threads}
    time_in_turn(job, [0])
    torch.set_num_threads(before)
    assert found == [2, 2]


@pytest.mark.parametrize("own", [{}, {CUDA_CHECK: "0"}])
def test_a_plain_loop_has_the_check_for_gpus_that_pytorch_has(
    own: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "ENVIRONMENT", own)
    monkeypatch.setenv(CUDA_CHECK, "1")  # as Lightning does

    @without_lightning()
    def loop() -> str | None:
        return os.environ.get(CUDA_CHECK)

    assert [loop(), loop()] == [own.get(CUDA_CHECK)] * 2
    assert os.environ[CUDA_CHECK] == "1"


def test_what_a_script_prints_is_returned_and_its_failure_is_an_input_error() -> None:
    assert output_of(["-c", "import os; print(os.environ['A'])"], {"A": "7"}) == "7\n"
    with pytest.raises(InputError, match=r"exit status 1: no data$"):
        output_of(["-c", "print(1); raise SystemExit('so\\nno data')"])


def test_the_order_of_rows_depends_on_the_epoch() -> None:
    sampler = GivenOrder([torch.tensor([2, 0, 1]), torch.tensor([1, 0])])
    assert list(sampler) == [2, 0, 1]
    sampler.set_epoch(1)
    assert list(sampler) == [1, 0]
    assert len(sampler) == 2


def test_metrics_are_averaged_over_fits() -> None:
    assert mean_metrics([(1.0, 4.0), (2.0, 8.0)]) == {"train": 1.5, "val": 6.0}
