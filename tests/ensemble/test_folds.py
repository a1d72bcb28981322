"""Every row is in one validation fold and in no training rows of that fold; no row is dropped."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, StratifiedKFold
from torch import Tensor

from d2l_lightning.ensemble.folds import group_k_fold, k_fold, make_folds, stratified_k_fold
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


SEEDS = st.integers(0, 2**31)
GROUPS = st.lists(st.integers(0, 9), min_size=2, max_size=60).filter(lambda groups: len(set(groups)) > 1)


def check_partition(n: int, k: int, train: list[Tensor], val: list[Tensor]) -> None:
    assert len(train) == len(val) == k
    assert torch.cat(val).sort().values.tolist() == list(range(n))
    for t, v in zip(train, val, strict=True):
        assert torch.cat([t, v]).sort().values.tolist() == list(range(n))
        assert t.tolist() == sorted(t.tolist())
        assert v.tolist() == sorted(v.tolist())


@given(SIZES, SEEDS, st.data())
def test_stratified_folds_have_the_same_quantiles(
    size: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    n, k = size
    y = torch.tensor(data.draw(st.permutations(range(n)))).float()
    train, val = stratified_k_fold(y, k, seed)
    check_partition(n, k, train, val)
    for threshold in range(n + 1):
        below = [int((y[rows] < threshold).sum()) for rows in val]
        assert max(below) - min(below) <= 1


def test_stratified_folds_have_as_many_rows_of_each_class_as_those_of_sklearn() -> None:
    y = torch.randint(5, (203,), generator=torch.Generator().manual_seed(0)).float()
    _, val = stratified_k_fold(y, 4)
    theirs = StratifiedKFold(4, shuffle=True, random_state=0).split(y[:, None], y.long())
    for rows, (_, their_rows) in zip(val, theirs, strict=True):
        difference = torch.bincount(y[rows].long()) - torch.bincount(y[their_rows].long())
        assert difference.abs().max() <= 2


def test_equal_labels_are_dealt_at_random() -> None:
    first, other = (stratified_k_fold(torch.zeros(100), 4, seed)[1][0] for seed in (1, 2))
    assert first.tolist() != list(range(25))
    assert not torch.equal(first, other)


@given(GROUPS, st.none() | SEEDS, st.data())
def test_no_group_is_split(groups: list[int], seed: int | None, data: st.DataObject) -> None:
    k = data.draw(st.integers(2, len(set(groups))))
    train, val = group_k_fold(groups, k, seed)
    check_partition(len(groups), k, train, val)
    in_fold = [{groups[row] for row in rows.tolist()} for rows in val]
    assert all(in_fold)
    assert sum(map(len, in_fold)) == len(set(groups))
    sizes = [len(rows) for rows in val]
    assert max(sizes) - min(sizes) <= max(Counter(groups).values())


@given(GROUPS)
def test_group_folds_have_the_sizes_of_those_of_sklearn(groups: list[int]) -> None:
    k = min(3, len(set(groups)))
    _, val = group_k_fold(groups, k)
    theirs = GroupKFold(k).split(groups, groups=groups)
    assert sorted(len(rows) for rows in val) == sorted(len(rows) for _, rows in theirs)


def test_group_folds_with_other_seeds_are_other_folds() -> None:
    groups = [f"group {i}" for i in range(12) for _ in range(i + 1)]  # of 12 sizes
    folds = {seed: [rows.tolist() for rows in group_k_fold(groups, 3, seed)[1]] for seed in range(4)}
    assert len({str(rows) for rows in folds.values()}) == 4
    assert folds[0] == [rows.tolist() for rows in group_k_fold(groups, 3, 0)[1]]
    assert all(max(map(len, rows)) - min(map(len, rows)) <= 7 for rows in folds.values())


@pytest.mark.parametrize("k", [1, 4])
def test_fewer_groups_than_folds_are_an_error(k: int) -> None:
    with pytest.raises(InputError, match=rf"^k must be from 2 to the number of groups, 3; it is {k}$"):
        group_k_fold(["a", "b", "c", "a", "b"], k)


Y = torch.linspace(0, 1, 40)


def streets(column: str) -> list[str]:
    return [f"{column} {row % 17}" for row in range(40)]


@pytest.mark.parametrize("folds", ["shuffled", "stratified", "group:street"])
def test_repeated_folds_begin_with_those_that_are_not_repeated(folds: str) -> None:
    once, many = (make_folds(folds, 4, Y, repeats, 3, streets) for repeats in (1, 3))
    assert once[2] == ["fold_1", "fold_2", "fold_3", "fold_4"]
    assert many[2][:2] == ["fold_1_repeat_1", "fold_2_repeat_1"]
    assert many[2][-1] == "fold_4_repeat_3"
    assert len(set(many[2])) == len(many[2]) == 12
    for first, rows in zip(once[:2], many[:2], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, rows[:4], strict=True))
    for repeat in range(3):
        part = slice(4 * repeat, 4 * repeat + 4)
        check_partition(40, 4, many[0][part], many[1][part])
    assert len({str(rows.tolist()) for rows in many[1]}) == 12


def test_folds_by_name_are_those_of_the_functions() -> None:
    expected = {
        "contiguous": k_fold(40, 5),
        "shuffled": k_fold(40, 5, 3),
        "stratified": stratified_k_fold(Y, 5, 3),
        "group:street": group_k_fold(streets("street"), 5, 3),
    }
    for folds, (_, val) in expected.items():
        made = make_folds(folds, 5, Y, seed=3, groups=streets)[1]
        assert all(torch.equal(a, b) for a, b in zip(made, val, strict=True))


@pytest.mark.parametrize("folds", ["group", "group:", "random", "stratified:street", ""])
def test_unknown_folds_are_an_error(folds: str) -> None:
    with pytest.raises(InputError, match=f"^folds must be contiguous, .* or group:COLUMN, not '{folds}'$"):
        make_folds(folds, 5, Y, groups=streets)


def test_contiguous_folds_cannot_be_repeated() -> None:
    with pytest.raises(InputError, match=r"^contiguous folds are the same in all 2 repeats; use "):
        make_folds("contiguous", 5, Y, repeats=2)
    with pytest.raises(InputError, match=r"^repeats must be positive, not 0$"):
        make_folds("shuffled", 5, Y, repeats=0)
