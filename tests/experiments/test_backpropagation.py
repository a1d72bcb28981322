"""The job on backpropagation: exact gradients, a graph that is autograd's, memory that adds up."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from d2l_lightning.models.backpropagation import BackpropagationMLP
from d2l_lightning.models.mlp import MLP
from d2l_lightning.run import run_experiment
from tests.conftest import load_experiment, needs_fashion_mnist, run_results
from tests.data.test_fashion_mnist import write

experiment = load_experiment("backpropagation")


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
def test_what_a_run_tells(activation: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write(tmp_path / "data"))
    flags = ["--max_epochs", "2", "--batch_size", "16", "--num_hiddens", "12", "--lambd", "0.01"]
    memory = ["--memory_batch_sizes", "8", "16", "--memory_depths", "1", "2", "5"]
    results = run_results(
        "backpropagation", tmp_path / "run", "--data_dir", folder, *flags, *memory, "--activation", activation
    )
    assert 0 < results["max_gradient_error"] < 1e-12
    told = [error for errors in results["gradient_errors"].values() for error in errors.values()]
    assert len(told) == 8
    assert max(told) == results["max_gradient_error"]
    assert "within 1e-06" in capsys.readouterr().out
    assert list(results["models"]) == ["by_hand"]
    over = results["memory"]
    assert [told["batch_size"] for told in over["over_batch_size"]] == [8, 16]
    assert [told["depth"] for told in over["over_depth"]] == [1, 2, 5]
    figures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert {"computational_graph", "memory", "learning_curves"} <= figures


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_other_precisions(precision: str, tmp_path: Path) -> None:
    flags = ["--data_dir", str(write(tmp_path / "data")), "--max_epochs", "1", "--num_hiddens", "12"]
    memory = ["--memory_batch_sizes", "8", "--memory_depths", "1"]
    results = run_results("backpropagation", tmp_path / "run", *flags, *memory, "--precision", precision)
    assert results["max_gradient_error"] < 1e-12  # measured in double precision all the same


def test_what_does_not_fit_in_memory_is_told_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data_dir", str(write(tmp_path / "data")), "--memory_batch_sizes", "8", str(10**12)]
    with pytest.raises(SystemExit) as stop:
        run_experiment(experiment.main, [*flags, "--run_dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert f"{10**12} rows and 1 hidden layers of 256 units do not fit in memory" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_wrong_formula_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = BackpropagationMLP(9, 3, 4, lambd=0.1, sigma=1.0)
    X, y = torch.rand(5, 9), torch.tensor([0, 1, 2, 1, 0])
    assert max(experiment.gradient_errors(model, X, y).values()) < 1e-12
    model.phi_derivative = torch.ones_like
    errors = experiment.gradient_errors(model, X, y)
    assert errors["W1"] > 1e-3
    assert errors["W2"] < 1e-12


def test_the_graph_is_that_of_the_section() -> None:
    model = BackpropagationMLP(9, 3, 4, lambd=0.1)
    y = torch.tensor([0, 1, 2])
    variables = {**experiment.by_autograd(model, torch.rand(3, 9), y), "y": y}
    found = {operator.output: operator for operator in experiment.operators(variables)}
    inputs = {name: set(operator.inputs) for name, operator in found.items()}
    assert inputs == {
        **{"z": {"X", "W1", "b1"}, "h": {"z"}, "o": {"h", "W2", "b2"}, "L": {"o", "y"}},
        **{"s": {"W1", "W2"}, "J": {"L", "s"}},
    }
    assert found["h"].functions == ["Relu"]
    assert found["L"].functions == ["NllLoss", "LogSoftmax"]
    assert set(found) | set.union(*inputs.values()) == set(experiment.PLACES)


def test_a_graph_without_a_part_lacks_it() -> None:
    w = torch.ones(3, requires_grad=True)
    a = w * 2
    b = a.exp()
    (of_a, of_b) = experiment.operators({"w": w, "a": a, "b": b})
    assert (of_a.inputs, of_a.output, of_b.inputs, of_b.functions) == (["w"], "a", ["a"], ["Exp"])
    (skipping,) = experiment.operators({"w": w, "b": b})
    assert (skipping.inputs, skipping.functions) == (["w"], ["Exp", "Mul"])


def test_memory_grows_as_the_section_says() -> None:
    def told(batch_size: int, depth: int) -> dict[str, int]:
        model = MLP(36, 4, hidden_sizes=[32] * depth)
        X, y = torch.rand(batch_size, 36), torch.zeros(batch_size, dtype=torch.int64)
        of_model: dict[str, int] = experiment.memory_of(model, X, y)
        return of_model

    for batch_size in (8, 64):
        # What one more layer keeps: its output, float32.
        layers = [told(batch_size, depth)["intermediates"] for depth in range(1, 6)]
        assert {b - a for a, b in pairwise(layers)} == {batch_size * 32 * 4}
        # A prediction holds a layer's input and output, however many layers there are.
        assert {told(batch_size, depth)["prediction"] for depth in (1, 2, 5)} == {2 * batch_size * 32 * 4}
    # Proportional to the batch size but for the loss, one number and its count of rows.
    small, large = told(10, 3)["intermediates"] - 8, told(70, 3)["intermediates"] - 8
    assert large == 7 * small
    deep = told(64, 5)
    assert deep["parameters"] == 4 * (36 * 32 + 32 + 4 * (32 * 32 + 32) + 32 * 4 + 4)
    assert deep["training"] >= deep["parameters"]  # the gradients, in the end
    assert deep["training"] > deep["intermediates"] > deep["prediction"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--activation", "gelu"], "activation: "),
        (["--lambd", "-1"], "lambd must not be negative"),
        (["--num_hiddens", "0"], "num_hiddens must be positive"),
        (["--limit_test_batches", "0"], "leave nothing to test on"),
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
def test_bad_input(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data_dir", str(write(tmp_path / "data")), "--enable_progress_bar", "false"]
    with pytest.raises(SystemExit) as stop:
        run_experiment(experiment.main, [*flags, *data, "--run_dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.slow
@needs_fashion_mnist
def test_gradients_are_exact_on_the_real_data(tmp_path: Path) -> None:
    results = run_results("backpropagation", tmp_path / "run", "--max_epochs", "2")
    assert results["max_gradient_error"] < 1e-6
    assert results["models"]["by_hand"]["test_accuracy"] > 0.75
