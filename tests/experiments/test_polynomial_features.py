"""Features without 1/i! need tiny learning rates, and other bases mend that."""

from pathlib import Path

import pytest

from tests.conftest import run_results


@pytest.mark.figures
@pytest.mark.usefixtures("unsaved_figures")
def test_powers_alone_diverge_where_the_other_bases_learn(tmp_path: Path) -> None:
    flags = ["--max_epochs", "40", "--degree", "12", "--lrs", "1e-13", "0.001", "0.01"]
    results = run_results("polynomial_features", tmp_path / "run", *flags)
    bases = results["bases"]
    assert bases["powers"]["lr"] == [1e-13]
    assert bases["powers"]["greatest_feature"] > 1e4
    assert bases["factorial"]["lr"] == [1e-13, 0.001, 0.01]
    assert bases["powers"]["best_train_loss"] > 0.5 * results["initial_loss"]
    for basis in ("factorial", "standardized", "orthogonal"):
        assert bases[basis]["best_train_loss"] < 0.1 * results["initial_loss"], basis
    assert bases["orthogonal"]["condition_number"] == pytest.approx(1, rel=1e-4)
    assert bases["orthogonal"]["best_train_loss"] == pytest.approx(results["exact_loss"], rel=0.05)
    assert [path.stem for path in (tmp_path / "run" / "figures").iterdir()] == ["loss_by_rate"]


def test_no_learning_rate_may_be_small_enough(tmp_path: Path) -> None:
    flags = ["--max_epochs", "1", "--lrs", "1"]
    powers = run_results("polynomial_features", tmp_path / "run", *flags)["bases"]["powers"]
    assert powers["lr"] == powers["train_loss"] == []
    assert powers["best_lr"] is None
