"""Features that are not standardised suit lower learning rates, and the others have those of kaggle_house."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.conftest import empty_file, run_results
from tests.experiments.test_settings import houses


@pytest.mark.figures
def test_features_that_are_not_standardised_suit_lower_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Figure, "savefig", empty_file)
    flags = ["--lrs", "5", "0.02", "1e38", "--k", "2", "--max_epochs", "20"]
    results = run_results("standardization", tmp_path / "run", *flags)
    found = {name: {e["lr"]: e["val_log_rmse"] for e in results[name]} for name in list(results)[:2]}
    assert [e["lr"] for e in results["standardised"]] == [0.02, 5, 1e38]
    assert found["standardised"][5] < 1.5 < 5 < found["standardised"][0.02]
    assert found["not_standardised"][0.02] < 1
    assert found["not_standardised"][0.02] < found["standardised"][0.02] / 4
    assert {each[1e38] for each in found.values()} == {None}  # diverged, and did not end the run
    assert list(results["deviations"]) == ["KitchenAbvGr", "LotArea"]
    assert (tmp_path / "run" / "figures" / "learning_rates.png").exists()


def test_the_rates_of_standardised_features_are_those_of_kaggle_house(tmp_path: Path) -> None:
    few = str(houses(tmp_path / "houses", 0))
    flags = ["--k", "2", "--max_epochs", "5", "--seed", "1", "--data_dir", few]
    own = run_results("standardization", tmp_path / "own", "--lrs", "5", *flags)
    job = run_results("kaggle_house", tmp_path / "job", *flags)
    (fold,) = own["standardised"]
    for stage in ("train", "val"):  # the orders of the rows differ
        assert fold[f"{stage}_log_rmse"] == pytest.approx(job[f"{stage}_log_rmse"], rel=0.02)
    assert job["shapes"] == {"train": [122, 81], "test": [122, 80]}
