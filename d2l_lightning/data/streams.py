"""A stream of examples with concept shift: the weights of a linear model rotate slowly."""

import math

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from d2l_lightning.data.batches import data_generator, loader_of
from d2l_lightning.errors import InputError, require_finite, require_not_negative, require_positive


class DriftingStream(LightningDataModule):
    """Rows in a fixed order whose dependency changes from row to row: concept shift.

    Row t is ``y = <w_t, x> + e``, where x and e are normal. ``w_t`` rotates at a constant rate from one
    random direction towards another at a right angle to it.

    Args:
        num_inputs: Number of features, d, at least two.
        num_rows: Rows of the stream, n.
        turn: The angle by which the true weights rotate over the stream, in radians.
        noise: Standard deviation of the noise e in the labels.
        batch_size: Rows in a batch of the stream.
        seed: Seed of all randomness.

    Attributes:
        w: The weights of each row, shape ``(n, d)``, of length 1.

    Source: Section 4.9.3, concept shift; Section 4.9.4, eq. 4.9.11.
    """

    def __init__(
        self,
        num_inputs: int = 5,
        num_rows: int = 5000,
        turn: float = math.pi / 2,
        noise: float = 0.1,
        batch_size: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_positive(num_rows=num_rows, batch_size=batch_size)
        require_not_negative(noise=noise)
        require_finite(turn=torch.tensor(turn))
        if num_inputs < 2:
            raise InputError(f"num_inputs must be at least 2 for weights that rotate, not {num_inputs}")
        self.num_inputs, self.batch_size = num_inputs, batch_size
        generator = data_generator(seed)
        plane, _ = torch.linalg.qr(torch.randn(num_inputs, 2, generator=generator))
        angle = turn * torch.linspace(0, 1, num_rows)[:, None]
        self.w = angle.cos() * plane[:, 0] + angle.sin() * plane[:, 1]
        self.X = torch.randn(num_rows, num_inputs, generator=generator)
        self.y = (self.w * self.X).sum(dim=1) + noise * torch.randn(num_rows, generator=generator)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return the loader of the stream's batches, in its order."""
        return loader_of(
            self, *zip(self.X.split(self.batch_size), self.y.split(self.batch_size), strict=True)
        )
