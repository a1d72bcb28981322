"""Covariate shift of images: Fashion-MNIST rotated, noisy or with another brightness."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from d2l_lightning.data.batches import data_generator
from d2l_lightning.data.covariate_shift import CovariateShiftData
from d2l_lightning.data.fashion_mnist import FashionMNIST
from d2l_lightning.errors import InputError, require_known, require_not_negative, require_positive

ImageShift = Literal["rotation", "noise", "brightness"]


class ShiftedFashionMNIST(CovariateShiftData):
    """Fashion-MNIST with changed images, at other shares in the target than in the source.

    The source is drawn from the training rows. One half of the official test rows is the target, the other
    half its test rows. X holds images as rows of 784 pixels.

    Args:
        data_dir: A folder with the four IDX files; if not given, they are found or downloaded.
        kind: The change: a counter-clockwise rotation about the centre (rotation), normal noise that is added
            to each pixel (noise), or a factor of each pixel (brightness). Pixels stay between 0 and 1.
        amount: The size of the change: degrees of rotation, from -180 to 180, the standard deviation of the
            noise, or the factor of the brightness.
        source_share: The probability that an image of the source is changed.
        target_share: The probability that an image of the target is changed.
        num_source: Rows of the source, or all training rows if they are fewer.
        batch_size: Rows in a training batch.
        seed: Seed of all randomness.
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
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
        require_known("kind", kind, ImageShift)
        if amount == {"rotation": 0, "noise": 0, "brightness": 1}[kind]:
            raise InputError(f"an amount of {amount:g} does not change images by {kind}")
        if kind != "rotation":
            require_not_negative(amount=amount)
        elif not -180 <= amount <= 180:
            raise InputError(f"amount must be from -180 to 180 degrees of rotation, not {amount}")
        require_positive(num_source=num_source)
        self.images = FashionMNIST(data_dir, seed=seed)
        self.kind, self.amount, self.num_source = kind, amount, num_source
        self.source_share, self.target_share = source_share, target_share

    def prepare_data(self) -> None:
        """Find the files, or download them."""
        self.images.prepare_data()

    def _load(self) -> None:
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
        share = torch.where(torch.arange(len(drawn)) < n, self.source_share, self.target_share)
        changed = torch.rand(len(drawn), generator=generator) < share
        images[changed] = shift_images(images[changed], self.kind, self.amount, generator)
        self.X = images.flatten(1)
        # The share of a row's kind, changed or not, in the target divided by that in the source.
        p, q = self.target_share, self.source_share
        if p == q:
            self.ratio = torch.ones(n).double()
        elif 0 < q < 1:
            self.ratio = torch.tensor([(1 - p) / (1 - q), p / q]).double()[changed[:n].long()]


def shift_images(images: Tensor, kind: ImageShift, amount: float, generator: torch.Generator) -> Tensor:
    """Return images ``(n, h, w)`` changed as ``ShiftedFashionMNIST`` does."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    match kind:
        case "rotation":
            return functional.rotate(images, amount, InterpolationMode.BILINEAR)
        case "noise":
            return (images + amount * torch.randn(images.shape, generator=generator)).clamp(0, 1)
        case "brightness":
            return (images * amount).clamp(0, 1)
