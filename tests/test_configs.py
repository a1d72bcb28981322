"""Every shipped YAML file suits its script, holds only what differs, and gives the book's settings."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

from d2l_lightning.runs.cli import Experiment
from tests.conftest import ROOT, load_experiment

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))
ARGUMENTS = {
    "benchmark": ["kaggle_house"],
    "kaggle_table": ["--train", "train.csv", "--id", "Id", "--label", "price"],
    "predict": ["--run", "runs/houses", "--data", "new.csv"],
    "correct_shift": ["--source", "labelled.csv", "--target", "new.csv", "--label", "price"],
}


def experiment_of(config: Path) -> str:
    """Return the experiment whose name the config's begins with."""
    return max((name for name in EXPERIMENTS if config.stem.startswith(name)), key=len)


def settings(name: str, *flags: str) -> dict[str, Any]:
    """Return the values of an experiment's flags, lists for tuples."""
    parser = Experiment(load_experiment(name).main).parser
    values = vars(parser.parse_args([*ARGUMENTS.get(name, []), *flags]))
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_a_config_sets_flags_of_its_script_to_other_values_than_they_have_without_it(config: Path) -> None:
    name = experiment_of(config)
    held = yaml.safe_load(config.read_text()) or {}
    after = settings(name, "--config", str(config))
    assert {key: after[key] for key in held} == held
    parser = inspect.unwrap(Experiment)(load_experiment(name).main).parser  # not one that others use
    if config.stem == name:  # its values are the parser's defaults; without it, those of the code are
        parser.default_config = None
    before = parser.get_defaults()
    same = {key for key, value in held.items() if before[key] == value}
    assert same <= {"devices"}  # which some files hold alone, because a file without a key is refused


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_a_config_begins_with_a_comment(config: Path) -> None:
    assert config.read_text().startswith("# ")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_takes_the_config_of_its_name_by_default(name: str) -> None:
    config = ROOT / "configs" / f"{name}.yaml"
    by_default, given = settings(name), settings(name, "--config", str(config))
    assert {**by_default, "config": None} == {**given, "config": None}


BOOK: dict[str, dict[str, Any]] = {
    "kaggle_house": {
        **{"k": 5, "max_epochs": 100, "lr": 5, "weight_decay": 0, "batch_size": 64, "hidden_sizes": []},
    },
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
    "softmax_regression": {"batch_size": 256, "lr": 0.1, "max_epochs": 10, "validate_on_test": True},
    "mlp": {
        **{"hidden_sizes": [256], "activation": "relu", "batch_size": 256, "lr": 0.1, "max_epochs": 10},
        **{"sigma": 0.01, "validate_on_test": True},
    },
    "dropout": {
        **{"hidden_sizes": [256, 256], "dropouts": [0.2, 0.5], "batch_size": 256, "lr": 0.5},
        **{"max_epochs": 10, "sigma": 0.01, "validate_on_test": True},
    },
}


@pytest.mark.parametrize("name", BOOK)
def test_the_settings_are_the_books(name: str) -> None:
    config = ROOT / "configs" / f"{name}.yaml"
    values = settings(experiment_of(config), "--config", str(config))
    assert {key: values[key] for key in BOOK[name]} == BOOK[name]
