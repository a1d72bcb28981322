"""Synthetic covariate shift: normal features whose mean moves, with known weights."""

import torch

from d2l_lightning.data.batches import data_generator
from d2l_lightning.data.covariate_shift import CovariateShiftData
from d2l_lightning.errors import require_finite, require_not_negative, require_positive


class SyntheticCovariateShift(CovariateShiftData):
    """Normal features whose mean moves from source to target, and a curve that no line fits everywhere.

    With a random direction a of length 1 and ``t = <a, x>``, the source is ``x ~ N(0, I)``, the target
    ``x ~ N(s a, I)``, and in both ``y = t + c t^2 + e``. So ``p(x) / q(x) = exp(s t - s^2 / 2)``. The best
    line is ``t + c`` for the source and ``(1 + 2 c s) t + c (1 - s^2)`` for the target.

    Args:
        num_inputs: Number of features, d.
        shift: Distance s between the means of source and target.
        curvature: Factor c of the curve's square.
        noise: Standard deviation of the noise e in the labels.
        num_source: Rows of the source.
        num_target: Rows of the target for the estimate of the weights.
        num_test: Rows of the target for validation and test.
        batch_size: Rows in a training batch.
        seed: Seed of the data and of the order of the source's rows.
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

    def _load(self) -> None:
        generator = data_generator(self.seed)
        direction = torch.randn(self.num_inputs, generator=generator)
        self.direction = direction / direction.norm()  # a
        N, sizes = sum(self.sizes.values()), list(self.sizes.values())
        self.rows = dict(zip(self.sizes, torch.arange(N).split(sizes), strict=True))
        self.X = torch.randn(N, self.num_inputs, generator=generator)
        self.X[self.sizes["source"] :] += self.shift * self.direction
        t = self.X @ self.direction
        self.y = t + self.curvature * t.square() + self.noise * torch.randn(N, generator=generator)
        self.ratio = (self.shift * t[self.rows["source"]].double() - self.shift**2 / 2).exp()
