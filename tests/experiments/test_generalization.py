"""The experiment on generalization: the bias of folds, zero errors, and a learning curve."""

from pathlib import Path

import pytest

from tests.conftest import run_results


@pytest.mark.figures
@pytest.mark.usefixtures("unsaved_figures")
def test_results_and_figures(tmp_path: Path) -> None:
    flags = ["--draws", "300", "--ks", "2", "10", "--your_rows", "120", "--your_features", "30"]
    results = run_results("generalization", tmp_path / "run", *flags)
    folds = results["k_fold"]
    for measured, error, theory in zip(folds["measured"], folds["error"], folds["theory"], strict=True):
        assert abs(measured - theory) < 5 * error
        assert theory > folds["loss_to_estimate"]
    assert folds["measured"][0] > folds["measured"][1]
    none = results["zero_error"]["0"]
    assert [loss < 1e-20 for loss in none["test_loss"]] == [n >= 10 for n in none["n"]]
    noisy = results["zero_error"]["1"]
    assert [loss < 1e-20 for loss in noisy["train_loss"]] == [n <= 10 for n in noisy["n"]]
    assert min(noisy["test_loss"]) > 0.4
    curve = results["learning_curve"]
    assert curve["more"]["loss"] == sorted(curve["more"]["loss"], reverse=True)
    assert curve["more"]["loss"][0] < curve["less"]["loss"][-1]
    figures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert figures == {"k_fold_bias", "zero_errors", "learning_curve"}
