"""The rows of each process, the factor of its loss, and its random numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from d2l_lightning.distributed.draws import SharedDraws
from d2l_lightning.distributed.shares import Share
from d2l_lightning.functional.risk import empirical_risk

SIZES = st.integers(1, 40), st.integers(1, 9)


def shares(total: int, n: int) -> list[Share]:
    return [Share.of_process(total, r, n) for r in range(n)]


@settings(deadline=None, max_examples=50)
@given(*SIZES)
def test_the_shares_are_all_rows_once_and_in_order(total: int, n: int) -> None:
    rows = [torch.arange(total)[s.first : s.first + s.count] for s in shares(total, n) if not s.is_empty]
    assert torch.equal(torch.cat(rows), torch.arange(total))
    counts = [0 if s.is_empty else s.count for s in shares(total, n)]
    assert max(counts) - min(counts) <= 1


@settings(deadline=None, max_examples=50)
@given(*SIZES, st.integers(0, 3), st.booleans(), st.randoms(use_true_random=False))
def test_the_mean_of_the_shares_is_the_risk_with_a_penalty(
    total: int, n: int, members: int, weighted: bool, random: object
) -> None:
    torch.manual_seed(random.randrange(10**6))  # type: ignore[attr-defined]
    shape = (members, total) if members else (total,)
    X, y = torch.rand(*shape, 2, dtype=torch.double), torch.rand(shape, dtype=torch.double)
    weight = (torch.rand(shape) * (torch.rand(shape) > 0.5)).double() if weighted else None

    def risk(X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        if members:
            each = zip(X, y, [None] * members if weight is None else weight, strict=True)
            return torch.stack([risk_of_one(*own) for own in each])
        return risk_of_one(X, y, weight)

    def risk_of_one(X: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
        return empirical_risk((X.sum(dim=-1) - y) ** 2, weight) + 0.7

    batch = (X, y) if weight is None else (X, y, weight)
    losses = [risk(*share.take(*batch)) * share.factor(weight, X.dtype) for share in shares(total, n)]
    torch.testing.assert_close(torch.stack(losses).mean(dim=0), risk(*batch), rtol=1e-12, atol=1e-12)


def test_weights_by_stage_are_shared_and_those_of_an_empty_share_are_zero() -> None:
    X, y, weight = torch.rand(4, 2), torch.rand(4), {"train": torch.ones(3, 4), "val": torch.ones(4)}
    _, own, shared = Share.of_process(4, 1, 3).take(X, y, weight)
    assert torch.equal(own, y[1:2])
    assert {stage: tuple(values.shape) for stage, values in shared.items()} == {"train": (3, 1), "val": (1,)}
    _, own, shared = Share.of_process(2, 0, 4).take(X[:2], y[:2], {"val": torch.ones(2)})
    assert torch.equal(own, y[:1])
    assert shared["val"].tolist() == [0.0]


def test_a_note_of_the_rows_that_count_is_shared_too() -> None:
    weight = torch.tensor([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    for counts, expected in (([3, 5], [1, 3]), (None, None)):
        weight.row_counts = counts  # type: ignore[attr-defined]
        *_, own = Share.of_process(5, 1, 2).take(torch.rand(2, 5, 1), torch.rand(2, 5), weight)
        assert own.row_counts == expected


def draw(rows: int) -> dict[str, Tensor]:
    """Return random numbers that a model may draw for its rows."""
    X = torch.linspace(0.1, 0.9, 7)[:rows, None].expand(rows, 3).contiguous()
    return {
        "dropout": F.dropout(torch.ones(rows, 3), 0.5),
        "native dropout": torch.native_dropout(torch.ones(rows, 3), 0.5, True)[0],
        "features": F.dropout1d(torch.ones(rows, 3, 2), 0.5),
        "alpha": nn.AlphaDropout(0.5)(torch.ones(rows, 3)),
        "rand": torch.rand(rows),
        "randn": torch.randn(rows, 20),
        "randint": torch.randint(3, 99, (rows, 2)),
        "rand like": torch.rand_like(X),
        "normal": torch.normal(torch.ones(rows, 3), 2.0),
        "two tensors": torch.normal(torch.ones(rows, 3), torch.ones(rows, 3)),
        "numbers": torch.normal(0.0, 2.0, (rows, 3)),
        "in place": torch.empty(rows, 3).exponential_(),
        "double": torch.rand(rows, dtype=torch.double),
    }


@pytest.mark.parametrize("r", range(3))
def test_each_process_draws_the_numbers_of_its_rows(r: int) -> None:
    share = Share.of_process(7, r, 3)
    torch.manual_seed(0)
    whole, common, state = draw(7), torch.rand(5), torch.get_rng_state()
    torch.manual_seed(0)
    with SharedDraws(share, dim=0):
        own, same = draw(share.count), torch.rand(5)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(common, same)
    for name, values in whole.items():
        assert torch.equal(own[name], values[share.first : share.first + share.count]), name


@pytest.mark.parametrize("r", range(3))
def test_bernoulli_numbers_have_the_probabilities_of_the_own_rows(r: int) -> None:
    share, p = Share.of_process(7, r, 3), torch.linspace(0.1, 0.9, 7)
    torch.manual_seed(0)
    whole = torch.bernoulli(p)
    torch.manual_seed(0)
    with SharedDraws(share, dim=0):
        own = torch.bernoulli(share.rows(p, 0))
    assert torch.equal(own, share.rows(whole, 0))


def test_members_side_by_side_have_their_rows_in_the_second_dimension() -> None:
    X = torch.ones(2, 4, 3)

    def noisy(X: Tensor) -> Tensor:
        return F.dropout(X, 0.5) + torch.randn_like(X)

    torch.manual_seed(0)
    whole = torch.vmap(noisy, randomness="different")(X)
    torch.manual_seed(0)
    with SharedDraws(Share.of_process(4, 1, 2), dim=1):
        own = torch.vmap(noisy, randomness="different")(X[:, 2:])
    assert torch.equal(own, whole[:, 2:])
