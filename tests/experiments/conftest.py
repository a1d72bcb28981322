"""Experiments draw figures only in the tests that look at them: drawing takes as long as a short training."""

import pytest
from matplotlib.figure import Figure

from tests.conftest import empty_file


@pytest.fixture(autouse=True)
def _figures(request: pytest.FixtureRequest) -> None:
    """Draw no figures in a test without the mark ``figures``."""
    if request.node.get_closest_marker("figures") is None:
        request.getfixturevalue("no_figures")


@pytest.fixture
def unsaved_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make figures, but leave out most of the work: their pixels."""
    monkeypatch.setattr(Figure, "savefig", empty_file)
