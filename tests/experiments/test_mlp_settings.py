"""The experiment that varies one setting of the perceptron at a time."""

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.models.mlp import MLP
from tests.conftest import load_experiment, run_results
from tests.data.test_fashion_mnist import write

experiment = load_experiment("mlp_settings")


@pytest.mark.figures
def test_results_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write(tmp_path / "data"))
    flags = ["--data_dir", folder, "--batch_size", "16", "--max_epochs", "2", "--hidden_units", "8"]
    flags += ["--hidden_layers", "1", "--lrs", "0.1", "1e30", "--activations", "tanh", "--initializations"]
    results = run_results("mlp_settings", tmp_path / "run", *flags)
    settings, best = results["settings"], results["best"]
    assert [list(by_value) for by_value in settings.values()] == [
        *(["256", "8"], ["1"], ["0.1", "1e+30"], ["relu", "tanh"], ["normal"]),
    ]
    assert settings["learning rate"]["1e+30"] == []  # these diverged
    for setting, by_value in settings.items():
        means = {value: statistics.fmean(each or [0]) for value, each in by_value.items()}
        assert means[f"{best[setting]}"] == max(means.values())
        assert by_value[f"{experiment.BOOK[setting]}"] == results["models"]["book"]["val_accuracy"]
    data = FashionMNIST(folder)
    data.setup()
    X, y = data.examples(data.rows["test"])
    for name, found in results["models"].items():
        path = tmp_path / "run" / "checkpoints" / f"{name.replace(' ', '_')}.ckpt"
        model = MLP.load_from_checkpoint(path)
        accuracy = (model(X).argmax(dim=1) == y).float().mean().item()
        assert found["test_accuracy"][0] == pytest.approx(accuracy)
    assert {path.stem for path in (tmp_path / "run" / "figures").iterdir()} == {"accuracies"}
    assert "diverged" in capsys.readouterr().out


@pytest.mark.parametrize("initialization", ["normal", "kaiming", "default"])
def test_a_model_has_the_settings_that_are_changed(initialization: Any) -> None:
    model = experiment.make({"initialization": initialization, "hidden layers": 2, "hidden units": 7}, 5)
    torch.manual_seed(5)
    expected = MLP(784, 10, [7, 7], initialization="default")
    assert [layer.shape for layer in model.parameters()] == [layer.shape for layer in expected.parameters()]
    deviation = {"normal": 0.01, "kaiming": (2 / 784) ** 0.5, "default": (1 / (3 * 784)) ** 0.5}
    assert model.net[0].weight.std().item() == pytest.approx(deviation[initialization], rel=0.05)
    assert torch.equal(model.net[0].weight, expected.net[0].weight) == (initialization == "default")
