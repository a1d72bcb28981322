"""Runs that several tests predict with."""

from pathlib import Path

import pytest

from tests.tools.house_runs import write_house_run


@pytest.fixture(scope="session")
def house_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_house_run(tmp_path_factory.mktemp("runs") / "houses")


@pytest.fixture(scope="session")
def run_of_own_statistics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run in which each fold scales the columns by its own rows."""
    return write_house_run(
        tmp_path_factory.mktemp("runs") / "own", k=2, statistics="train", hidden_sizes=[4], dropout=0.5
    )
