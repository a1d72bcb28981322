"""The backpropagation experiment: its results, and its errors for bad input."""

from pathlib import Path

import pytest

from d2l_lightning.runs.cli import run_experiment
from tests.conftest import load_experiment, needs_fashion_mnist, run_results
from tests.data.test_fashion_mnist import write

experiment = load_experiment("backpropagation")


@pytest.mark.figures
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
def test_results_and_figures(activation: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write(tmp_path / "data"))
    flags = ["--max_epochs", "2", "--batch_size", "16", "--num_hiddens", "12", "--lambd", "0.01"]
    memory = ["--memory_batch_sizes", "8", "16", "--memory_depths", "1", "2", "5"]
    results = run_results(
        "backpropagation", tmp_path / "run", "--data_dir", folder, *flags, *memory, "--activation", activation
    )
    assert 0 < results["max_gradient_error"] < 1e-12
    errors = [error for by_name in results["gradient_errors"].values() for error in by_name.values()]
    assert len(errors) == 10
    assert max(errors) == results["max_gradient_error"]
    assert "All errors are below 1e-06." in capsys.readouterr().out
    assert list(results["models"]) == ["by_hand"]
    assert [each["batch_size"] for each in results["memory"]["over_batch_size"]] == [8, 16]
    assert [each["depth"] for each in results["memory"]["over_depth"]] == [1, 2, 5]
    figures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert {"computational_graph", "memory", "learning_curves"} <= figures


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_gradients_are_checked_in_double_precision_whatever_the_precision_of_training(
    precision: str, tmp_path: Path
) -> None:
    flags = ["--data_dir", str(write(tmp_path / "data")), "--max_epochs", "1", "--num_hiddens", "12"]
    memory = ["--memory_batch_sizes", "8", "--memory_depths", "1"]
    results = run_results("backpropagation", tmp_path / "run", *flags, *memory, "--precision", precision)
    assert results["max_gradient_error"] < 1e-12


def test_a_model_that_does_not_fit_in_memory_is_an_error_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data_dir", str(write(tmp_path / "data")), "--memory_batch_sizes", "8", str(10**12)]
    with pytest.raises(SystemExit) as stop:
        run_experiment(experiment.main, [*flags, "--run_dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert f"{10**12} rows and 1 hidden layers of 256 units do not fit in memory" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--activation", "gelu"], "activation: "),
        (["--lambd", "-1"], "lambd must not be negative"),
        (["--num_hiddens", "0"], "num_hiddens must be positive"),
        (["--limit_test_batches", "0"], "leaves nothing to test on"),
        (["--memory_depths"], "memory_depths must be positive and grow, not []"),
        (["--memory_batch_sizes", "8", "4"], "memory_batch_sizes must be positive and grow, not [8, 4]"),
        (
            ["--gradient_clip_val", "1"],
            "--gradient_clip_val and --accumulate_grad_batches are for autograd's",
        ),
        (
            ["--accumulate_grad_batches", "2"],
            "--gradient_clip_val and --accumulate_grad_batches are for autograd's",
        ),
    ],
)
def test_bad_input_is_an_error_of_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data_dir", str(write(tmp_path / "data")), "--enable_progress_bar", "false"]
    with pytest.raises(SystemExit) as stop:
        run_experiment(experiment.main, [*flags, *data, "--run_dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.slow
@needs_fashion_mnist
def test_gradients_are_exact_on_the_real_data(tmp_path: Path) -> None:
    results = run_results("backpropagation", tmp_path / "run", "--max_epochs", "2")
    assert results["max_gradient_error"] < 1e-6
    assert results["models"]["by_hand"]["test_accuracy"] > 0.75
