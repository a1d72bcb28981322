"""The linear regression experiment reports the errors of its models."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.models.linear_regression import LinearRegression, LinearRegressionScratch
from d2l_lightning.runs.run import Run
from tests.conftest import check_medians, load_experiment, run_results


@pytest.mark.figures
def test_median_errors_over_five_seeds_are_of_the_size_that_the_book_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def small(seed: int) -> dict[str, bool]:
        models = run_results("linear_regression", tmp_path / str(seed), "--seed", str(seed))["models"]
        return {
            f"{model} {index}": abs(error) < bound
            for model, bound in (("scratch", 0.5), ("concise", 0.05), ("analytic", 0.002))
            for index, error in enumerate([*models[model]["w_error"], models[model]["b_error"]])
        }

    check_medians(small, seeds=5)
    assert "0.1408" in capsys.readouterr().out
    figures = {path.stem for path in (tmp_path / "0" / "figures").iterdir()}
    assert figures == {"learning_curves", "error_by_amount"}


def test_errors_are_truth_minus_the_weights_of_the_checkpoints(tmp_path: Path) -> None:
    flags = ["--w", "1", "-2", "0.5", "--b", "-1", "--num_train", "100", "--loss", "huber", "--seed", "3"]
    results = run_results("linear_regression", tmp_path / "run", *flags)
    data = SyntheticRegressionData([1.0, -2.0, 0.5], -1.0, num_train=100, seed=3)
    seen = results["data"]
    assert seen["features"] == data.X[0].tolist()
    assert seen["label"] == data.y[0].item()
    assert (seen["X_shape"], seen["y_shape"]) == ([32, 3], [32])
    assert (seen["batches"], seen["last_batch"]) == (4, 4)
    for name, kind in (("scratch", LinearRegressionScratch), ("concise", LinearRegression)):
        w, b = kind.load_from_checkpoint(tmp_path / "run" / "checkpoints" / f"{name}.ckpt").get_w_b()
        torch.testing.assert_close(torch.tensor(results["models"][name]["w_error"]), data.w - w)
        assert results["models"][name]["b_error"] == pytest.approx(-1 - b.item())
    assert max(map(abs, results["models"]["analytic"]["w_error"])) < 0.01


def test_both_loaders_give_equal_results(tmp_path: Path) -> None:
    one, other = (
        run_results("linear_regression", tmp_path / loader, "--loader", loader)
        for loader in ("scratch", "framework")
    )
    assert one == other


def test_more_data_makes_the_analytic_solution_more_precise(tmp_path: Path) -> None:
    amounts = run_results("linear_regression", tmp_path / "run", "--max_epochs", "1")["amounts"]
    assert (amounts["n"][0], amounts["n"][4], amounts["n"][-1]) == (5, 100, 10_000)
    for errors in (amounts["w_error"], amounts["b_error"]):
        # Errors fall as 1 / sqrt(n). The slope has a standard deviation of 0.035 over seeds.
        slope = np.polyfit(np.log(amounts["n"][2:]), np.log(errors[2:]), 1)[0]
        assert slope == pytest.approx(-0.5, abs=0.09)
        assert errors[0] > errors[4]


@pytest.mark.parametrize("flags", [["--num_val", "0"], ["--noise", "0"], ["--sigma", "0"]], ids=" ".join)
def test_unusual_settings_work(tmp_path: Path, flags: list[str]) -> None:
    results = run_results("linear_regression", tmp_path / "run", "--max_epochs", "9", *flags)
    errors = {
        name: max(map(abs, [*model["w_error"], model["b_error"]]))
        for name, model in results["models"].items()
    }
    assert set(errors) == {"scratch", "concise", "analytic"}
    assert errors["analytic"] < (1e-5 if "--noise" in flags else 0.003)
    assert errors["concise"] < 0.01
    assert errors["scratch"] < 0.01


@pytest.mark.parametrize("rows", [4, 1000])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_full_batches_give_gradient_descent(rows: int, clip: float | None, tmp_path: Path) -> None:
    flags = ["--num_train", str(rows), "--batch_size", "1000", "--sigma", "0", "--max_epochs", "9"]
    flags += [] if clip is None else ["--gradient_clip_val", str(clip)]
    results = run_results("linear_regression", tmp_path / "run", *flags)
    data = SyntheticRegressionData([2.0, -3.4], 4.2, num_train=rows, seed=0)
    X = torch.nn.functional.pad(data.X[:rows], (0, 1), value=1.0).double()
    y = data.y[:rows].double()
    # The loss of the model from scratch is half the squared error.
    for name, factor in (("scratch", 1.0), ("concise", 2.0)):
        w = torch.zeros(3).double()
        for _ in range(9):
            gradient = factor * X.T @ (X @ w - y) / rows
            if clip is not None:
                gradient *= min(1.0, clip / gradient.norm().item())
            w -= 0.03 * gradient
        found = results["models"][name]
        expected = [2 - w[0].item(), -3.4 - w[1].item(), 4.2 - w[2].item()]
        assert [*found["w_error"], found["b_error"]] == pytest.approx(expected, abs=1e-4)


def test_the_experiment_runs_from_python(tmp_path: Path) -> None:
    main = load_experiment("linear_regression").main
    with Run("linear_regression", max_epochs=1, accelerator="cpu", run_dir=str(tmp_path / "run")) as run:
        main(run)
    by_flags = run_results("linear_regression", tmp_path / "flags", "--max_epochs", "1")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["results"] == by_flags
