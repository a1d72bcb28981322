"""Tables that lack values of one column, at random or not, and models with something in their place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from d2l_lightning.data.tables.encoder import Missing, TableEncoder
from d2l_lightning.data.tables.features import Columns
from d2l_lightning.errors import InputError
from d2l_lightning.functional.missing import missing_probabilities
from d2l_lightning.functional.regression import log_rmse

METHODS: tuple[Missing, ...] = ("mean", "median", "indicator")
PATTERNS = ("at_random", "not_at_random")


@dataclass(frozen=True)
class Candidate:
    """A model of a table in which some values of the first column are missing.

    Attributes:
        pattern: ``complete``, or one of ``PATTERNS``.
        method: What takes the place of missing values.
        missing: Whether the value of each row is missing, shape ``(n,)``.
    """

    pattern: str
    method: Missing
    missing: Tensor

    def features(self, values: Tensor) -> Tensor:
        """Return the features of all rows, given the values ``(n, p)``: shape ``(n, p + 1)``.

        The last feature is the indicator. With other methods it is 0, which has no effect on a model.
        """
        import pandas as pd

        values = values.clone()
        values[self.missing, 0] = torch.nan
        names = [str(i) for i in range(values.shape[1])]
        encoder = TableEncoder(Columns(dict.fromkeys(names, "number")), missing_numbers=self.method)
        X = encoder.fit_transform(pd.DataFrame(values.numpy(), columns=names))
        return F.pad(X, (0, len(names) + 1 - X.shape[1]))

    def score(self, predictions: Tensor, y: Tensor) -> dict[str, float]:
        """Return the log RMSE for all rows, and errors for the rows whose value is missing.

        ``price_ratio_missing`` is the geometric mean of the ratios of predicted to true prices.
        """
        scores = {"log_rmse": log_rmse(predictions, y).item()}
        if self.missing.any():
            own, truth = predictions[self.missing], y[self.missing]
            scores["log_rmse_missing"] = log_rmse(own, truth).item()
            scores["price_ratio_missing"] = (own.log() - truth.log()).mean().exp().item()
        return scores


def make_candidates(
    values: Tensor, share: float, strength: float, draws: int, generator: torch.Generator
) -> list[Candidate]:
    """Return a candidate without missing values, and one for each pattern, draw and method.

    Args:
        values: The values of the column that loses some, shape ``(n,)``.
        share: The share of values that are missing.
        strength: How much more often large values are missing, see ``missing_probabilities``.
        draws: Number of draws of the missing values for each pattern.
        generator: The source of randomness.

    Raises:
        InputError: If a number is out of its range, or fewer than two values are missing or present.
    """
    candidates = [Candidate("complete", "mean", torch.zeros(len(values), dtype=torch.bool))]
    for pattern, power in zip(PATTERNS, (0.0, strength), strict=True):
        probabilities = missing_probabilities(values, share, power)
        for _ in range(draws):
            missing = torch.rand(len(values), dtype=torch.float64, generator=generator) < probabilities
            if not 1 < missing.sum() < len(values) - 1:
                raise InputError(f"share {share} of {len(values)} values leaves too few of one kind")
            candidates += [Candidate(pattern, method, missing) for method in METHODS]
    return candidates


def collect_scores(
    candidates: Sequence[Candidate], scores: Sequence[Mapping[str, float]], values: Tensor
) -> dict[str, Any]:
    """Return means over the draws by pattern and method, with the log RMSE of each draw.

    ``mean_of_missing`` and ``mean_of_others`` are means of the column's ``values``, shape ``(n,)``.
    """
    results: dict[str, Any] = {"complete": dict(scores[0])}
    for pattern in PATTERNS:
        own = [(c, s) for c, s in zip(candidates, scores, strict=True) if c.pattern == pattern]
        by_method: dict[str, Any] = {}
        for method in METHODS:
            draws = [score for candidate, score in own if candidate.method == method]
            means = {name: fmean(draw[name] for draw in draws) for name in draws[0]}
            by_method[method] = {**means, "draws": [draw["log_rmse"] for draw in draws]}
        for name, sign in (("mean_of_missing", True), ("mean_of_others", False)):
            by_method[name] = fmean(values[c.missing == sign].mean().item() for c, _ in own)
        results[pattern] = by_method
    return results
