"""Every shipped YAML is one that its script takes."""

from pathlib import Path

import pytest
import yaml

from d2l_lightning.run import run_parser
from tests.conftest import ROOT, load_experiment

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))
ARGUMENTS = {
    "benchmark": ["kaggle_house"],
    "correct_shift": ["--source", "labelled.csv", "--target", "new.csv", "--label", "price"],
}


def experiment_of(config: Path) -> str:
    """Return the experiment whose name the config's begins with."""
    return max((name for name in EXPERIMENTS if config.stem.startswith(name)), key=len)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_a_config_is_one_that_its_script_takes(config: Path) -> None:
    name = experiment_of(config)
    parser = run_parser(load_experiment(name).main, name)
    flags = parser.parse_args(["--config", str(config), *ARGUMENTS.get(name, [])])
    told = yaml.safe_load(config.read_text())
    assert told
    assert {key: flags[key] for key in told} == told
    assert config.read_text().startswith("# ")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_a_config_and_runs_with_it_by_default(name: str) -> None:
    flags = run_parser(load_experiment(name).main, name).parse_args(ARGUMENTS.get(name, []))
    told = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    assert {key: flags[key] for key in told} == told


BOOK = {
    "linear_regression": {
        **{"w": [2.0, -3.4], "b": 4.2, "noise": 0.01, "num_train": 1000},
        **{"lr": 0.03, "max_epochs": 3, "sigma": 0.01, "batch_size": 32},
    },
    "polynomial_regression": {
        **{"w": [5.0, 1.2, -3.4, 5.6], "noise": 0.1, "num_train": 100, "num_val": 100},
        **{"degrees": [3, 1, 19], "epochs": [400, 400, 1500], "batch_size": 10, "lr": 0.01},
    },
    "weight_decay": {
        **{"num_inputs": 200, "num_train": 20, "num_val": 100, "batch_size": 5},
        **{"lr": 0.01, "max_epochs": 10, "sigma": 0.01, "lambdas": [0.0, 3.0]},
    },
    "weight_decay_4_5": {
        **{"num_inputs": 200, "num_train": 20, "num_val": 100, "batch_size": 5},
        **{"lr": 0.003, "max_epochs": 100, "sigma": 1.0, "lambdas": [0.0, 3.0]},
    },
}


@pytest.mark.parametrize("name", BOOK)
def test_the_regression_chapter_runs_with_the_books_settings(name: str) -> None:
    told = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    assert {key: told[key] for key in BOOK[name]} == BOOK[name]


def test_the_house_job_runs_with_the_books_settings() -> None:
    told = yaml.safe_load((ROOT / "configs" / "kaggle_house.yaml").read_text())
    book = {"k": 5, "max_epochs": 100, "lr": 5, "weight_decay": 0, "batch_size": 64, "hidden_sizes": []}
    assert {key: told[key] for key in book} == book
