"""The experiment on label shift estimates the class shares, and training with weights helps."""

from pathlib import Path

import pytest
import torch

from d2l_lightning.data.fashion_mnist import LABELS
from d2l_lightning.data.label_shift import LabelShiftedFashionMNIST
from d2l_lightning.models.mlp import MLP
from d2l_lightning.runs.cli import run_experiment
from tests.conftest import check_medians, load_experiment, needs_fashion_mnist, run_results
from tests.data.test_fashion_mnist import write

experiment = load_experiment("label_shift")


def quick(folder: Path) -> list[str]:
    data = ["--data_dir", str(write(folder, (400, 100))), "--num_target", "500"]
    return [*data, "--max_epochs", "10", "--batch_size", "8", "--lr", "0.5"]


@pytest.mark.figures
@pytest.mark.parametrize("soft", ["true", "false"])
def test_results_are_consistent_and_written(
    soft: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run_results("label_shift", tmp_path / "run", *quick(tmp_path / "data"), "--soft", soft)
    assert set(results["shares"]) == {"source", "target", "estimated"}
    for shares in results["shares"].values():
        assert list(shares) == list(LABELS)
        assert sum(shares.values()) == pytest.approx(1)
        assert min(shares.values()) >= 0
    gaps = [results["shares"]["estimated"][k] - results["shares"]["target"][k] for k in LABELS]
    assert results["total_variation"] == pytest.approx(sum(map(abs, gaps)) / 2)
    assert results["condition"] >= 1
    assert (tmp_path / "run" / "figures" / "shares.png").exists()
    for name in ("before", "after", "oracle"):
        assert (tmp_path / "run" / "checkpoints" / f"{name}.ckpt").exists()
    assert "Total variation distance" in capsys.readouterr().out


@pytest.mark.parametrize("soft", [True, False])
def test_the_estimate_follows_from_the_predictions_of_the_first_model(soft: bool, tmp_path: Path) -> None:
    flags = [*quick(tmp_path / "data"), "--max_epochs", "4", "--val_fraction", "0.3", "--sigma", "0.1"]
    results = run_results("label_shift", tmp_path / "run", *flags, "--soft", str(soft).lower())
    model = MLP.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "before.ckpt").eval()
    data = LabelShiftedFashionMNIST(str(tmp_path / "data"), val_fraction=0.3, num_target=500)
    data.setup()
    predicted = {}
    for stage in ("val", "test"):
        with torch.no_grad():
            logits = model(data.examples(data.rows[stage])[0])
        choices = torch.eye(10)[logits.argmax(dim=1)]
        predicted[stage] = (logits.softmax(dim=1) if soft else choices).double()
    held_out = data.labels[data.rows["val"]]
    # Column j is the mean prediction for rows of class j (eq. 4.9.8).
    C = torch.stack([predicted["val"][held_out == j].mean(dim=0) for j in range(10)], dim=1)
    assert results["condition"] == pytest.approx(torch.linalg.cond(C).item(), rel=1e-3)
    solved = torch.linalg.solve(C, predicted["test"].mean(dim=0)).clamp(min=0)
    estimated = torch.tensor(list(results["shares"]["estimated"].values())).double()
    torch.testing.assert_close(estimated, solved / solved.sum(), rtol=0, atol=1e-3)


def test_a_classifier_without_skill_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*quick(tmp_path / "data"), "--lr", "1e-9", "--run_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop:
        run_experiment(experiment.main, flags)
    assert stop.value.code == 2
    assert "the confusion matrix is singular or nearly so" in capsys.readouterr().err
    assert not (tmp_path / "run" / "results.json").exists()


def test_a_class_that_is_not_held_out_is_an_error_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*quick(tmp_path / "data"), "--val_fraction", "0.01", "--run_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop:
        run_experiment(experiment.main, flags)
    assert stop.value.code == 2
    assert "the held-out rows of the source lack the classes [" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@needs_fashion_mnist
def test_shares_are_estimated_and_weights_help_on_the_real_data(tmp_path: Path) -> None:
    def within(seed: int) -> dict[str, bool]:
        results = run_results("label_shift", tmp_path / str(seed), "--seed", str(seed), "--max_epochs", "3")
        gain = results["accuracy_after"] - results["accuracy_before"]
        return {"shares": results["total_variation"] <= 0.04, "gain": gain > 0}

    check_medians(within, seeds=3)
