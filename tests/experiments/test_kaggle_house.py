"""The house job reaches the book's figures."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from d2l_lightning.runs.cli import run_experiment
from tests.conftest import load_experiment

pytestmark = pytest.mark.slow
experiment = load_experiment("kaggle_house")


def results_of(folder: Path, *flags: str) -> dict[str, Any]:
    run_experiment(experiment.main, ["--accelerator", "cpu", "--run_dir", str(folder), *flags])
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())["results"]
    return results


@pytest.mark.parametrize("seed", [0, 1])
def test_the_books_settings_give_the_books_figures(tmp_path: Path, seed: int) -> None:
    results = results_of(tmp_path / "run", "--seed", str(seed))
    assert results["shapes"] == {"train": [1460, 81], "test": [1459, 80]}
    assert (results["columns"], results["features"]) == (79, 331)
    assert results["train_log_rmse"] == pytest.approx(0.165080, abs=0.003)
    assert results["val_log_rmse"] == pytest.approx(0.170157, abs=0.003)
    assert results["final_train_log_rmse"] == pytest.approx(0.162503, abs=0.003)
    book = [0.157272, 0.188484, 0.167722, 0.154572, 0.182737]
    assert [fold["val_log_rmse"] for fold in results["folds"]] == pytest.approx(book, abs=0.006)
    # The sanity check of Section 4.10.8: predictions that resemble the known prices.
    prices = pd.read_csv(tmp_path / "run" / "submission.csv")["SalePrice"]
    assert prices.median() == pytest.approx(163_000, rel=0.08)
    assert prices.max() < 1_500_000


def test_the_perceptron_beats_the_book(tmp_path: Path) -> None:
    results = results_of(tmp_path / "run", "--config", "configs/kaggle_house_mlp.yaml")
    assert results["val_log_rmse"] < 0.145
    assert all(fold["val_log_rmse"] < 0.2 for fold in results["folds"])


def test_statistics_of_the_training_rows_alone_change_little(tmp_path: Path) -> None:
    results = results_of(tmp_path / "run", "--statistics", "train")
    assert results["val_log_rmse"] == pytest.approx(0.170157, abs=0.006)
    assert results["features"] == 331


def test_the_recipe_has_its_figures(tmp_path: Path) -> None:
    flags = ["--config", "configs/kaggle_house_best.yaml", "--final_models", "1"]
    results = results_of(tmp_path / "run", *flags, "--check_val_every_n_epoch", "50")
    assert results["features"] == 402
    assert 0.1 < results["val_log_rmse"] < 0.107
    assert results["mean_pooled_val_log_rmse"] == pytest.approx(results["val_log_rmse"], abs=0.001)
    assert results["final_train_log_rmse"] == pytest.approx(0.087, abs=0.004)
