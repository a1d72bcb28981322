"""The symmetry experiment: what equal initial weights do to perceptrons and to regression."""

from pathlib import Path

import pytest

from tests.conftest import needs_fashion_mnist, run_results
from tests.data.test_fashion_mnist import write


@pytest.mark.figures
@pytest.mark.usefixtures("unsaved_figures")
def test_equal_units_stay_equal_and_weights_of_0_stay_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data_dir", str(write(tmp_path / "data")), "--max_epochs", "3", "--batch_size", "16"]
    results = run_results("symmetry", tmp_path / "run", *flags)
    perceptrons = results["perceptrons"]
    assert perceptrons["alike"]["spread"] == 0 < perceptrons["alike"]["change"]
    assert perceptrons["alike_with_dropout"]["spread"] > 0
    assert perceptrons["zero"]["change"] == 0
    softmax, linear = results["regression"].values()
    assert softmax["all 1"] == pytest.approx(softmax["all 0"], rel=1e-5)
    assert linear["all 1"] == pytest.approx(linear["random"], rel=0.01)
    assert max(results["symmetries"].values()) < 1e-14
    assert [path.stem for path in (tmp_path / "run" / "figures").iterdir()] == ["symmetry"]
    assert "hidden units, after 12 steps" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
@needs_fashion_mnist
def test_dropout_breaks_the_symmetry_on_the_real_data(tmp_path: Path) -> None:
    results = run_results("symmetry", tmp_path / "run", "--max_epochs", "2")["perceptrons"]
    assert results["alike"]["spread"] == 0  # to the bit
    assert results["alike_with_dropout"]["spread"] > 0.005
    assert results["alike"]["val_accuracy"] < 0.5 < 0.65 < results["alike_with_dropout"]["val_accuracy"]
