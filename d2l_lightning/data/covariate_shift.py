"""Covariate shift in data: made with known weights, made from real images, and found in house prices."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from d2l_lightning.batches import ShuffledBatches, data_generator
from d2l_lightning.data.fashion_mnist import EVALUATION_BATCH, FashionMNIST
from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.data.tables import to_numbers
from d2l_lightning.errors import (
    InputError,
    require_finite,
    require_known,
    require_not_negative,
    require_positive,
)

ImageShift = Literal["rotation", "noise", "brightness"]
HouseSplit = Literal["YearBuilt", "Neighborhood"]


class CovariateShiftData(LightningDataModule, ABC):
    """A source with labels, a target whose labels a corrector does not get to see, and rows to test it on.

    Trains on the source, with ``weights`` if there are any; validates and tests on the test rows; predicts
    the target.

    Args:
        batch_size: Rows in a training batch.
        seed: Seed of all that is random.

    Attributes:
        X: Features of all rows, shape ``(N, d)``; from ``setup`` on.
        y: What is to be learned, shape ``(N,)``.
        rows: The rows of ``source``, ``target`` and ``test``, index tensors.
        ratio: The true weights of the source's rows, shape ``(n,)``; None where nobody knows them.
        weights: What the source's rows weigh in training, shape ``(n,)``; no weights if None.

    Raises:
        InputError: If an argument is out of its range.

    Source: Section 4.9.3, covariate shift.
    """

    X: Tensor
    y: Tensor
    rows: dict[str, Tensor]
    ratio: Tensor | None = None

    def __init__(self, batch_size: int = 256, seed: int = 0) -> None:
        super().__init__()
        require_positive(batch_size=batch_size)
        self.batch_size, self.seed = batch_size, seed
        self.weights: Tensor | None = None
        self._ready = False

    def setup(self, stage: str | None = None) -> None:
        """Make or read the data; a second call does nothing."""
        if not self._ready:
            self._make()
            self._ready = True

    @abstractmethod
    def _make(self) -> None:
        """Set ``X``, ``y``, ``rows`` and ``ratio``."""

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of shuffled batches of the source: X ``(B, d)``, y ``(B,)``, weights if any."""
        rows = self.rows["source"]
        weights = [] if self.weights is None else [self.weights.to(self.X.dtype)]
        data = TensorDataset(self.X[rows], self.y[rows], *weights)
        return DataLoader(
            data, batch_size=None, sampler=ShuffledBatches(len(rows), self.batch_size, self.seed)
        )

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the target's test rows."""
        X, y = (values[self.rows["test"]].split(EVALUATION_BATCH) for values in (self.X, self.y))
        return DataLoader(cast(Any, list(zip(X, y, strict=True))), batch_size=None)

    val_dataloader = test_dataloader

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the target's features."""
        X = self.X[self.rows["target"]].split(EVALUATION_BATCH)
        return DataLoader(cast(Any, list(X)), batch_size=None)


class SyntheticCovariateShift(CovariateShiftData):
    """Normal features whose mean moves, so that the true weights are known; and a curve, too much for a line.

    With a random direction a of length 1 and ``t = <a, x>``, the source is ``x ~ N(0, I)``, the target
    ``x ~ N(s a, I)``, and in both ``y = t + c t^2 + e``. So ``p(x) / q(x) = exp(s t - s^2 / 2)``. The best
    line is ``t + c`` for the source and ``(1 + 2 c s) t + c (1 - s^2)`` for the target.

    Args:
        num_inputs: Number of features, d.
        shift: How far the mean moves, s.
        curvature: c.
        noise: Standard deviation of e.
        num_source: Rows of the source.
        num_target: Rows of the target to estimate weights from.
        num_test: Rows of the target to tell the risk on.
        batch_size: Rows in a training batch.
        seed: Seed of the data and of the order of the source's rows.

    Attributes:
        direction: a, shape ``(d,)``.

    Raises:
        InputError: If an argument is out of its range.
    """

    def __init__(
        self,
        num_inputs: int = 5,
        shift: float = 1.0,
        curvature: float = 0.5,
        noise: float = 0.1,
        num_source: int = 4000,
        num_target: int = 2000,
        num_test: int = 20000,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        require_positive(
            num_inputs=num_inputs, num_source=num_source, num_target=num_target, num_test=num_test
        )
        require_not_negative(noise=noise)
        require_finite(shift=torch.tensor(shift), curvature=torch.tensor(curvature))
        self.num_inputs, self.shift, self.curvature, self.noise = num_inputs, shift, curvature, noise
        self.sizes = {"source": num_source, "target": num_target, "test": num_test}

    def _make(self) -> None:
        generator = data_generator(self.seed)
        direction = torch.randn(self.num_inputs, generator=generator)
        self.direction = direction / direction.norm()
        N = sum(self.sizes.values())
        parts = torch.arange(N).split(list(self.sizes.values()))
        self.rows = dict(zip(self.sizes, parts, strict=True))
        self.X = torch.randn(N, self.num_inputs, generator=generator)
        self.X[self.sizes["source"] :] += self.shift * self.direction
        t = self.X @ self.direction
        e = self.noise * torch.randn(N, generator=generator)
        self.y = t + self.curvature * t.square() + e
        self.ratio = (self.shift * t[self.rows["source"]].double() - self.shift**2 / 2).exp()


class ShiftedFashionMNIST(CovariateShiftData):
    """Fashion-MNIST, where more of the target's images are turned, noisy or of another brightness.

    The source is drawn from the training rows; half of the official test rows are the target, half test it.
    Each image is changed with a probability that depends on its side alone. Images are rows of 784 pixels.

    Args:
        data_dir: See ``FashionMNIST``.
        kind: ``rotation`` about the centre, counter-clockwise; ``noise``, normal and added to each pixel;
            ``brightness``, a factor of each pixel. Pixels stay from 0 to 1.
        amount: Degrees, from -180 to 180; the noise's standard deviation; the factor.
        source_share: The probability that an image of the source is changed, from 0 to 1.
        target_share: That of the target.
        num_source: Rows of the source; all training rows if there are fewer.
        batch_size: Rows in a training batch.
        seed: Seed of all that is random.

    Attributes:
        ratio: The share of a row's kind, changed or not, in the target over that in the source; None where
            the source lacks a kind that the target has.

    Raises:
        InputError: If an argument is out of its range, or as ``FashionMNIST`` says.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        kind: ImageShift = "rotation",
        amount: float = 15.0,
        source_share: float = 0.0,
        target_share: float = 1.0,
        num_source: int = 10000,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        for name, share in (("source_share", source_share), ("target_share", target_share)):
            if not 0 <= share <= 1:
                raise InputError(f"{name} must be from 0 to 1, not {share}")
        require_shift(kind, amount)
        require_positive(num_source=num_source)
        self.images = FashionMNIST(data_dir, seed=seed)
        self.kind, self.amount, self.num_source = kind, amount, num_source
        self.source_share, self.target_share = source_share, target_share

    def prepare_data(self) -> None:
        """Find the files; download them if they are nowhere."""
        self.images.prepare_data()

    def _make(self) -> None:
        self.images.setup()
        generator = data_generator(self.seed)
        test = self.images.rows["test"]
        if len(test) < 2:
            raise InputError("there must be two test rows, one for the target and one to test on")
        source = torch.randperm(int(test[0]), generator=generator)[: self.num_source]
        test = test[torch.randperm(len(test), generator=generator)]
        drawn = torch.cat([source, test])
        n, half = len(source), len(test) // 2
        parts = torch.arange(len(drawn)).split([n, half, len(test) - half])
        self.rows = dict(zip(("source", "target", "test"), parts, strict=True))
        images, self.y = self.images.examples(drawn)
        share = torch.full((len(drawn),), self.target_share)
        share[:n] = self.source_share
        changed = torch.rand(len(drawn), generator=generator) < share
        images[changed] = shifted(images[changed], self.kind, self.amount, generator)
        self.X = images.flatten(1)
        p, q = self.target_share, self.source_share
        if p == q:
            self.ratio = torch.ones(n).double()
        elif 0 < q < 1:
            self.ratio = torch.tensor([(1 - p) / (1 - q), p / q]).double()[changed[:n].long()]


def shifted(images: Tensor, kind: ImageShift, amount: float, generator: torch.Generator) -> Tensor:
    """Return images of shape ``(n, h, w)``, from 0 to 1, that are turned, noisy or of another brightness.

    Args and errors are those of ``ShiftedFashionMNIST``.
    """
    require_shift(kind, amount)
    from torchvision.transforms.v2 import InterpolationMode, functional

    match kind:
        case "rotation":
            return functional.rotate(images, amount, InterpolationMode.BILINEAR)
        case "noise":
            return (images + amount * torch.randn(images.shape, generator=generator)).clamp(0, 1)
        case "brightness":
            return (images * amount).clamp(0, 1)


def require_shift(kind: ImageShift, amount: float) -> None:
    """Raise an InputError unless images can be shifted so."""
    require_known("kind", kind, ImageShift)
    if amount == {"rotation": 0, "noise": 0, "brightness": 1}[kind]:
        raise InputError(f"an amount of {amount:g} is no {kind} of images at all")
    if kind == "rotation":
        if not -180 <= amount <= 180:
            raise InputError(f"amount must be from -180 to 180 degrees of rotation, not {amount}")
    else:
        require_not_negative(amount=amount)


class ShiftedHouses(CovariateShiftData):
    """The Ames house prices, split by when or where houses were built: a shift that nobody made.

    The column that splits is no feature, nor are its indicators, or the two sides would have nothing in
    common. Half of the target's houses test it.

    Args:
        data_dir: See ``KaggleHouse``.
        split_by: ``YearBuilt`` or ``Neighborhood``.
        year: Houses built in this year or later are the target.
        neighborhoods: Houses in these are the target.
        batch_size: Rows in a training batch.
        seed: Seed of the target's halves and of the order of the source's rows.

    Raises:
        InputError: If a side is empty or a neighbourhood unknown, or as ``KaggleHouse`` says.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        split_by: HouseSplit = "YearBuilt",
        year: int = 2000,
        neighborhoods: Sequence[str] = (),
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        require_known("split_by", split_by, HouseSplit)
        self.houses = KaggleHouse(data_dir)
        self.split_by, self.year, self.neighborhoods = split_by, year, list(neighborhoods)

    def _make(self) -> None:
        self.houses.setup()
        column = self.houses.raw[self.split_by].iloc[: self.houses.num_train]
        if column.isna().any():
            raise InputError(f"{int(column.isna().sum())} houses lack {self.split_by}, which splits them")
        if self.split_by == "YearBuilt":
            in_target, of = to_numbers(column) >= self.year, f"year {self.year}"
        else:
            unknown = sorted(set(self.neighborhoods) - set(column))
            if unknown:
                known = ", ".join(sorted(set(column)))
                raise InputError(f"there is no house in the neighborhood {unknown[0]!r}; there are {known}")
            in_target, of = column.isin(self.neighborhoods), f"neighborhoods {self.neighborhoods}"
        target = torch.from_numpy(in_target.to_numpy(bool).nonzero()[0])
        source = torch.from_numpy((~in_target).to_numpy(bool).nonzero()[0])
        if not len(source) or len(target) < 2:
            raise InputError(
                f"{of}: {len(source)} houses are the source and {len(target)} the target; a target needs two"
            )
        target = target[torch.randperm(len(target), generator=data_generator(self.seed))]
        half = len(target) // 2
        self.rows = {"source": source, "target": target[:half], "test": target[half:]}
        features = [
            place
            for place, name in enumerate(self.houses.feature_names)
            if name != self.split_by and not name.startswith(f"{self.split_by}_")
        ]
        self.X = self.houses.features()[: self.houses.num_train, features]
        self.y = self.houses.prices
