"""Exact polynomials: the degree at which the training loss is 0, and the amount of data."""

import statistics
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import run_results


@pytest.mark.figures
@pytest.mark.usefixtures("unsaved_figures")
def test_the_training_loss_falls_to_0_at_degree_n_minus_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run_results("exact_polynomials", tmp_path / "run")
    train, test = results["exact"]["train_loss"], results["exact"]["test_loss"]
    assert len(train) == 100
    assert all(after <= before for before, after in pairwise(train))
    assert results["zero_from_degree"] == 99
    assert train[98] > 1e-10
    assert test.index(min(test)) in (3, 4, 5)
    assert test[19] > 10 * test[3]
    amounts = results["amounts"]["3"]
    assert amounts["n"][-1] == 800
    assert amounts["train_loss"][0] < amounts["train_loss"][-1] < amounts["test_loss"][-1]
    assert amounts["test_loss"][-1] < amounts["test_loss"][0]
    half_noise = statistics.fmean([amounts["train_loss"][-1], amounts["test_loss"][-1]])
    assert half_noise == pytest.approx(0.005, rel=0.05)  # half the variance of the noise
    assert "no higher degree is determined" in " ".join(capsys.readouterr().out.split())
    figures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert figures == {"loss_by_degree", "loss_by_amount"}


def test_without_noise_the_test_loss_is_0_from_the_true_degree_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run_results("exact_polynomials", tmp_path / "run", "--noise", "0", "--max_degree", "4")
    test = results["exact"]["test_loss"]
    assert max(test[3:]) < 1e-10 < 0.1 < min(test[:3])  # the labels have single precision
    assert "Degree 99 has as many weights" in " ".join(capsys.readouterr().out.split())


def test_the_note_says_that_numbers_are_too_large(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--num_train", "400", "--max_degree", "399", "--degrees", "1"]
    results = run_results("exact_polynomials", tmp_path / "run", *flags)
    degree = len(results["exact"]["train_loss"])
    assert results["zero_from_degree"] is None
    note = f"The losses of degree {degree} are too large for double precision."
    assert note in " ".join(capsys.readouterr().out.split())
