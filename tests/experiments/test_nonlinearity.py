"""The experiment on nonlinearities: layers that collapse, linear pieces, and nonlinearities of a batch."""

from pathlib import Path

import pytest

from tests.conftest import run_results


@pytest.mark.figures
@pytest.mark.usefixtures("unsaved_figures")
def test_only_a_nonlinearity_fits_a_sine(tmp_path: Path) -> None:
    flags = ["--max_epochs", "60", "--num_rows", "64", "--lr", "0.03"]
    results = run_results("nonlinearity", tmp_path / "run", *flags)
    none, prelu, relu = results["fits"].values()
    line = results["straight_line_loss"]
    assert line <= none["loss"] * (1 + 1e-6)
    assert none["loss"] == pytest.approx(line, rel=0.05)
    assert none["kinks"] == []
    for fit in (prelu, relu):
        assert fit["loss"] < 0.5 * line
        assert fit["kinks"]
        assert fit["second_difference_within"] < 1e-12 < 0.1 < fit["second_difference_over_all"]
    assert results["collapse"]["rank"] == 5
    of_batch = results["batch"]
    assert max(of_batch["ReLU"]["std"]) == 0
    assert min(of_batch["standardised over the batch"]["std"]) > 0.01
    figures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert figures == {"fits", "batch_dependence"}
