"""People of two groups whose illness shows in different measurements: a synthetic table (Section 4.9.5)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from d2l_lightning.errors import InputError, require_positive

GROUPS = ("majority", "minority")
SLOPE, OFFSET = 2.5, -1.5  # of the log-odds of the illness


@dataclass(frozen=True)
class TwoGroups:
    """People with two measurements: the first shows the illness of a majority, the second that of others.

    Attributes:
        X: The measurements, shape ``(n, 2)``.
        group: 0 for the majority and 1 for the minority, shape ``(n,)``.
        probabilities: The true probabilities of the illness, shape ``(n,)``.
        y: Whether each person is ill, 0 or 1, shape ``(n,)``.
    """

    X: Tensor
    group: Tensor
    probabilities: Tensor
    y: Tensor

    @staticmethod
    def draw(num_rows: int, minority: float, generator: torch.Generator) -> "TwoGroups":
        """Draw people, of whom a share belongs to the minority.

        Raises:
            InputError: If the number is not positive, or the share is not between 0 and 1.
        """
        require_positive(num_rows=num_rows)
        if not 0 < minority < 1:
            raise InputError(f"minority must be between 0 and 1, not {minority}")
        X = torch.randn(num_rows, 2, generator=generator)
        group = (torch.rand(num_rows, generator=generator) < minority).long()
        probabilities = (SLOPE * X.gather(1, group[:, None]).squeeze(1) + OFFSET).sigmoid()
        y = torch.bernoulli(probabilities, generator=generator)
        return TwoGroups(X, group, probabilities, y)

    def part(self, rows: slice) -> "TwoGroups":
        """Return some of the people."""
        return TwoGroups(*(values[rows] for values in vars(self).values()))

    def features(self, knows_group: bool) -> Tensor:
        """Return the measurements, and the group with its own measurements if they are known: ``(n, 5)``.

        What is not known is 0.
        """
        own = self.group[:, None] * torch.cat([torch.ones(len(self.X), 1), self.X], dim=1)
        return torch.cat([self.X, own * knows_group], dim=1)

    def equal_weights(self) -> Tensor:
        """Return weights with which both groups count the same, with a mean of 1: shape ``(n,)``.

        Raises:
            InputError: If a group has nobody.
        """
        counts = torch.bincount(self.group, minlength=2)
        if not counts.all():
            raise InputError(
                f"a group has nobody among {len(self.group)} people; take more, or another share"
            )
        return (len(self.group) / (2 * counts))[self.group]
