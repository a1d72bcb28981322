"""Counts: numbers of events, of one's own or drawn from Poisson distributions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from d2l_lightning.data.batches import data_generator
from d2l_lightning.data.regression import RegressionData
from d2l_lightning.errors import InputError, require_finite, require_not_negative, require_positive
from d2l_lightning.functional.linear import linear


class CountData(RegressionData):
    """Features and counts in memory, for ``PoissonRegression``.

    Args:
        X: Features, shape ``(n, d)``.
        y: Counts, shape ``(n,)``: whole numbers from 0 on, of any type.
        num_train: Number of training rows, the first ones; the others are for validation.
        **data: Further arguments of ``RegressionData``.

    Raises:
        InputError: If a number is no count; else as ``RegressionData``.
    """

    def __init__(self, X: Tensor, y: Tensor, num_train: int, **data: Any) -> None:
        require_finite(y=y)
        wrong = ((y < 0) | (y != y.round())).nonzero()
        if len(wrong):
            index = wrong[0].tolist()
            raise InputError(f"y{index} is {y[tuple(index)].item():g}; counts are whole numbers from 0 on")
        super().__init__(X, y.to(X.dtype), num_train, **data)


class SyntheticCountData(CountData):
    """Normal features, and counts whose expected value is ``exp(<w, x> + b)``, such as apples that are sold.

    Args:
        w: The true weights, one for each feature, as in `--w 0.5 -0.8`.
        b: The true bias: the logarithm of the rate where all features are 0.
        num_train: Number of training rows.
        num_val: Number of validation rows.
        batch_size: Rows in a batch.
        seed: Seed of the data and of the order of the training rows.

    Source: Section 3.1.6, exercise 8.
    """

    def __init__(
        self,
        w: Sequence[float] = (0.5, -0.8),
        b: float = 0.7,
        num_train: int = 500,
        num_val: int = 500,
        batch_size: int = 50,
        seed: int = 0,
    ) -> None:
        require_positive(num_train=num_train)
        require_not_negative(num_val=num_val)
        self.w, self.b = torch.tensor([*map(float, w)]), float(b)
        if not len(self.w):
            raise InputError("w must hold one weight for each feature")
        require_finite(w=self.w, b=torch.tensor(self.b))
        generator = data_generator(seed)
        X = torch.randn(num_train + num_val, len(self.w), generator=generator)
        self.rate = linear(X, self.w, self.b).exp()
        if not self.rate.max() < 1e7:  # single precision holds whole numbers up to 2^24
            raise InputError(f"w and b give a rate of {self.rate.max():g}; it must be below 1e7")
        y = torch.poisson(self.rate, generator=generator)
        super().__init__(X, y, num_train, batch_size=batch_size, seed=seed)
