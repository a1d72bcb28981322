"""The loss of linear regression on new rows: in theory, in cross-validation, and over the amount of data."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from d2l_lightning.functional.regression import squared_loss


def expected_loss(num_rows: int, num_features: int, noise: float) -> float:
    """Return the expected squared loss on new rows of least-squares weights: ``inf`` for too few rows.

    It is ``noise**2 / 2 * (1 + d / (n - d - 1))`` for d standard normal features and n rows to learn from.
    The second summand is the expected squared error of the weights, by the mean of an inverse Wishart matrix.
    """
    rest = num_rows - num_features - 1
    return noise**2 / 2 * (1 + num_features / rest) if rest > 0 else math.inf


def minimum_norm_losses(X: Tensor, y: Tensor, rows: Tensor, held_out: Tensor) -> Tensor:
    """Return the mean squared losses of N data sets on the rows that are fitted and on others: ``(N, 2)``.

    The weights have the least loss on ``rows`` of X ``(N, n, d)`` and y ``(N, n)``; of all those, the least
    norm. ``rows`` and ``held_out`` are index tensors.
    """
    w = torch.linalg.pinv(X[:, rows]) @ y[:, rows, None]
    losses = squared_loss((X @ w)[..., 0], y)
    return torch.stack([losses[:, part].mean(dim=1) for part in (rows, held_out)], dim=1)


def k_fold_losses(X: Tensor, y: Tensor, train: Sequence[Tensor], val: Sequence[Tensor]) -> Tensor:
    """Return the mean loss of N data sets on the rows left out of K folds: shape ``(N,)``.

    X is ``(N, n, d)``, y is ``(N, n)``; ``train`` and ``val`` have the rows of each fold.
    """
    sums = [minimum_norm_losses(X, y, *fold)[:, 1] * len(fold[1]) for fold in zip(train, val, strict=True)]
    return torch.stack(sums).sum(dim=0) / X.shape[1]


def fit_learning_curve(
    curve: Mapping[str, Sequence[float]], num_features: int
) -> tuple[float, float, Callable[[float], float]]:
    """Return a, b and the function ``a + b / (n - d - 1)`` that is nearest to the ``loss`` of ``n`` rows.

    This is the form of ``expected_loss`` with d features: a is the loss that remains with endless data.
    """
    gain = 1 / (torch.tensor(curve["n"], dtype=torch.float64) - num_features - 1)
    A = torch.stack([torch.ones_like(gain), gain], dim=1)
    loss = torch.tensor(curve["loss"], dtype=torch.float64)
    a, b = torch.linalg.lstsq(A, loss[:, None]).solution[:, 0].tolist()
    return a, b, lambda n: a + b / (n - num_features - 1)


def losses_by_rows(X: Tensor, y: Tensor, numbers: Sequence[int]) -> dict[str, list[float]]:
    """Return the losses for several numbers of rows ``n``, on them and on new rows: medians of N data sets.

    X is ``(N, n, d)``, y is ``(N, n)``; the rows after the largest number are the new ones.
    """
    rows, new = torch.arange(X.shape[1]), max(numbers)
    losses = [minimum_norm_losses(X, y, rows[:n], rows[new:]).median(dim=0).values.tolist() for n in numbers]
    train, test = zip(*losses, strict=True)
    return {"n": [*map(float, numbers)], "train_loss": [*train], "test_loss": [*test]}


def losses_of_parts(
    X: Tensor, y: Tensor, num_val: int, numbers: Sequence[int], choices: int, generator: torch.Generator
) -> dict[str, list[float]]:
    """Return the ``loss`` on ``num_val`` random rows of fits to ``n`` random others, for several n.

    It is a mean over ``choices`` random choices of these rows. X is ``(N, d)``, y is ``(N,)``.
    """
    val, means = torch.arange(num_val), []
    for n in numbers:
        size = num_val + n
        rows = torch.stack([torch.randperm(len(y), generator=generator)[:size] for _ in range(choices)])
        losses = minimum_norm_losses(X[rows], y[rows], torch.arange(num_val, size), val)
        means.append(losses[:, 1].mean().item())
    return {"n": [*map(float, numbers)], "loss": means}
