"""Polynomials fit, underfit and overfit as in the book."""

from pathlib import Path

import pytest
import torch

from d2l_lightning.data.regression import PolynomialData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.models.linear_regression import LinearRegression
from tests.conftest import lean_trainer, run_results


def medians(degree: int, epochs: int) -> tuple[list[float], float, float]:
    """Return weights, train and test loss with the settings of Section 4.4: medians over five seeds."""
    draws = [PolynomialData(degree, seed=seed) for seed in range(5)]
    torch.manual_seed(0)
    members = StackedModule([LinearRegression(degree + 1, 0.01, "squared", 0.01, bias=False) for _ in draws])
    rows = {stage: [of_stage] * 5 for stage, of_stage in draws[0].rows.items()}
    X, y = torch.stack([draw.X for draw in draws]), torch.stack([draw.y for draw in draws])
    lean_trainer(max_epochs=epochs).fit(members, StackedData(X, y, rows, 10, seed=0))
    weights = torch.stack([member.get_w_b()[0] for member in members.unstack()])  # type: ignore[operator]
    losses = [members.evaluated[f"{stage}/squared_loss"].median().item() for stage in ("train", "val")]
    return weights.median(dim=0).values.tolist(), losses[0], losses[1]


@pytest.mark.slow
def test_median_losses_over_five_seeds_are_as_in_section_4_4() -> None:
    w, train_3, test_3 = medians(3, epochs=400)
    assert w == pytest.approx([5, 1.2, -3.4, 5.6], rel=0, abs=0.1)
    _, train_1, _ = medians(1, epochs=400)
    assert train_1 > 100 * train_3
    _, train_19, test_19 = medians(19, epochs=300)  # the book's 1,500 epochs add nothing to this
    assert test_19 > 3 * train_19
    assert test_19 > test_3


QUICK = ["--degrees", "3", "1", "--epochs", "60", "5", "--max_epochs", "60", "--max_degree", "5", "--k", "4"]


@pytest.mark.figures
def test_results_are_those_of_the_checkpoints_and_of_the_folds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run_results("polynomial_regression", tmp_path / "run", *QUICK)
    fits = results["fits"]
    assert list(fits) == ["3", "1"]
    assert [len(fits[degree]["weights"]) for degree in fits] == [4, 2]
    data = PolynomialData(3)
    model = LinearRegression.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "degree_3.ckpt")
    assert fits["3"]["weights"] == model.get_w_b()[0].tolist()
    for stage, name in (("train", "train_loss"), ("val", "test_loss")):
        rows = data.rows[stage]
        half = model.loss(data.X[rows], data.y[rows]).item() / 2
        assert fits["3"][name] == pytest.approx(half, rel=1e-5)
    selection = results["selection"]
    assert len(selection["val_loss"]) == 6
    assert selection["degree"] == selection["val_loss"].index(min(selection["val_loss"]))
    assert min(selection["val_loss"][:3]) > max(selection["val_loss"][3:])  # less than a cubic cannot fit
    exact = selection["exact_train_loss"]
    assert all(least <= sgd for least, sgd in zip(exact, selection["train_loss"], strict=True))
    assert exact == sorted(exact, reverse=True)
    assert fits["3"]["exact_train_loss"] <= fits["3"]["train_loss"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "4.998" in printed
    assert "it has not converged after 60 epochs" in printed
    for value in (data.x[0], data.X[1, 3], data.y[1]):  # the first samples
        assert f"{value:.6f}" in printed
    figures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert figures == {"learning_curves", "loss_by_degree"}


def test_other_true_weights_and_few_rows(tmp_path: Path) -> None:
    flags = ["--num_train", "8", "--k", "2", "--w", "1", "-1", "--loss", "half_squared", "--max_degree", "10"]
    results = run_results("polynomial_regression", tmp_path / "run", *QUICK, *flags)
    assert results["half_squared"] == {}
    exact = results["selection"]["exact_train_loss"]
    assert len(exact) == 4  # four rows of each fold determine four weights
    assert exact[3] < 1e-12  # four weights go through four points


def test_high_degrees(tmp_path: Path) -> None:
    flags = ["--degrees", "60", "--epochs", "1", "--max_degree", "40", "--max_epochs", "1", "--lr", "0.001"]
    results = run_results("polynomial_regression", tmp_path / "run", *flags)
    selection = results["selection"]
    assert len(selection["val_loss"]) == len(selection["exact_train_loss"]) == 41
    exact = results["fits"]["60"]["exact_train_loss"]
    assert 0 < exact < selection["exact_train_loss"][40]
