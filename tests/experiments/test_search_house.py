"""The search for hyperparameters of the house-price job starts from its recipe."""

from pathlib import Path

import pytest
import yaml

from d2l_lightning.runs.cli import run_experiment
from tests.conftest import ROOT, load_experiment
from tests.experiments.test_settings import houses


@pytest.mark.usefixtures("no_figures")
def test_a_search_around_the_recipe_ends_with_a_recipe(tmp_path: Path) -> None:
    recipe = ROOT / "configs" / "kaggle_house_best.yaml"
    space = tmp_path / "space.yaml"
    space.write_text("metric: {name: val/log_rmse}\nparameters: {lr: {values: [0.1, 0.2]}}")
    flags = {"config": recipe, "space": space, "data_dir": houses(tmp_path / "houses", 0), "seed": 3}
    flags |= {"k": 2, "hidden_sizes": 2, "max_epochs": 1, "trials": 2, "confirm": 0, "logger": "none"}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    run_experiment(load_experiment("search_house").main, [*words, "--run_dir", str(tmp_path / "run")])
    best = yaml.safe_load((tmp_path / "run" / "best.yaml").read_text())
    expected = {**yaml.safe_load(recipe.read_text()), "seed": 3, "k": 2, "folds": "contiguous"}
    del expected["devices"]
    expected |= {"hidden_sizes": [2], "max_epochs": 1, "data_dir": str(flags["data_dir"])}
    assert best.pop("lr") in (0.1, 0.2)
    del expected["lr"]
    assert best == expected
