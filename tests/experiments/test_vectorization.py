"""The vectorization experiment times a loop and a sum."""

from pathlib import Path

import pytest
import torch
from torch.utils.benchmark import Measurement, Timer

from tests.conftest import load_experiment, run_results

experiment = load_experiment("vectorization")


def test_the_loop_adds() -> None:
    a, b = torch.rand(2, 50)
    assert torch.equal(experiment.add_in_loop(a, b), a + b)


@pytest.mark.figures
def test_times_are_reported_by_length_and_by_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A loop over n numbers takes n seconds, and a + b a thousandth of it.
    def blocked_autorange(timer: Timer, **_: float) -> Measurement:
        spec = timer.timeit(1).task_spec
        lengths.append(lengths[-1] if spec.stmt == "a + b" else next(timed))
        return Measurement(1, [lengths[-1] * (0.001 if spec.stmt == "a + b" else 1.0)], spec)

    lengths: list[float] = []
    timed = iter([2.0, 10.0, 30.0])
    monkeypatch.setattr(Timer, "blocked_autorange", blocked_autorange)
    results = run_results("vectorization", tmp_path / "run", "--n", "30", "2", "10", "--repeats", "2")
    assert results["n"] == [2, 10, 30]
    assert results["loop_seconds"] == [2.0, 10.0, 30.0]
    assert results["vectorized_seconds"] == pytest.approx([0.002, 0.01, 0.03])
    assert (tmp_path / "run" / "figures" / "seconds.png").exists()
