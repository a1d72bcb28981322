"""Values missing at random: all methods agree. Not at random: an indicator helps where the mean is wrong."""

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from tests.conftest import empty_file, run_results
from tests.experiments.test_settings import houses


@pytest.mark.figures
def test_the_mean_is_wrong_only_where_values_are_not_missing_at_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Figure, "savefig", empty_file)
    results = run_results("missing_values", tmp_path / "run", "--draws", "2", "--max_epochs", "15")
    at_random, by_size = results["at_random"], results["not_at_random"]
    assert at_random["mean"]["log_rmse"] == pytest.approx(at_random["indicator"]["log_rmse"], abs=0.004)
    assert results["complete"]["log_rmse"] < at_random["mean"]["log_rmse"] - 0.02
    assert by_size["indicator"]["log_rmse"] < by_size["mean"]["log_rmse"] - 0.02
    assert by_size["mean"]["price_ratio_missing"] < 0.88
    assert by_size["indicator"]["price_ratio_missing"] == pytest.approx(1, abs=0.04)
    assert by_size["mean_of_missing"] > 1.3 * by_size["mean_of_others"]
    assert at_random["mean_of_missing"] == pytest.approx(at_random["mean_of_others"], rel=0.05)
    assert (tmp_path / "run" / "figures" / "missing_values.png").exists()


def test_all_flags_have_their_effects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = houses(tmp_path / "houses", 0)
    own = ["--data_dir", str(few), "--max_epochs", "1"]
    small = [*own, "--draws", "1", "--k", "2"]
    before = run_results("missing_values", tmp_path / "before", *small)
    others = ["--columns", "LotArea", "GrLivArea", "--share", "0.6", "--strength", "0.5", "--seed", "3"]
    after = run_results("missing_values", tmp_path / "after", *own, "--draws", "3", "--k", "3", *others)
    area = pd.read_csv(few / "train.csv")["LotArea"].mean()
    for pattern in ("at_random", "not_at_random"):
        for method in ("mean", "median", "indicator"):
            assert len(before[pattern][method]["draws"]) == 1
            assert len(set(after[pattern][method]["draws"])) == 3
    assert "60% of LotArea missing" in capsys.readouterr().out
    assert after["at_random"]["mean_of_others"] == pytest.approx(area, rel=0.2)
    again = run_results(
        "missing_values", tmp_path / "again", *small[:-1], "3", "--share", "0.1", "--strength", "0"
    )
    assert again["complete"] != before["complete"]  # by the number of folds
    assert again["not_at_random"]["mean_of_missing"] < 0.9 * before["not_at_random"]["mean_of_missing"]
