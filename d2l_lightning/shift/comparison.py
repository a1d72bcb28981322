"""Compare training for a target without weights, with estimated weights, and with true ones; report it."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from d2l_lightning.data.covariate_shift import CovariateShiftData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import require_finite
from d2l_lightning.models.base import SupervisedModule
from d2l_lightning.plots.shift import overlap
from d2l_lightning.plots.style import curve_figure
from d2l_lightning.runs.report import Report, Table
from d2l_lightning.shift.covariate import Detection, EstimatedShift, estimate_and_detect
from d2l_lightning.shift.domain import DomainSettings, FitFunction

NAMES = ("uncorrected", "corrected", "oracle")


@dataclass(frozen=True)
class Comparison:
    """Three fits of one model for a target, by the names ``uncorrected``, ``corrected`` and ``oracle``.

    They use no weights, estimated weights, and the truth: the true weights or, if these are unknown, the
    target's labels.

    Attributes:
        estimated: The estimated weights.
        detection: The result of the test for a shift.
        ratio: The true weights of the source's rows, shape ``(n,)``, or None.
        models: The fitted models.
        risks: The mean loss of each model on the target's test rows.
        curves: The epochs and values of a metric on the target's test rows during each fit.
    """

    estimated: EstimatedShift
    detection: Detection
    ratio: Tensor | None
    models: dict[str, SupervisedModule]
    risks: dict[str, float]
    curves: dict[str, tuple[list[int], list[float]]]

    @property
    def labels(self) -> dict[str, str]:
        """How each model was trained, for tables and figures."""
        truth = "the target's labels" if self.ratio is None else "true weights"
        return dict(zip(NAMES, ("no weights", "estimated weights", truth), strict=True))

    @property
    def weight_correlation(self) -> float | None:
        """The correlation of the estimated and the true weights; None if it is unknown or undefined."""
        if self.ratio is None:
            return None
        value = torch.corrcoef(torch.stack([self.estimated.weights, self.ratio]))[0, 1].item()
        return value if value == value else None  # it is undefined for constant weights

    @property
    def recovered(self) -> float | None:
        """The reduction of the risk by the correction, as a share of that by the truth; None without one."""
        possible = self.risks["uncorrected"] - self.risks["oracle"]
        return (self.risks["uncorrected"] - self.risks["corrected"]) / possible if possible > 0 else None


def compare(
    fit: FitFunction,
    data: CovariateShiftData,
    model: SupervisedModule,
    settings: DomainSettings | None = None,
    metric: str = "loss",
) -> Comparison:
    """Estimate a source's weights for a target, and compare three fits on the target's test rows.

    Copies of the model train side by side on batches in the same order, by ``Run.fit`` or a function with its
    arguments. ``metric`` is that of ``Comparison.curves``.

    Raises:
        InputError: As ``estimate_and_detect``, or if a loss is not finite.
    """
    data.prepare_data()
    data.setup()
    X, y = data.X, data.y
    source, target, test = (data.rows[name] for name in ("source", "target", "test"))
    estimated, detection = estimate_and_detect(fit, X[source], X[target], settings, seed=data.seed)
    weights = torch.ones(3, len(y))
    weights[1, source] = with_mean_1(estimated.weights)
    oracle = source
    if data.ratio is not None:
        weights[2, source] = with_mean_1(data.ratio)
    else:  # repeated, so that it takes as many steps as the others
        oracle = target.repeat(-(-len(source) // len(target)))[: len(source)]
    rows, order = {"train": [source, source, oracle], "val": [test] * 3}, (data.batch_size, data.seed)
    stacked_data = StackedData(X, y, rows, *order, same_order=True, weights={"train": weights})
    stacked = StackedModule([copy.deepcopy(model) for _ in NAMES], NAMES)
    fitted = fit("models", stacked, stacked_data, prefix="", complete=True)
    models = {name: member.eval() for name, member in zip(NAMES, stacked.unstack(), strict=True)}
    with torch.no_grad():
        losses = {name: each.example_losses(X[test].to(each.dtype), y[test]) for name, each in models.items()}
        risks = {name: of_rows.to(X.dtype).mean() for name, of_rows in losses.items()}
    require_finite(**{f"the risk of the {name} model": risk for name, risk in risks.items()})
    values = {name: risk.item() for name, risk in risks.items()}
    curves = {name: fitted.curve(f"val/{metric}/{name}") for name in NAMES}
    return Comparison(estimated, detection, data.ratio, models, values, curves)


def with_mean_1(weights: Tensor) -> Tensor:
    """Return weights divided by their mean, float32, so that they do not change the best learning rate."""
    return (weights / weights.mean()).float()


def comparison_report(comparison: Comparison, risk: str, metric: str) -> Report:
    """Return the report of a comparison; ``risk`` names the loss, ``metric`` the metric of its curves."""
    estimated, risks, labels = comparison.estimated, comparison.risks, comparison.labels
    correlation, recovered = comparison.weight_correlation, comparison.recovered
    note = "The estimated weights do not help here."
    if risks["corrected"] < risks["uncorrected"]:
        of_truth = f"of the improvement that {labels['oracle']} bring"
        note = f"The estimated weights bring {recovered:.0%} {of_truth}." if recovered else ""
    rows = [(f"trained with {labels[name]}", f"{value:.4f}") for name, value in risks.items()]
    shown = "unknown" if correlation is None else f"{correlation:.4f}"
    curves = {"": [(labels[name], *curve) for name, curve in comparison.curves.items()]}
    scores = (estimated.source_scores, estimated.target_scores)
    title = f"The target's test rows: {metric}"
    return Report(
        {
            "weight_correlation": correlation,
            **{f"risk_{name}": value for name, value in risks.items()},
            "recovered": recovered,
            **shift_results(estimated, comparison.detection),
        },
        figures={
            "weights": partial(overlap, *scores, estimated.weights, comparison.ratio),
            "risk": partial(curve_figure, title, curves, "epoch", metric, yscale="log"),
        },
        tables=[
            Table("test rows of the target", ("model", risk), rows, note),
            shift_table(
                estimated, comparison.detection, [("correlation of estimated and true weights", shown)]
            ),
        ],
        notes=[f"Note: {warning}" for warning in estimated.warnings()],
    )


def shift_results(estimated: EstimatedShift, detection: Detection) -> dict[str, Any]:
    """Return the numbers of an estimate and a test as plain values, for ``results.json``."""
    return {
        "effective_sample_size": estimated.effective_sample_size,
        "uncovered": estimated.uncovered,
        "detector": {"auc": detection.auc, "p_value": detection.p_value},
    }


def shift_table(
    estimated: EstimatedShift, detection: Detection, last: Sequence[tuple[str, str]] = (), note: str = ""
) -> Table:
    """Return a table of an estimate and a test, with further rows at its end and a note below."""
    rows = [
        ("rows of the source", f"{len(estimated.source_scores)}"),
        ("rows of the target", f"{len(estimated.target_scores)}"),
        ("test for a shift: AUC of a classifier of source and target", f"{detection.auc:.4f}"),
        ("test for a shift: p-value", f"{detection.p_value:.4f}"),
        ("effective sample size of the weighted source", f"{estimated.effective_sample_size:.1f}"),
        ("target rows without a similar source row", f"{estimated.uncovered:.2%}"),
        *last,
    ]
    return Table("source and target", ("quantity", "value"), rows, note)
