"""Probabilities of missing values have the share that is asked for, and grow with the rank of the value."""

import pytest
import torch
from scipy import stats

from d2l_lightning.errors import InputError
from d2l_lightning.functional.missing import missing_probabilities

VALUES = torch.randint(0, 300, (1000,), generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize(("share", "strength"), [(0.3, 2.0), (0.5, 1.0), (0.2, 0.0), (0.1, 0.5)])
def test_probabilities_are_the_formula_with_scipys_ranks(share: float, strength: float) -> None:
    probabilities = missing_probabilities(VALUES, share, strength)
    ranks = torch.from_numpy((stats.rankdata(VALUES) - 0.5) / len(VALUES))
    torch.testing.assert_close(probabilities, share * (1 + strength) * ranks**strength)
    assert probabilities.mean().item() == pytest.approx(share, rel=1e-3)


@pytest.mark.parametrize(
    ("share", "strength", "message"),
    [
        (0.0, 1.0, "share must be between 0 and 1, not 0.0"),
        (0.5, -1.0, "strength must not be negative"),
        (0.4, 2.0, "strength must be at most 1.5 with the share 0.4; it is 2.0"),
    ],
)
def test_impossible_probabilities_are_an_error(share: float, strength: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        missing_probabilities(VALUES, share, strength)
