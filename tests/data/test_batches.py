"""The rows of each batch: every row once an epoch, in an order given by seed and epoch."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from d2l_lightning.data.batches import (
    RowLoader,
    ShuffledBatches,
    StackedBatches,
    data_generator,
    epoch_generator,
    gather_from,
    shuffled_loader,
)
from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.errors import InputError

SEEDS = st.integers(0, 2**32 - 1)
EPOCHS = st.integers(0, 1000)


def member_orders(batches: StackedBatches) -> list[list[int]]:
    """Return the order of each member's rows in an epoch, without rows of weight 0."""
    orders: list[list[int]] = [[] for _ in batches.rows]
    for rows, weight in batches:
        for order, member_rows, member_weight in zip(orders, rows, weight, strict=True):
            order += member_rows[member_weight == 1].tolist()
    return orders


@settings(deadline=None)
@given(n=st.integers(1, 200), batch_size=st.integers(1, 250), seed=SEEDS, epoch=EPOCHS)
def test_shuffled_batches_have_every_row_once(n: int, batch_size: int, seed: int, epoch: int) -> None:
    batches = ShuffledBatches(n, batch_size, seed)
    batches.set_epoch(epoch)
    drawn = list(batches)
    assert torch.cat(drawn).sort().values.tolist() == list(range(n))
    assert len(drawn) == len(batches)
    assert all(len(batch) == batch_size for batch in drawn[:-1])
    assert 1 <= len(drawn[-1]) <= batch_size


def test_order_is_a_function_of_seed_and_epoch() -> None:
    orders = {}
    for seed in range(4):
        batches = ShuffledBatches(50, 7, seed)
        for epoch in (2, 0, 1, 3):  # not in sequence: an epoch does not depend on others
            batches.set_epoch(epoch)
            orders[seed, epoch] = tuple(torch.cat(list(batches)).tolist())
            batches.set_epoch(epoch)
            assert tuple(torch.cat(list(batches)).tolist()) == orders[seed, epoch]
    assert len(set(orders.values())) == 16
    assert tuple(torch.cat(list(ShuffledBatches(50, 7, 3))).tolist()) == orders[3, 0]


def test_the_global_generator_neither_changes_the_order_nor_is_changed() -> None:
    torch.manual_seed(1)
    first = torch.cat(list(ShuffledBatches(50, 7, 0)))
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after)
    assert torch.equal(torch.cat(list(ShuffledBatches(50, 7, 0))), first)


def test_first_place_is_uniform() -> None:
    """Each of 5 rows is first in a fifth of 2000 epochs: 400, with a standard deviation of 18."""
    batches = ShuffledBatches(5, 1, 0)
    counts = torch.zeros(5)
    for epoch in range(2000):
        batches.set_epoch(epoch)
        counts[next(iter(batches))] += 1
    assert (counts - 400).abs().max() < 5 * 18


def test_generators_of_neighbouring_seeds_and_epochs_differ() -> None:
    drawn = {
        (seed, epoch): torch.rand(1, generator=epoch_generator(seed, epoch)).item()
        for seed in range(20)
        for epoch in range(20)
    }
    assert len(set(drawn.values())) == 400


@settings(deadline=None)
@given(st.data())
def test_stacked_batches_have_every_row_of_every_member_once(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40), label="n")
    members = data.draw(
        st.lists(st.lists(st.integers(0, n - 1), min_size=1, unique=True), min_size=1, max_size=5),
        label="members",
    )
    batch_size = data.draw(st.integers(1, 50), label="batch_size")
    seed, epoch = data.draw(SEEDS, label="seed"), data.draw(EPOCHS, label="epoch")
    member_rows = [torch.tensor(rows) for rows in members]
    sizes = [len(rows) for rows in members]
    batches = StackedBatches(member_rows, batch_size, seed)
    batches.set_epoch(epoch)
    drawn = list(batches)
    assert len(drawn) == len(batches) == max(batches.steps)
    shape = (len(members), min(batch_size, max(sizes)))
    assert {(rows.shape, weight.shape) for rows, weight in drawn} == {(shape, shape)}
    rows, weight = (torch.stack(tensors) for tensors in zip(*drawn, strict=True))
    assert rows.dtype == torch.int64
    assert weight.dtype == torch.float32
    for place, member in enumerate(members):
        # The batches of a member alone, and then none.
        alone = [len(batch) for batch in ShuffledBatches(len(member), batch_size, seed)]
        assert batches.steps[place] == len(alone)
        filled = [[1.0] * size + [0.0] * (shape[1] - size) for size in alone]
        filled += [[0.0] * shape[1]] * (len(batches) - len(alone))
        assert weight[:, place].tolist() == filled
        kept = weight[:, place] == 1
        assert sorted(rows[:, place][kept].tolist()) == sorted(member)
        assert set(rows[:, place][~kept].tolist()) <= set(member)  # padding has no other member's rows


@settings(deadline=None)
@given(n=st.integers(1, 200), k=st.integers(1, 4), batch_size=st.integers(1, 250), seed=SEEDS, epoch=EPOCHS)
def test_the_first_member_with_all_rows_has_the_order_of_shuffled_batches(
    n: int, k: int, batch_size: int, seed: int, epoch: int
) -> None:
    alone = ShuffledBatches(n, batch_size, seed)
    stacked = StackedBatches([torch.arange(n)] * k, batch_size, seed)
    alone.set_epoch(epoch)
    stacked.set_epoch(epoch)
    for batch, (rows, weight) in zip(alone, stacked, strict=True):
        assert torch.equal(rows[0, : len(batch)], batch)
        assert weight[0].tolist() == [1.0] * len(batch) + [0.0] * (len(weight[0]) - len(batch))


def test_the_first_member_has_the_order_of_shuffled_batches_where_sort_keys_tie() -> None:
    n = 5000  # among so many float32 keys some are equal in most epochs
    alone, stacked = ShuffledBatches(n, 64, 0), StackedBatches([torch.arange(n)] * 3, 64, 0)
    ties = 0
    for epoch in range(5):
        alone.set_epoch(epoch)
        stacked.set_epoch(epoch)
        ties += n - len(torch.rand(n, generator=epoch_generator(0, epoch)).unique())
        assert torch.cat(list(alone)).tolist() == member_orders(stacked)[0]
    assert ties > 0


def test_each_member_has_its_own_order_for_each_seed_and_epoch() -> None:
    orders = []
    for seed in range(3):
        batches = StackedBatches([torch.arange(50)] * 3, 7, seed)
        for epoch in (1, 0):
            batches.set_epoch(epoch)
            orders += [tuple(order) for order in member_orders(batches)]
    assert len(set(orders)) == 18
    again = member_orders(StackedBatches([torch.arange(50)] * 3, 7, 2))
    assert [tuple(order) for order in again] == orders[-3:]


def test_a_member_with_fewer_rows_takes_fewer_steps() -> None:
    """64 rows fill one batch of 64, 65 need two."""
    batches = StackedBatches([torch.arange(65), torch.arange(100, 164), torch.arange(3)], 64, seed=0)
    counts = torch.stack([weight.sum(dim=1) for _, weight in batches], dim=1)
    assert counts.tolist() == [[64.0, 1.0], [64.0, 0.0], [3.0, 0.0]]
    assert batches.steps == [2, 1, 1]
    assert [sorted(order) for order in member_orders(batches)] == [
        [*range(65)],
        [*range(100, 164)],
        [0, 1, 2],
    ]


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(1, 70), EPOCHS, st.booleans())
def test_the_last_rows_can_be_left_out(sizes: list[int], batch_size: int, epoch: int, same: bool) -> None:
    members = [torch.arange(n) + 100 * k for k, n in enumerate(sizes)]
    alone = [ShuffledBatches(rows, batch_size, 3, drop_last=True) for rows in members]
    stacked = StackedBatches(members, batch_size, 3, same, drop_last=True)
    everything = StackedBatches(members[:1], batch_size, 3)
    without_last = StackedBatches(members[:1], batch_size, 3, drop_last=True)
    for batches in (*alone, stacked, everything, without_last):
        batches.set_epoch(epoch)
    assert stacked.steps == [len(batches) for batches in alone] == [max(n // batch_size, 1) for n in sizes]
    orders = member_orders(stacked)
    for order, n, batches, rows in zip(orders, sizes, alone, members, strict=True):
        drawn = list(batches)
        own = min(n, batch_size)
        assert [len(batch) for batch in drawn] == [own] * len(batches)
        assert len(order) == len({*order}) == own * len(batches)
        assert {*order} <= {*rows.tolist()} >= {*torch.cat(drawn).tolist()}
    # The order is that of all rows, without the last.
    (order,), (own,) = member_orders(everything), member_orders(without_last)
    assert own == order[: len(own)]


def test_without_shuffling_rows_come_as_they_are_given() -> None:
    members = [torch.tensor([4, 2, 9, 7, 1]), torch.tensor([5, 3])]
    alone = ShuffledBatches(members[0], 2, 0, shuffle=False)
    stacked = StackedBatches(members, 2, 0, shuffle=False)
    for _ in range(2):
        assert torch.cat(list(alone)).tolist() == [4, 2, 9, 7, 1]
        assert member_orders(stacked) == [[4, 2, 9, 7, 1], [5, 3]]


@pytest.mark.parametrize("same_order", [False, True])
@pytest.mark.parametrize("epoch", [0, 7])
def test_members_with_other_numbers_of_steps_change_no_order(same_order: bool, epoch: int) -> None:
    folds, everything = k_fold(1460, 5)[0], torch.arange(1460)

    def orders(members: list[Tensor]) -> list[list[int]]:
        batches = StackedBatches(members, 64, 3, same_order)
        batches.set_epoch(epoch)
        return member_orders(batches)

    together = orders([*folds[:2], everything, *folds[2:]])
    assert together[:2] + together[3:] == orders(folds)
    alone = ShuffledBatches(1460, 64, 3)
    alone.set_epoch(epoch)
    assert together[2] == torch.cat(list(alone)).tolist()


@pytest.mark.parametrize(("n", "k", "batch_size"), [(1460, 5, 64), (1461, 5, 64), (161, 5, 64), (7, 7, 3)])
def test_folds_take_the_same_steps(n: int, k: int, batch_size: int) -> None:
    train_rows, _ = k_fold(n, k)
    batches = StackedBatches(train_rows, batch_size, seed=0)
    assert len(batches) == -(-max(map(len, train_rows)) // batch_size)
    assert [sorted(order) for order in member_orders(batches)] == [rows.tolist() for rows in train_rows]


def test_batches_are_full_before_the_last_step() -> None:
    """Members of the same size have full batches and then the rest, as in ShuffledBatches."""
    batches = StackedBatches([torch.arange(10), torch.arange(10)], 4, seed=0)
    assert [weight.sum(dim=1).tolist() for _, weight in batches] == [[4.0, 4.0], [4.0, 4.0], [2.0, 2.0]]


def test_an_epoch_does_not_change_earlier_batches() -> None:
    batches = StackedBatches([torch.arange(20), torch.arange(20)], 8, seed=0)
    drawn: list[list[Tensor]] = []
    copies: list[list[Tensor]] = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        drawn.append([rows for rows, _ in batches])
        copies.append([rows.clone() for rows in drawn[-1]])
    assert all(
        torch.equal(a, b) for d, c in zip(drawn, copies, strict=True) for a, b in zip(d, c, strict=True)
    )
    assert all(not torch.equal(torch.cat(a, 1), torch.cat(b, 1)) for a, b in pairwise(drawn))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size_must_be_positive(batch_size: int) -> None:
    message = f"^batch_size must be positive, not {batch_size}$"
    with pytest.raises(InputError, match=message):
        ShuffledBatches(10, batch_size, seed=0)
    with pytest.raises(InputError, match=message):
        StackedBatches([torch.arange(10)], batch_size, seed=0)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_member_without_rows_is_an_error(batch_size: int) -> None:
    with pytest.raises(InputError, match=r"^member 2 has no rows to train on$"):
        StackedBatches([torch.arange(3), torch.arange(0)], batch_size, seed=0)


def test_members_with_the_same_rows_can_have_them_in_the_same_order() -> None:
    rows = [torch.arange(10), torch.arange(10), torch.arange(5, 15)]
    for same in (True, False):
        batches = StackedBatches(rows, batch_size=4, seed=3, same_order=same)
        batches.set_epoch(2)
        first, second, third = torch.cat([taken for taken, _ in batches], dim=1)
        assert torch.equal(first, second) is same
        assert torch.equal(first[:10] + 5, third[:10]) is same
    alone = ShuffledBatches(10, 4, seed=3)
    alone.set_epoch(2)
    batches = StackedBatches(rows[:2], batch_size=4, seed=3, same_order=True)
    batches.set_epoch(2)
    for (taken, weight), expected in zip(batches, alone, strict=True):
        assert torch.equal(taken[1][weight[1] > 0], expected)


def test_the_random_numbers_of_a_data_set_differ_from_those_of_epochs() -> None:
    def first(generator: torch.Generator) -> float:
        return torch.rand((), generator=generator, dtype=torch.float64).item()

    seeds, epochs = range(5), range(20)
    drawn = [first(data_generator(seed)) for seed in seeds]
    drawn += [first(epoch_generator(seed, epoch)) for seed in seeds for epoch in epochs]
    assert len(set(drawn)) == len(drawn)
    assert first(data_generator(3)) == drawn[3]


@pytest.mark.parametrize("kind", ["alone", "stacked"])
def test_the_epoch_can_be_set_after_the_iterator_is_created(kind: str) -> None:
    # Lightning does so in the first epoch of a fit, which is not epoch 0 if the fit is resumed.
    def rows(batches: Iterable[Any]) -> list[list[int]]:
        return [(batch if isinstance(batch, Tensor) else batch[0]).flatten().tolist() for batch in batches]

    def make() -> ShuffledBatches | StackedBatches:
        return ShuffledBatches(20, 4, seed=1) if kind == "alone" else StackedBatches([torch.arange(20)], 4, 1)

    expected, late = make(), make()
    expected.set_epoch(3)
    iterator = iter(late)
    late.set_epoch(3)
    assert rows(iterator) == rows(expected)
    assert rows(expected) != rows(make())


def rows_of(loader: Any) -> list[int]:
    """Return the rows of an epoch of a loader whose batches begin with row numbers."""
    return torch.cat([(b if isinstance(b, Tensor) else b[0]).flatten() for b in loader]).tolist()


KINDS = {
    "shuffled": lambda n, size, seed: ShuffledBatches(n, size, seed),
    "stacked": lambda n, size, seed: StackedBatches([torch.arange(n)], size, seed),
    "row loader": lambda n, size, seed: RowLoader(
        ShuffledBatches(n, size, seed), gather_from(torch.arange(n))
    ),
    "data loader": lambda n, size, seed: shuffled_loader(
        SyntheticRegressionData(num_train=1, num_val=0), size, seed, torch.arange(n)
    ),
}


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(list(KINDS)),
    n=st.integers(1, 40),
    batch_size=st.integers(1, 45),
    seed=SEEDS,
    epochs=st.lists(st.one_of(st.none(), EPOCHS), min_size=1, max_size=5),
    late=st.booleans(),
)
def test_without_set_epoch_each_iteration_is_the_next_epoch(
    kind: str, n: int, batch_size: int, seed: int, epochs: list[int | None], late: bool
) -> None:
    loader: Any = KINDS[kind](n, batch_size, seed)
    sampler = getattr(loader, "sampler", loader)
    expected = 0
    for epoch in epochs:
        iterator = iter(loader) if late and kind != "data loader" else None
        if epoch is not None:
            sampler.set_epoch(epoch)
            expected = epoch
        fresh = KINDS[kind](n, batch_size, seed)
        getattr(fresh, "sampler", fresh).set_epoch(expected)
        assert rows_of(loader if iterator is None else iterator) == rows_of(fresh)
        expected += 1


def test_an_epoch_that_is_left_early_is_over() -> None:
    batches = ShuffledBatches(20, 4, seed=0)
    first = next(iter(batches))
    assert not torch.equal(next(iter(batches)), first)
    batches.set_epoch(0)
    assert torch.equal(next(iter(batches)), first)


@pytest.mark.parametrize("rows", [torch.ones(9, dtype=torch.bool), torch.ones(9), torch.zeros(3, 3).long()])
def test_rows_that_are_no_indices_are_an_error(rows: Tensor) -> None:
    for make in (ShuffledBatches, lambda rows, *args: StackedBatches([torch.arange(9), rows], *args)):
        with pytest.raises(InputError, match=r"rows.* must be a vector of indices, not torch\..* of shape"):
            make(rows, 4, 0)


def test_a_loader_can_write_each_batch_over_the_one_before() -> None:
    X, y = torch.randn(10, 3, 2), torch.arange(10)
    loaders = [RowLoader(ShuffledBatches(10, 4, seed=1), gather_from(X, y)) for _ in range(2)]
    loaders[1].reuse = True
    addresses, kept = set(), []
    for _ in range(2):
        for expected, batch in zip(*loaders, strict=True):
            assert all(map(torch.equal, expected, batch))
            addresses.add(batch[0].data_ptr())
            kept.append(expected[0])
    assert len(addresses) == 1
    # Without reuse, a batch stays as it is.
    order = ShuffledBatches(10, 4, seed=1)
    rows = torch.cat([*order, *order])
    assert torch.equal(torch.cat(kept), X[rows])


def test_a_batch_may_be_larger_than_those_before() -> None:
    X = torch.randn(10, 2)
    batches = torch.arange(10).split([2, 5, 3])
    loader = RowLoader(batches, gather_from(X))
    loader.reuse = True
    assert all(torch.equal(batch, X[rows]) for (batch,), rows in zip(loader, batches, strict=True))
