"""The experiment with layer-wise rates: its results, its figures, and what the section claims."""

from pathlib import Path

import pytest
import torch

from d2l_lightning.models.mlp import MLP
from tests.conftest import load_experiment, needs_fashion_mnist, run_results
from tests.data.test_fashion_mnist import write

experiment = load_experiment("layer_rates")


@pytest.mark.figures
def test_results_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write(tmp_path / "data"))
    flags = ["--data_dir", folder, "--batch_size", "16", "--max_epochs", "2", "--width", "8"]
    flags += ["--num_layers", "4", "--sgd_lrs", "0.01", "1e30", "--lars_lrs", "1", "3"]
    results = run_results("layer_rates", tmp_path / "run", *flags)
    ratios = results["relative_gradients"]
    growth = [rescaled / even for even, rescaled in zip(*ratios.values(), strict=True)]
    # The outputs of odd layers are 30 times as large, so their gradients are 30 times smaller. Those of even
    # layers are as before: the gradients of the biases too, while those of the weights are 30 times larger.
    assert growth[::2] == pytest.approx([1 / 900] * 2, rel=1e-3)
    assert all(30 < each < 900 for each in growth[1::2])
    fits = results["fits"]
    assert list(fits) == ["SGD, kaiming", "SGD, rescaled", "LARS, kaiming", "LARS, rescaled"]
    assert fits["SGD, kaiming"]["val_accuracy"]["1e+30"] is None
    assert fits["SGD, kaiming"]["best_lr"] == 0.01
    for name, found in fits.items():
        if name != "SGD, rescaled":
            assert len(found["best_losses"]) == 2
            best = found["val_accuracy"][f"{found['best_lr']:g}"]
            assert found["best_accuracy"] == best == max(v or 0 for v in found["val_accuracy"].values())
    figures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert figures == {"gradients", "accuracies", "losses"}
    assert "multiplied by 30" in capsys.readouterr().out


@pytest.mark.parametrize("num_layers", [2, 6])
def test_a_rescaled_network_computes_the_same(num_layers: int) -> None:
    torch.manual_seed(0)
    model, X = (
        MLP(12, 3, [8] * (num_layers - 1), initialization="kaiming").double(),
        torch.rand(5, 12).double(),
    )
    before, weight = model(X), model.net[0].weight.clone()
    torch.testing.assert_close(experiment.rescale(model, 30.0)(X), before)
    torch.testing.assert_close(model.net[0].weight, weight * 30)


@pytest.mark.slow
@needs_fashion_mnist
def test_lars_trains_badly_scaled_layers_as_well_as_others(tmp_path: Path) -> None:
    rates = ["--sgd_lrs", "0.003", "0.01", "--lars_lrs", "0.1", "0.3"]
    fits = run_results("layer_rates", tmp_path / "run", *rates)["fits"]
    sgd, lars = (fits[f"{name}, rescaled"]["val_accuracy"] for name in ("SGD", "LARS"))
    assert sgd["0.01"] is None
    even = fits["LARS, kaiming"]["val_accuracy"]
    # Over four seeds these differ by at most 0.01, and the best accuracies by at least 0.12.
    assert all(lars[lr] == pytest.approx(even[lr], abs=0.02) for lr in lars)
    assert fits["LARS, rescaled"]["best_accuracy"] > fits["SGD, rescaled"]["best_accuracy"] + 0.05
