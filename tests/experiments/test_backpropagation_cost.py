"""The experiment on second derivatives: graphs, Hessians, ratios of times, and memory of parts."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import load_experiment, run_results

experiment = load_experiment("backpropagation_cost")


@pytest.mark.figures
@pytest.mark.usefixtures("unsaved_figures")
def test_results_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def median_time(function: Callable[[], object], seconds: float) -> float:
        function()
        asked.append(seconds)
        return float(len(asked))  # 1, 2, 3 seconds

    monkeypatch.setattr(experiment, "median_time", median_time)
    flags = ["--widths", "2", "--batch_size", "2048", "--parts", "1", "4", "--seconds", "7"]
    results = run_results("backpropagation_cost", tmp_path / "run", *flags)
    assert asked == [7.0] * 3
    (size,) = results["sizes"]
    assert (size["product_ratio"], size["hessian_ratio"]) == (2.0, 3.0)
    assert size["parameters"] == 20 * 2 + 2 + 2 * 5 + 5
    assert size["functions_of_gradient"] > 2 * size["functions_of_J"]
    assert max(size["hessian_error"], size["asymmetry"]) < 1e-14
    whole, split = results["parts"]
    assert split["bytes"] < whole["bytes"]
    assert split["relative_error"] < 1e-5
    figures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert figures == {"times", "memory"}


def test_the_time_of_a_function_is_the_median_of_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 1.0, 1.5, 1.5, 4.5, 4.5, 4.5, 6.5, 11.0])  # calls of 1, 3 and 2 seconds
    monkeypatch.setattr(experiment, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    calls: list[int] = []
    assert experiment.median_time(lambda: calls.append(1), 10.0) == 2.0
    assert len(calls) == 4  # the first is not timed
