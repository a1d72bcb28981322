"""Synthetic data for exercises on linear regression: dependent features, and noise with exponential tails."""

from collections.abc import Callable

import torch
from torch import Tensor

from d2l_lightning.data.batches import data_generator
from d2l_lightning.data.regression import RegressionData
from d2l_lightning.errors import InputError, require_finite, require_not_negative, require_positive
from d2l_lightning.functional.linear import linear


def draw_sets(make: Callable[..., RegressionData], draws: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return features ``(draws, n, d)`` and targets ``(draws, n)`` of data sets of n rows.

    Args:
        make: Returns data, given ``num_train``, ``num_val`` and ``seed``.
        draws: The number of data sets.
        n: The number of rows of each.
        seed: Seed of the data.
    """
    X, y = map(torch.stack, zip(*make(num_train=draws * n, num_val=0, seed=seed).parts(n), strict=True))
    return X, y


def sort_first_rows(X: Tensor, y: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return data sets whose first rows are sorted by a key; the other rows stay where they are.

    Args:
        X: Features of N data sets, shape ``(N, n, d)``.
        y: Targets, shape ``(N, n)``.
        key: The key of the first m rows, shape ``(N, m)``.

    Source: Section 3.4.6, exercise 9.
    """
    rest = torch.arange(key.shape[1], y.shape[1]).expand(len(y), -1)
    order = torch.cat([key.argsort(dim=1), rest], dim=1)
    return X.gather(1, order[:, :, None].expand_as(X)), y.gather(1, order)


class DependentFeaturesData(RegressionData):
    """Normal features, the last of which is the sum of the others, and targets that are linear in them.

    So the rank of X is one less than its number of columns. The true weights are random.

    Args:
        num_inputs: Number of features, at least 2. With 2, the second is a copy of the first.
        noise: Standard deviation of the targets' noise.
        num_train: Number of rows, all of which are for training.
        batch_size: Rows in a batch.
        seed: Seed of the data and of the order of the rows.

    Source: Section 3.1.6, exercise 4.
    """

    def __init__(
        self,
        num_inputs: int = 3,
        noise: float = 0.1,
        num_train: int = 100,
        batch_size: int = 10,
        seed: int = 0,
    ) -> None:
        if num_inputs < 2:
            raise InputError(
                f"num_inputs must be at least 2 for a feature that depends on others, not {num_inputs}"
            )
        require_positive(num_train=num_train)
        require_not_negative(noise=noise)
        generator = data_generator(seed)
        # Multiples of 1 / 1024: their sum is exact, also in single precision, so the rank is.
        independent = (torch.randn(num_train, num_inputs - 1, generator=generator) * 1024).round() / 1024
        X = torch.cat([independent, independent.sum(dim=1, keepdim=True)], dim=1)
        self.w = torch.randn(num_inputs, generator=generator)
        y = linear(X, self.w) + noise * torch.randn(num_train, generator=generator)
        super().__init__(X, y, num_train, batch_size, seed)


class ExponentialNoiseData(RegressionData):
    """A number that is measured again and again, with noise of the density ``exp(-|e|) / 2``.

    The only feature is 1, so its weight in a linear model without a bias is the estimate of the number.

    Args:
        location: The number.
        num_train: How often it is measured.
        batch_size: Measurements in a batch.
        seed: Seed of the data and of the order of the measurements.

    Source: Section 3.1.6, exercises 1 and 5.
    """

    def __init__(
        self, location: float = 4.2, num_train: int = 101, batch_size: int = 1, seed: int = 0
    ) -> None:
        require_positive(num_train=num_train)
        require_finite(location=torch.tensor(float(location)))
        generator = data_generator(seed)
        size = torch.empty(num_train).exponential_(generator=generator)
        sign = torch.randint(2, (num_train,), generator=generator) * 2 - 1
        self.location = float(location)
        super().__init__(torch.ones(num_train, 1), location + sign * size, num_train, batch_size, seed)
