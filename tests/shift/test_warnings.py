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


# A share of 5 / n of the target may be uncovered by chance, where the source is small; else 5 %.
@pytest.mark.parametrize(("n", "limit"), [(20, 0.25), (50, 0.1), (100, 0.05), (101, 0.05), (5000, 0.05)])
def test_it_warns_of_target_rows_beyond_the_source(n: int, limit: float) -> None:
    assert kinds_of_warnings(n, n, 0.0) == []
    assert kinds_of_warnings(n, n, limit) == []
    assert kinds_of_warnings(n, n, limit + 1e-6) == ["uncovered"]
    assert kinds_of_warnings(n, n, 1.0) == ["uncovered"]


# Half of a small source's rows, 30 rows, or 5 % of a large one's.
@pytest.mark.parametrize(
    ("n", "limit"), [(10, 5), (40, 20), (60, 30), (61, 30), (100, 30), (600, 30), (601, 30.05), (4000, 200)]
)
def test_it_warns_of_weights_that_rest_on_few_rows(n: int, limit: float) -> None:
    assert kinds_of_warnings(n, n, 0.0) == []
    assert kinds_of_warnings(n, limit + 1e-6, 0.0) == []
    assert kinds_of_warnings(n, limit - 1e-6, 0.0) == ["few"]
    assert kinds_of_warnings(n, 1.0, 0.0) == ["few"]


def test_both_warnings_name_their_numbers() -> None:
    shift = EstimatedShift(torch.ones(1000), torch.zeros(1000), torch.zeros(5), 12.3, 0.257)
    uncovered, few = shift.warnings()
    assert uncovered.startswith("26% of the target's rows ")
    assert "worth 12 of its 1000 rows" in few
