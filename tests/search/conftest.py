"""A PostgreSQL server, where it is installed."""

import os
from collections.abc import Iterator

import pytest

from tests.tools.postgres import find_programs, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Yield the URL of a PostgreSQL server."""
    programs = find_programs()
    if programs is None:
        assert "CI_HAS_POSTGRES" not in os.environ, "PostgreSQL was installed, but there is no initdb"
        pytest.skip("PostgreSQL is not installed: install Debian's package postgresql")
    with postgres_server(programs) as url:
        yield url
