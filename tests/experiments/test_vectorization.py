"""The loop and the sum are timed as they are."""

from pathlib import Path

import torch

from tests.conftest import load_experiment, run_results

experiment = load_experiment("vectorization")


def test_the_loop_adds() -> None:
    a, b = torch.rand(2, 50)
    assert torch.equal(experiment.add_in_loop(a, b), a + b)


def test_vectorised_is_faster_by_orders_of_magnitude(tmp_path: Path) -> None:
    results = run_results("vectorization", tmp_path / "run", "--n", "3000", "10", "--repeats", "2")
    assert results["n"] == [10, 3000]
    loop, vectorized = results["loop_seconds"], results["vectorized_seconds"]
    assert len(loop) == len(vectorized) == 2
    assert all(seconds > 0 for seconds in loop + vectorized)
    assert loop[1] > 10 * loop[0]  # 300 times the numbers
    assert loop[1] > 50 * vectorized[1]  # measured: 3,000 and more
    assert (tmp_path / "run" / "figures" / "seconds.png").exists()
