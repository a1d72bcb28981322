"""The job on initialization: what theory says of products, variances and symmetry is what it measures."""

import math
import statistics
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from d2l_lightning.batches import data_generator
from d2l_lightning.models.mlp import MLP
from d2l_lightning.run import run_experiment
from tests.conftest import load_experiment, needs_fashion_mnist, run_results
from tests.data.test_fashion_mnist import write

experiment = load_experiment("initialization")
QUICK = ["--max_epochs", "1", "--batch_size", "16", "--num_layers", "4", "--width", "12", "--depths", "2"]


def test_what_a_run_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write(tmp_path / "data"))
    results = run_results("initialization", tmp_path / "run", "--data_dir", folder, *QUICK, "--sigmas", "0.5")
    schemes = ["default", "normal_0.5", "xavier_uniform", "xavier_normal", "kaiming"]
    assert list(results["schemes"]) == list(results["training"]) == schemes
    for by_activation in results["schemes"].values():
        assert list(by_activation) == ["identity", "relu", "tanh", "sigmoid"]
        for told in by_activation.values():
            assert set(told) == {"activation_variance", "gradient_variance"}
            assert all(set(ends) == {"first", "last"} and min(ends.values()) > 0 for ends in told.values())
    assert results["product_max_abs"] > 1e12
    assert results["symmetry"]["alike"]["spread"] == 0
    figures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert figures == {
        *("sigmoid", "matrix_product", "activation_variance", "gradient_variance", "over_depth"),
        *("symmetry", "learning_curves"),
    }
    assert "eq. 4.8.5" in capsys.readouterr().out


def test_the_product_is_numpys() -> None:
    product, growth = experiment.product_of_gaussians(100, 4, seed=3)
    generator = data_generator(3)
    matrices = [torch.randn(4, 4, dtype=torch.float64, generator=generator).numpy() for _ in range(101)]
    np.testing.assert_allclose(product.numpy(), np.linalg.multi_dot(matrices), rtol=1e-9)
    assert len(growth) == 101
    assert growth[-1] == product.abs().max()


def test_the_product_grows_as_theory_says() -> None:
    # Newman (1986): a factor of exp((ln 2 + digamma(n / 2)) / 2) for each n by n matrix; n is 4.
    rate = (math.log(2) + torch.digamma(torch.tensor(2.0)).item()) / 2
    last = [math.log(experiment.product_of_gaussians(200, 4, seed)[1][-1]) for seed in range(40)]
    assert statistics.fmean(last) / 201 == pytest.approx(rate, abs=0.03)


@pytest.mark.parametrize("initialization", ["xavier_uniform", "xavier_normal", "kaiming", "default"])
def test_variances_of_linear_layers_are_those_of_the_equation(initialization: Any) -> None:
    torch.manual_seed(0)
    X, y = torch.rand(400, 28, 28), torch.randint(10, (400,))
    model = MLP(hidden_sizes=[784] * 6, activation="identity", initialization=initialization)
    for layer in model.net:
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.zeros_(layer.bias)
    told = experiment.variances(model, X, y)
    # n sigma^2, forwards and backwards: the layers are square.
    factor = {"kaiming": 2.0, "default": 1 / 3}.get(initialization, 1.0)
    # Each tolerance is four standard deviations over seeds: gradients come from ten classes alone.
    activations, gradients = told["activation_variance"], told["gradient_variance"]
    assert activations[0] == pytest.approx(factor, rel=0.02)
    assert activations[-1] / activations[0] == pytest.approx(factor**5, rel=0.045)
    assert gradients[-1] / gradients[0] == pytest.approx(factor**-5, rel=0.19)


def test_gradients_are_those_of_each_rows_loss() -> None:
    model, X, y = MLP(hidden_sizes=[5], activation="tanh"), torch.rand(7, 28, 28), torch.arange(7)
    told = experiment.variances(model, X, y)
    X = X.double()
    H = model.net[1](model.net[0](((X - X.mean()) / X.std()).flatten(1))).detach()
    W = cast(torch.nn.Linear, model.net[2]).weight.detach()
    logits = model.net[2](H).detach()
    gradient = (logits.softmax(dim=1) - torch.nn.functional.one_hot(y, 10)) @ W
    assert told["gradient_variance"] == [pytest.approx(gradient.var().item())]
    assert told["activation_variance"] == [pytest.approx(H.var().item())]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_layers", "1"], "num_layers must be at least 2"),
        (["--width", "0"], "width must be positive"),
        (["--sigmas", "1", "-1"], "sigmas must be positive"),
        (["--sigmas", "1", "1.0"], "sigmas must be positive and each another"),
        (["--activations"], "activations must name each once"),
        (["--activation", "step"], "activation: "),
        (["--depths", "0"], "depths must be positive"),
        (["--num_matrices", "3000"], "take a smaller --num_matrices"),
        (["--depths", "300"], "take smaller --depths or other --sigmas"),
        (["--sigmas", "1e200"], "take smaller --depths or other --sigmas"),
        (["--sigmas", "0.1234567", "0.1234568"], "sigmas must differ in their first six digits"),
        (["--limit_test_batches", "0"], "leave nothing to test on"),
        (["--lr", "-1"], "lr must be positive"),
    ],
)
def test_bad_input(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data_dir", str(write(tmp_path / "data")), "--sigmas", "1.0", "--width", "64"]
    with pytest.raises(SystemExit) as stop:
        run_experiment(experiment.main, [*data, *flags, "--run_dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_flag_that_lightning_refuses_costs_no_earlier_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data_dir", str(write(tmp_path / "data")), *QUICK, "--activations", "relu"]
    run_results("initialization", tmp_path / "run", *flags)
    before = (tmp_path / "run" / "results.json").read_bytes()
    again = [*flags, "--run_dir", str(tmp_path / "run"), "--overwrite", "true", "--limit_val_batches", "0"]
    with pytest.raises(SystemExit) as stop:
        run_experiment(experiment.main, again)
    assert stop.value.code == 2
    assert "leaves nothing to evaluate on" in capsys.readouterr().err
    assert (tmp_path / "run" / "results.json").read_bytes() == before


def test_short_runs_tell_what_they_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data_dir", str(write(tmp_path / "data")), *QUICK, "--activations", "relu"]
    results = run_results("initialization", tmp_path / "run", *flags, "--max_steps", "1")
    assert results["symmetry"]["alike"]["val_accuracy"] >= 0
    assert "after 1 steps" in capsys.readouterr().out


@pytest.mark.slow
@needs_fashion_mnist
def test_what_the_section_tells_holds_on_the_real_data(tmp_path: Path) -> None:
    flags = ["--max_epochs", "2", "--depths", "5", "--activations", "relu"]
    results = run_results("initialization", tmp_path / "run", *flags)
    training = results["training"]
    assert training["kaiming"]["test_accuracy"] > 0.7
    assert training["normal_0.01"]["test_accuracy"] == pytest.approx(0.1, abs=0.01)  # gradients vanished
    assert training["normal_1"] == {
        "diverged": True,
        "test_accuracy": None,
        "test_loss": None,
    }  # they exploded
    relu = {name: told["relu"]["gradient_variance"]["first"] for name, told in results["schemes"].items()}
    assert relu["normal_0.01"] < 1e-15 < relu["xavier_normal"] < relu["kaiming"] < 1e10 < relu["normal_1"]
    symmetry = results["symmetry"]
    assert symmetry["alike"]["spread"] == 0  # to the bit
    assert symmetry["alike_with_dropout"]["spread"] > 0.005
    assert symmetry["alike"]["val_accuracy"] < 0.5 < 0.65 < symmetry["alike_with_dropout"]["val_accuracy"]
