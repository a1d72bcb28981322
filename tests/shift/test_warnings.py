"""The warnings of an estimated shift begin where their documentation says."""

import pytest
import torch

from d2l_lightning.shift.covariate import EstimatedShift


def kinds_of_warnings(n: int, effective: float, uncovered: float) -> list[str]:
    shift = EstimatedShift(torch.ones(n), torch.zeros(n), torch.zeros(5), effective, uncovered)
    return [
        "uncovered" if "look unlike any row of the source" in warning else "few"
        for warning in shift.warnings()
    ]


# The limit is 5 %, or 5 / n for a small source, where rows are uncovered by chance.
@pytest.mark.parametrize(("n", "limit"), [(20, 0.25), (50, 0.1), (100, 0.05), (101, 0.05), (5000, 0.05)])
def test_uncovered_target_rows_above_the_limit_give_a_warning(n: int, limit: float) -> None:
    assert kinds_of_warnings(n, n, 0.0) == []
    assert kinds_of_warnings(n, n, limit) == []
    assert kinds_of_warnings(n, n, limit + 1e-6) == ["uncovered"]
    assert kinds_of_warnings(n, n, 1.0) == ["uncovered"]


# The limit is half of the rows of a small source, 30 rows, or 5 % of the rows of a large one.
@pytest.mark.parametrize(
    ("n", "limit"), [(10, 5), (40, 20), (60, 30), (61, 30), (100, 30), (600, 30), (601, 30.05), (4000, 200)]
)
def test_an_effective_sample_size_below_the_limit_gives_a_warning(n: int, limit: float) -> None:
    assert kinds_of_warnings(n, n, 0.0) == []
    assert kinds_of_warnings(n, limit + 1e-6, 0.0) == []
    assert kinds_of_warnings(n, limit - 1e-6, 0.0) == ["few"]
    assert kinds_of_warnings(n, 1.0, 0.0) == ["few"]


def test_both_warnings_name_their_numbers() -> None:
    shift = EstimatedShift(torch.ones(1000), torch.zeros(1000), torch.zeros(5), 12.3, 0.257)
    uncovered, few = shift.warnings()
    assert uncovered.startswith("26% of the target's rows ")
    assert "worth 12 of its 1000 rows" in few
