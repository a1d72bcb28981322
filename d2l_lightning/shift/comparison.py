"""What every experiment on covariate shift does: train without weights, with estimated and with true ones."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from d2l_lightning.data.covariate_shift import CovariateShiftData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError, require_finite, require_positive
from d2l_lightning.figures import COLOURS, draw_curves, log_scale, panels
from d2l_lightning.module import SupervisedModule
from d2l_lightning.run import Run
from d2l_lightning.shift.covariate import (
    Detection,
    EstimatedShift,
    Fit,
    detect,
    domain_classifier,
    estimate,
)

# More points would hide each other.
SHOWN = 1500
# Rows in a batch of the domain classifiers.
BATCH_SIZE = 100
# How often a fit of a given number of epochs is validated.
CHECKS = 50


def whole_fit(run: Run, title: str, epochs: int | None = None, logged: bool = True) -> Fit:
    """Return what fits a model with the run's flags, once, and refuses flags that end it early.

    Args:
        run: The run.
        title: What is trained, for the progress bar and messages.
        epochs: The epochs, if they are not those of the flags.
        logged: Whether metrics are logged.
    """
    given = {name for name, value in run.trainer_flags.items() if value not in (None, 1)}

    def fit(model: LightningModule, data: LightningDataModule) -> None:
        trainer = run.trainer(title, max_epochs=epochs)
        if not logged:
            trainer.loggers = []
        if epochs is not None and "check_val_every_n_epoch" not in given:
            trainer.check_val_every_n_epoch = max(1, epochs // CHECKS)  # there may be thousands of short ones
        trainer.fit(model, data)
        wanted = trainer.max_epochs or 0
        if not trainer.fast_dev_run and not 0 < wanted <= trainer.current_epoch:  # type: ignore[attr-defined]
            raise InputError(f"the flags end the fit of the {title} early; what it would say is no finding")

    return fit


@dataclass(frozen=True)
class DomainSettings:
    """How a domain classifier is trained, and what is made of it.

    Attributes:
        hidden_sizes: Width of each hidden layer; none for logistic regression.
        lr: Adam's learning rate.
        steps: Steps of its training at least; it ends with an epoch.
        k: Number of folds.
        cap: The greatest weight.
        num_permutations: Of the detector.

    Raises:
        InputError: If a number is out of its range.
    """

    hidden_sizes: Sequence[int]
    lr: float
    steps: int
    k: int
    cap: float
    num_permutations: int

    def __post_init__(self) -> None:
        require_positive(
            domain_lr=self.lr,
            domain_steps=self.steps,
            cap=self.cap,
            num_permutations=self.num_permutations,
        )


def estimate_and_detect(
    run: Run, source: Tensor, target: Tensor, domain: DomainSettings
) -> tuple[EstimatedShift, Detection]:
    """Estimate the weights of a source for a target, and test whether the two differ at all.

    Args:
        run: The run.
        source: Features, shape ``(n, d)``.
        target: Features, shape ``(m, d)``.
        domain: The settings.

    Raises:
        InputError: As ``shift.covariate.estimate`` and ``detect``.
    """
    rows = len(source) + len(target)
    make_classifier = domain_classifier(
        source.shape[1], domain.hidden_sizes, domain.lr, weight_decay=1 / rows
    )
    sides = source, target, make_classifier
    in_folds = rows - rows // max(domain.k, 2)
    estimated = estimate(
        whole_fit(run, "domain classifiers", epochs_for(domain.steps, in_folds, BATCH_SIZE)),
        *sides,
        domain.k,
        domain.cap,
        BATCH_SIZE,
        run.seed,
    )
    (detection,) = detect(
        whole_fit(run, "detector", epochs_for(domain.steps, rows // 2, BATCH_SIZE)),
        *sides,
        None,
        domain.num_permutations,
        BATCH_SIZE,
        run.seed,
    )
    return estimated, detection


def epochs_for(steps: int, rows: int, batch_size: int) -> int:
    """Return how many epochs, two at least, take so many steps: a small file needs more of them."""
    return max(2, math.ceil(steps / math.ceil(max(1, rows) / batch_size)))


def correct_and_compare(
    run: Run,
    data: CovariateShiftData,
    model: SupervisedModule,
    risk: str,
    metric: tuple[str, str],
    domain: DomainSettings,
) -> tuple[dict[str, Any], dict[str, SupervisedModule]]:
    """Estimate a source's weights for a target, and compare three fits on the target's test rows.

    Copies of the model are trained side by side in the same order: ``uncorrected`` without weights,
    ``corrected`` with the estimated ones, and ``oracle``, which knows the truth: the true weights, or, where
    nobody knows those, the target's labels.

    Args:
        run: The run; it is not finished here.
        data: The data.
        model: The model.
        risk: What the model's loss is, for the table.
        metric: The metric to draw over the epochs, and what to call it.
        domain: The settings of the domain classifier.

    Returns:
        The results, and the fitted models by name.

    Raises:
        InputError: If a number is out of its range, or a loss is not finite.
    """
    data.prepare_data()
    data.setup()
    estimated, detection = estimate_and_detect(
        run, data.X[data.rows["source"]], data.X[data.rows["target"]], domain
    )
    models = fit_all(run, data, model, estimated.weights)
    X, y = data.X[data.rows["test"]], data.y[data.rows["test"]]
    with torch.no_grad():
        risks = {name: member.example_losses(X, y).mean() for name, member in models.items()}
    require_finite(**{f"the risk of the {name} model": value for name, value in risks.items()})
    told = {name: value.item() for name, value in risks.items()}
    oracle = "the target's labels" if data.ratio is None else "true weights"
    correlation = None if data.ratio is None else _correlation(estimated.weights, data.ratio)
    possible = told["uncorrected"] - told["oracle"]
    results = {
        "weight_correlation": correlation,
        **{f"risk_{name}": value for name, value in told.items()},
        "recovered": (told["uncorrected"] - told["corrected"]) / possible if possible > 0 else None,
        "effective_sample_size": estimated.effective_sample_size,
        "uncovered": estimated.uncovered,
        "detector": {"auc": detection.auc, "p_value": detection.p_value},
    }
    show(run, results, data, risk, oracle)
    for warning in estimated.warnings():
        print(f"Note: {warning}")
    run.figure(overlap(estimated, data.ratio), "weights")
    run.figure(risk_curves(run, models, metric, oracle), "risk")
    return results, models


def fit_all(
    run: Run, data: CovariateShiftData, model: SupervisedModule, weights: Tensor
) -> dict[str, SupervisedModule]:
    """Train a model without weights, with estimated, and with true ones or on the target's labels."""
    source, target = data.rows["source"], data.rows["target"]
    of_rows = torch.ones(3, len(data.y))
    of_rows[1, source] = mean_1(weights)
    known = source
    if data.ratio is not None:
        of_rows[2, source] = mean_1(data.ratio)
    else:  # again and again, so that it takes as many steps as the others
        known = target.repeat(-(-len(source) // len(target)))[: len(source)]
    names = ("uncorrected", "corrected", "oracle")
    stacked_data = StackedData(
        data.X,
        data.y,
        {"train": [source, source, known], "val": [data.rows["test"]] * 3},
        data.batch_size,
        run.seed,
        same_order=True,
        weights={"train": of_rows},
    )
    stacked = StackedModule([copy.deepcopy(model) for _ in names], names)
    whole_fit(run, "models")(stacked, stacked_data)
    return {name: member.eval() for name, member in zip(names, stacked.unstack(), strict=True)}


def mean_1(weights: Tensor) -> Tensor:
    """Return weights with a mean of 1, so that a learning rate is right for any, in single precision."""
    return (weights / weights.mean()).float()


def show(run: Run, results: Mapping[str, Any], data: CovariateShiftData, risk: str, oracle: str) -> None:
    """Print the risks, and what there is to know about the weights."""
    rows = [
        ("trained on the source as it is", f"{results['risk_uncorrected']:.4f}"),
        ("trained with estimated weights", f"{results['risk_corrected']:.4f}"),
        (f"trained with {oracle}", f"{results['risk_oracle']:.4f}"),
    ]
    recovered = results["recovered"]
    note = "" if recovered is None else f"The correction recovers {recovered:.0%} of what the truth would."
    if results["risk_corrected"] >= results["risk_uncorrected"]:
        note = "The correction does not help here."
    run.table("on the target's test rows", ("", risk), rows, note)
    n, detector = len(data.rows["source"]), results["detector"]
    correlation = results["weight_correlation"]
    facts = [
        ("rows of the source", f"{n}"),
        ("rows of the target", f"{len(data.rows['target'])}"),
        ("detector: AUC on held-out rows", f"{detector['auc']:.4f}"),
        ("detector: p-value", f"{detector['p_value']:.4f}"),
        ("effective sample size", f"{results['effective_sample_size']:.1f}"),
        ("target unlike any of the source", f"{results['uncovered']:.2%}"),
        ("correlation with true weights", "unknown" if correlation is None else f"{correlation:.4f}"),
    ]
    run.table("source and target", ("", "figure"), facts)


def _correlation(ours: Tensor, true: Tensor) -> float | None:
    value = torch.corrcoef(torch.stack([ours, true]))[0, 1].item()
    return value if value == value else None  # weights that are all alike have none


def overlap(estimated: EstimatedShift, ratio: Tensor | None = None) -> Figure:
    """Draw how far the scores of source and target overlap, and the weights, beside true ones if known."""
    right = "weights of the source's rows" if ratio is None else "estimated and true weights"
    xlabels = ["log-odds that a row is of the target, h", "weight" if ratio is None else "true weight"]
    ylabels = ["share of rows per bin", "rows" if ratio is None else "estimated weight"]
    figure, (scores, weights) = panels(
        ["what the domain classifier says", right], "Source and target, as a classifier tells them apart",
        xlabels, ylabels,
    )  # fmt: skip
    sides = {"source": estimated.source_scores, "target": estimated.target_scores}
    span = span_of(torch.cat(list(sides.values())), 0.001)
    for (name, values), colour, filled in zip(sides.items(), COLOURS, (True, False), strict=False):
        histogram(scores, name, values.clamp(*span), span, colour, filled)
    scores.legend(frameon=False)
    if ratio is None:
        weights.hist(
            estimated.weights.numpy(), bins=40, range=span_of(estimated.weights), color=COLOURS[0], log=True
        )
        return figure
    some = torch.linspace(0, len(ratio) - 1, min(SHOWN, len(ratio))).long()
    weights.plot(
        ratio[some].numpy(), estimated.weights[some].numpy(), ".", markersize=3, alpha=0.5, color=COLOURS[0]
    )
    line = torch.tensor([ratio[ratio > 0].min().item(), ratio.max().item()])
    weights.plot(line, line, color="0.4", linewidth=1, linestyle="--", label="equal")
    log_scale(weights, "x")
    log_scale(weights)
    weights.legend(frameon=False)
    return figure


def span_of(values: Tensor, beyond: float = 0.0) -> tuple[float, float]:
    """Return where values begin and end, but for a share of them on either side; never one and the same."""
    ends = values.double().quantile(torch.tensor([beyond, 1 - beyond]).double())
    low, high = ends.tolist()
    room = 0.0 if high - low > 1e-3 * max(abs(low), abs(high), 1e-3) else max(0.5, abs(low) / 2)
    return low - room, high + room


def histogram(
    panel: Axes, name: str, values: Tensor, span: tuple[float, float], colour: str, filled: bool
) -> None:
    """Draw the shares of values in 40 bins, as an area or as a line."""
    panel.hist(
        values.numpy(),
        bins=40,
        range=span,
        weights=torch.full_like(values, 1 / len(values)).numpy(),
        histtype="stepfilled" if filled else "step",
        color=colour,
        alpha=0.45 if filled else 1,
        linewidth=1.6,
        label=name,
    )


def risk_curves(
    run: Run, models: Mapping[str, SupervisedModule], metric: tuple[str, str], oracle: str
) -> Figure:
    """Draw what each model reaches on the target over the epochs."""
    name_of, label = metric
    figure, (panel,) = panels([""], f"On the target's test rows: {label}", "epoch", label)
    said = {"uncorrected": "source as it is", "corrected": "estimated weights", "oracle": oracle}
    draw_curves(panel, [(said[name], *run.history.curve(f"val/{name_of}/{name}")) for name in models])
    log_scale(panel)
    panel.legend(frameon=False)
    return figure
