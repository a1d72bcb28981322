"""The pseudorandom permutation: one to one, as many orders as keys, and no place preferred."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2l_lightning.errors import InputError
from d2l_lightning.functional.permutation import ROUNDS, permute, unevenness

KEYS = st.lists(st.integers(0, 2**32 - 1), min_size=ROUNDS, max_size=ROUNDS)


def reference(index: int, n: int, keys: list[int]) -> int:
    """Return what the permutation does to one number, by Python's whole numbers."""
    lefts = math.ceil(math.sqrt(n))
    rights = math.ceil(n / lefts)

    def mixed(value: int, key: int) -> int:
        value = (value + key) % 2**32
        value = (value ^ value // 2**16) * 0x85EBCA6B % 2**32
        value = (value ^ value // 2**13) * 0xC2B2AE35 % 2**32
        return value ^ value // 2**16

    while True:
        left, right = divmod(index, rights)
        for left_key, right_key in zip(keys[::2], keys[1::2], strict=True):
            left = (left + mixed(right, left_key)) % lefts
            right = (right + mixed(left, right_key)) % rights
        index = left * rights + right
        if index < n:
            return index


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), KEYS)
def test_every_number_comes_once_and_is_that_of_the_definition(n: int, keys: list[int]) -> None:
    permuted = permute(torch.arange(n), n, keys)
    assert permuted.sort().values.tolist() == list(range(n))
    assert permuted.tolist() == [reference(index, n, keys) for index in range(n)]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 2**62), KEYS, st.data())
def test_a_part_of_a_huge_range_is_permuted_without_the_rest(
    n: int, keys: list[int], data: st.DataObject
) -> None:
    indices = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20, unique=True))
    permuted = permute(torch.tensor(indices), n, keys).tolist()
    assert len({*permuted}) == len(indices)
    assert all(0 <= number < n for number in permuted)
    assert permute(torch.tensor(indices[:1]), n, keys).tolist() == permuted[:1]


def test_all_orders_of_four_numbers_are_as_frequent_as_those_of_a_fair_shuffle() -> None:
    keys = torch.randint(2**32, (1200, ROUNDS), generator=torch.Generator().manual_seed(0)).tolist()
    counts = Counter(tuple(permute(torch.arange(4), 4, own).tolist()) for own in keys)
    assert len(counts) == 24
    # A chi-squared value with 23 degrees of freedom is above 49.7 once in a thousand times.
    assert sum((count - 50) ** 2 / 50 for count in counts.values()) < 49.7


def test_where_a_number_goes_says_nothing_about_its_neighbour() -> None:
    n = 10_000
    permuted = permute(torch.arange(n), n, range(100, 100 + ROUNDS)).double()
    for order in (torch.arange(n).double(), permuted.roll(1)):
        correlation = torch.corrcoef(torch.stack([permuted, order]))[0, 1]
        assert abs(correlation) < 4 / math.sqrt(n)
    assert (permuted == torch.arange(n)).sum() < 8  # one number in the mean stays where it is


def test_bad_arguments_are_errors() -> None:
    for indices, n, keys, message in (
        ([0], 0, range(8), "n must be positive"),
        ([3], 3, range(8), "indices must be from 0 to 2"),
        ([-1], 3, range(8), "indices must be from 0 to 2"),
        ([0], 3, range(3), "needs at least 4 keys, not 3"),
        ([0], 2**62 + 1, range(8), "n must be at most 2"),
    ):
        with pytest.raises(InputError, match=message):
            permute(torch.tensor(indices), n, keys)


def test_a_fair_shuffle_is_even_and_the_order_of_the_file_is_not() -> None:
    n, size, generator = 6000, 20, torch.Generator().manual_seed(0)
    fair = [unevenness(torch.randperm(n, generator=generator), size) for _ in range(20)]
    assert sum(fair) / len(fair) == pytest.approx(1, abs=0.03)
    of_few = [unevenness(torch.randperm(60, generator=generator), size) ** 2 for _ in range(800)]
    assert sum(of_few) / len(of_few) == pytest.approx(1, rel=0.1)
    # The means of 300 batches in order are 300 equidistant numbers.
    assert unevenness(torch.arange(n), size) == pytest.approx(math.sqrt(size), rel=0.01)
    assert math.isnan(unevenness(torch.arange(30), size))
