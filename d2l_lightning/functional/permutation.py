"""A pseudorandom permutation of row numbers, which needs no table of them."""

import math
from collections.abc import Sequence

from torch import Tensor

from d2l_lightning.errors import InputError, require_positive

ROUNDS = 8  # keys of a permutation; four rounds are the least that cryptographers ask for
_MASK, _MOST = 0xFFFFFFFF, 2**62


def permute(indices: Tensor, n: int, keys: Sequence[int]) -> Tensor:
    """Return where a pseudorandom permutation of 0 to ``n - 1`` takes some of these numbers.

    Time and memory depend on how many numbers are asked for, not on n. A number is a pair (left, right) with
    ``ceil(sqrt(n))`` values of left. Each round adds a hash of one half to the other (a Feistel network).
    This can be undone, so no two numbers meet. A number that leaves the range is permuted again until it is
    back (cycle walking).

    Args:
        indices: Integers from 0 to ``n - 1``, of any shape.
        n: How many numbers are permuted; up to 2^62.
        keys: An integer from 0 to 2^32 - 1 for each round; other keys give another permutation.

    Raises:
        InputError: If n is not positive or too large, a number is out of range, or there are fewer than four
            keys.

    Source: Section 3.3.5, exercise 2; Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (2002).

    Example:
        >>> permute(torch.arange(5), 5, range(8)).sort().values
        tensor([0, 1, 2, 3, 4])
    """
    require_positive(n=n)
    if n > _MOST:
        raise InputError(f"n must be at most 2^62, not {n}")
    if len(keys) < 4:
        raise InputError(f"a permutation needs at least 4 keys, not {len(keys)}")
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < n:
        raise InputError(f"indices must be from 0 to {n - 1}")
    lefts = math.isqrt(n - 1) + 1
    rights = -(-n // lefts)
    permuted = _feistel(indices, lefts, rights, keys)
    while (outside := permuted >= n).any():
        permuted[outside] = _feistel(permuted[outside], lefts, rights, keys)
    return permuted


def unevenness(order: Tensor, batch_size: int) -> float:
    """Return how much the batches of an order of rows differ from each other, in units of a fair shuffle.

    It is the standard deviation, over the full batches, of the mean row number of a batch, divided by the one
    that a fair shuffle has. A fair shuffle has about 1. Rows in the order of the file have far more, because
    each batch comes from one place. NaN if there are fewer than two batches.

    Args:
        order: The numbers of all rows, 0 to ``n - 1``, in the order in which they are read: shape ``(n,)``.
        batch_size: Rows in a batch.

    Example:
        >>> round(unevenness(torch.arange(1000), 10), 2)
        3.18
    """
    n = len(order)
    means = order[: n // batch_size * batch_size].double().view(-1, batch_size).mean(dim=1)
    if len(means) < 2:
        return math.nan
    # The variance of the mean of B rows that are drawn from 0 to n - 1 without replacement.
    fair = (n + 1) * (n - batch_size) / (12 * batch_size)
    return ((means - (n - 1) / 2).square().mean() / fair).sqrt().item()


def _feistel(numbers: Tensor, lefts: int, rights: int, keys: Sequence[int]) -> Tensor:
    left, right = numbers // rights, numbers % rights
    for place, key in enumerate(keys):
        if place % 2:
            right = (right + _hash(left, key)) % rights
        else:
            left = (left + _hash(right, key)) % lefts
    return left * rights + right


def _hash(values: Tensor, key: int) -> Tensor:
    """Return 32 bits for each value and a key: the finalizer of MurmurHash3."""
    values = (values + key) & _MASK
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        values = ((values ^ (values >> shift)) * factor) & _MASK
    return values ^ (values >> 16)
