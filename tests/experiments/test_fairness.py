"""Fairness: the errors of groups, the costs of decisions, and the feedback loop are what the section says."""

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from tests.conftest import empty_file, run_results
from tests.experiments.test_settings import houses


@pytest.mark.figures
def test_the_default_shows_what_the_section_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", empty_file)
    own = ["--data_dir", str(houses(tmp_path / "houses", 0))]
    run = tmp_path / "run"
    results = run_results("fairness", run, *own, "--draws", "2", "--max_epochs", "15")
    groups = results["groups"]
    assert groups["one model"]["minority"] < groups["one model"]["majority"] - 0.15
    assert groups["one model"]["all"] > 0.78
    assert groups["equal weights"]["minority"] > groups["one model"]["minority"] + 0.1
    for group in ("all", "majority", "minority"):
        best = groups["true probabilities"][group]
        assert groups["knows the group"][group] == pytest.approx(best, abs=0.015)
    half, best = results["thresholds"]["half"], results["thresholds"]["from_costs"]
    assert best["threshold"] == pytest.approx(1 / 11)
    assert best["accuracy"] < half["accuracy"] - 0.1
    assert best["cost"] < half["cost"] / 2
    assert results["patrol_share"]["focused"] > 0.8
    assert results["patrol_share"]["proportional"] == pytest.approx(0.55, abs=0.02)
    assert results["patrol_share"]["corrected"] == pytest.approx(0.5, abs=0.02)
    by_group = pd.read_csv(run / "houses_by_group.csv")
    assert by_group["rows"].sum() == 122
    pooled = (by_group["rows"] * by_group["log_rmse"] ** 2).sum() / 122
    assert results["houses"]["log_rmse"] == pytest.approx(pooled**0.5)
    names = {path.stem for path in (run / "figures").iterdir()}
    assert names == {"groups", "thresholds", "feedback", "houses"}


def test_all_flags_have_their_effects(tmp_path: Path) -> None:
    own = ["--data_dir", str(houses(tmp_path / "houses", 0)), "--max_epochs", "1"]
    flags = {
        "minority": "0.9",
        "num_train": "100",
        "draws": "1",
        "false_positive": "2",
        "false_negative": "3",
    }
    flags |= {"start": "0.7", "focus": "0.5", "rounds": "1", "group_by": "Street", "seed": "2"}
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    results = run_results("fairness", tmp_path / "run", *own, *words)
    for each in results["thresholds"].values():
        assert each["cost"] == pytest.approx(2 * each["false_positive"] + 3 * each["false_negative"])
        assert each["accuracy"] == pytest.approx(1 - each["false_positive"] - each["false_negative"])
    assert results["thresholds"]["from_costs"]["threshold"] == pytest.approx(0.4)
    # The share of a majority of 10 % and a minority of 90 % in all.
    truth = results["groups"]["true probabilities"]
    assert truth["all"] == pytest.approx(0.1 * truth["majority"] + 0.9 * truth["minority"], abs=0.003)
    # After one round, in proportion to the root of discoveries, 14 + 20 * share of 40 on average.
    first = 0.7**0.5 / (0.7**0.5 + 0.3**0.5)
    a, b = 14 + 20 * first, 6 + 20 * (1 - first)
    shares = results["patrol_share"]
    assert shares["focused"] == pytest.approx(a**0.5 / (a**0.5 + b**0.5), abs=0.01)
    assert shares["proportional"] == pytest.approx(0.7, abs=0.02)
    assert {each["group"] for each in results["houses"]["groups"]} <= {"Pave", "Grvl"}
