"""Methods are compared on the same folds, each with settings of its own."""

from pathlib import Path

import pandas as pd
import pytest

from d2l_lightning.ensemble.folds import k_fold
from tests.conftest import run_results
from tests.experiments.test_settings import houses


def test_the_book_has_the_scores_of_its_own_job(tmp_path: Path) -> None:
    flags = ("--data_dir", str(houses(tmp_path / "houses", 0)), "--k", "2", "--max_epochs", "2")
    # The model of all rows takes more steps than a fold, so that it does not change the order of their rows.
    of_job = run_results("kaggle_house", tmp_path / "job", *flags)
    found = run_results("house_comparison", tmp_path / "run", *flags, "--methods", "lasso", "book")
    assert list(found["methods"]) == ["lasso", "book"]
    book = found["methods"]["book"]
    assert book["folds"] == pytest.approx([fold["val_log_rmse"] for fold in of_job["folds"]], rel=1e-5)
    assert book["mean"] == pytest.approx(of_job["val_log_rmse"], rel=1e-5)
    sizes = [len(rows) for rows in k_fold(122, 2)[1]]
    squares = [size * score**2 for size, score in zip(sizes, book["folds"], strict=True)]
    assert book["pooled"] == pytest.approx((sum(squares) / 122) ** 0.5, rel=1e-6)
    table = pd.read_csv(tmp_path / "run" / "comparison.csv").set_index("method")
    for method, values in found["methods"].items():
        assert table.loc[method, ["fold_1", "fold_2"]].tolist() == pytest.approx(values["folds"])
        assert table.loc[method, "mean_log_rmse"] == pytest.approx(values["mean"])
        assert table.loc[method, "pooled_log_rmse"] == pytest.approx(values["pooled"])
        assert table.loc[method, "cpu_seconds"] == pytest.approx(values["cpu_seconds"])
