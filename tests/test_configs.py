"""Every shipped YAML is one that its script takes."""

from pathlib import Path

import pytest
import yaml

from d2l_lightning.run import run_parser
from tests.conftest import ROOT, load_experiment

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))
ARGUMENTS = {"benchmark": ["kaggle_house"]}


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


def test_the_house_job_runs_with_the_books_settings() -> None:
    told = yaml.safe_load((ROOT / "configs" / "kaggle_house.yaml").read_text())
    book = {"k": 5, "max_epochs": 100, "lr": 5, "weight_decay": 0, "batch_size": 64, "hidden_sizes": []}
    assert {key: told[key] for key in book} == book
