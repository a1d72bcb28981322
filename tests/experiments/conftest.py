"""Experiments draw figures only in the tests that look at them: drawing takes as long as a short training."""

import pytest


@pytest.fixture(autouse=True)
def _figures(request: pytest.FixtureRequest) -> None:
    """Draw no figures in a test without the mark ``figures``."""
    if request.node.get_closest_marker("figures") is None:
        request.getfixturevalue("no_figures")
