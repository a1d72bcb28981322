"""Every row is in one validation fold and in no training rows of that fold; no row is dropped."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.errors import InputError

SIZES = st.integers(2, 80).flatmap(lambda n: st.tuples(st.just(n), st.integers(2, n)))


@given(SIZES, st.none() | st.integers(0, 2**31))
def test_every_row_is_in_one_validation_fold_and_in_the_training_rows_of_all_others(
    size: tuple[int, int], seed: int | None
) -> None:
    n, k = size
    train, val = k_fold(n, k, seed)
    assert len(train) == len(val) == k
    assert torch.cat(val).sort().values.tolist() == list(range(n))
    for t, v in zip(train, val, strict=True):
        assert sorted(t.tolist() + v.tolist()) == list(range(n))
    assert max(map(len, val)) - min(map(len, val)) <= 1


def test_contiguous_folds_match_the_book() -> None:
    train, val = k_fold(1460, 5)
    for fold, rows in enumerate(val):
        assert rows.tolist() == list(range(fold * 292, (fold + 1) * 292))
    assert train[1].tolist() == [*range(292), *range(584, 1460)]


def test_shuffled_folds_depend_only_on_the_seed() -> None:
    (_, first), (_, again), (_, other) = (k_fold(100, 4, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert first[0].tolist() != list(range(25))


@pytest.mark.parametrize("k", [-1, 0, 1, 11])
def test_k_out_of_range_is_an_error(k: int) -> None:
    with pytest.raises(InputError, match=rf"from 2 to the number of training rows, 10; it is {k}"):
        k_fold(10, k)
