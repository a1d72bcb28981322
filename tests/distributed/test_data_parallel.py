"""N processes give what one process gives."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distributed.fits import CASES, OF_THREE, Outcome
from tests.distributed.processes import in_processes


def run_cases(names: tuple[str, ...]) -> dict[str, Outcome]:
    return {name: CASES[name]() for name in names}


@pytest.fixture(scope="module")
def outcomes() -> dict[int, list[dict[str, Outcome]]]:
    """Return the outcomes of all cases by the number of processes, for each process."""
    return {
        1: [run_cases(tuple(CASES))],
        2: in_processes(2, run_cases, tuple(CASES)),
        3: in_processes(3, run_cases, OF_THREE),
    }


def same_bits(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same_bits, one, other))
    return one == other


@pytest.mark.parametrize(("name", "n"), [*((name, 2) for name in CASES), *((name, 3) for name in OF_THREE)])
def test_processes_give_what_one_gives(name: str, n: int, outcomes: Any) -> None:
    expected, *found = outcomes[1][0][name], *(each[name] for each in outcomes[n])
    tolerance = 1e-10 if "double" in name else 3e-3 if "half" in name else 1e-5
    for key, value in expected.items():
        for each in found:
            assert same_bits(each[key], found[0][key]), key
        if isinstance(value, int):
            assert found[0][key] == value, key
            continue
        ours, theirs = flat(found[0][key]), flat(value)
        assert ours.shape == theirs.shape, key
        scale = theirs.nan_to_num().abs().max()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * max(scale, 1e-3), equal_nan=True)


def flat(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.double().flatten()
    if isinstance(value, (list, tuple)):
        return torch.cat([flat(each) for each in value]) if value else torch.empty(0)
    return torch.tensor([float(value)], dtype=torch.double)
