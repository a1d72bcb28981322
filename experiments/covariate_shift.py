"""Covariate shift with known weights, and the power of the detector on Fashion-MNIST (4.9.3)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import fmean, median
from typing import Any

from d2l_lightning.data.shifted_images import ShiftedFashionMNIST
from d2l_lightning.data.synthetic_shift import SyntheticCovariateShift
from d2l_lightning.errors import require_not_negative, require_positive
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.plots.shift import detections, fitted_lines
from d2l_lightning.plots.style import Curve
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Report, Table
from d2l_lightning.runs.run import Run
from d2l_lightning.shift.comparison import Comparison, compare, comparison_report
from d2l_lightning.shift.covariate import Detection, require_trial_rows, run_trials
from d2l_lightning.shift.domain import DomainSettings, domain_classifier

import torch

# The level of the tests: the probability of a false alarm.
LEVEL = 0.05


def line(num_inputs: int, **model: Any) -> LinearRegression:
    """Return a linear model with squared loss."""
    return LinearRegression(num_inputs, loss="squared", huber_threshold=1.0, **model)


def changed_images(**data: Any) -> ShiftedFashionMNIST:
    """Return Fashion-MNIST with a change of all images of the target and of none of the source."""
    return ShiftedFashionMNIST(source_share=0.0, target_share=1.0, num_source=10000, batch_size=256, **data)


def main(
    run: Run,
    trials: int = 200,
    trial_rows: int = 1000,
    trial_epochs: int = 5,
    data: Callable[..., SyntheticCovariateShift] = SyntheticCovariateShift,
    model: Callable[..., LinearRegression] = line,
    domain: Callable[..., DomainSettings] = DomainSettings,
    images: Callable[..., ShiftedFashionMNIST] = changed_images,
) -> None:
    """Estimate, correct and detect covariate shift: with known weights, and on Fashion-MNIST (4.9.3).

    Args:
        run: The run.
        trials: Number of tests on Fashion-MNIST without a shift, and of tests with a shift; 0 for no tests.
        trial_rows: Rows of source and of target in a test.
        trial_epochs: Epochs of the domain classifier of each test.
        data: The data with known weights.
        model: The model.
        domain: The settings of the domain classifiers.
        images: The images of the tests.
    """
    require_not_negative(trials=trials)
    require_positive(trial_rows=trial_rows, trial_epochs=trial_epochs)
    settings, synthetic, shifted = domain(), data(seed=run.seed), images(seed=run.seed)
    linear = model(synthetic.num_inputs)
    if trials:
        shifted.prepare_data()
        shifted.setup()
        source, target = (shifted.X[shifted.rows[side]] for side in ("source", "target"))
        require_trial_rows(trial_rows, source, target)
    comparison = compare(run.fit, synthetic, linear, settings)
    report = comparison_report(comparison, "mean squared error", "mean squared error")
    fits = {"fits": partial(fitted_lines, *lines(synthetic, comparison))}
    report = replace(report, figures={**report.figures, **fits})
    if trials:
        classifier = domain_classifier(source.shape[1], settings.domain_hidden_sizes, settings.domain_lr)
        numbers = (trials, trial_rows, trial_epochs, settings.num_permutations, run.seed)
        tests = {
            name: run_trials(run.fit, source, side, classifier, *numbers)
            for name, side in (("without shift", None), ("with shift", target))
        }
        report = with_tests(report, tests, f"{shifted.kind} {shifted.amount:g}", trial_rows)
    run.finish(**vars(report))


def lines(
    data: SyntheticCovariateShift, comparison: Comparison
) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], list[Curve]]:
    """Return points of source and target along the direction of the shift, and the fitted lines."""
    t = data.X @ data.direction
    points = {name: (t[data.rows[name]], data.y[data.rows[name]]) for name in ("source", "target")}
    ends = torch.stack([t.min(), t.max()])
    X = ends[:, None] * data.direction
    with torch.no_grad():
        y = {name: model(X.to(model.dtype)) for name, model in comparison.models.items()}
    return points, [(comparison.labels[name], ends.tolist(), values.tolist()) for name, values in y.items()]


def with_tests(report: Report, tests: dict[str, list[Detection]], shift: str, rows: int) -> Report:
    """Return the report with the tests for a shift."""
    aucs = {name: [test.auc for test in each] for name, each in tests.items()}
    p_values = {name: [test.p_value for test in each] for name, each in tests.items()}
    rates = {name: fmean(p <= LEVEL for p in values) for name, values in p_values.items()}
    num_tests = len(tests["with shift"])
    shares = {"false_alarm_rate": rates["without shift"], "power": rates["with shift"], "trials": num_tests}
    columns = (f"{num_tests} tests", "median AUC", f"share with a p-value of at most {LEVEL}")
    cells = [(name, f"{median(aucs[name]):.4f}", f"{rate:.3f}") for name, rate in rates.items()]
    note = (
        f"Each test compares {rows} rows of the source with {rows} rows of the target or, without shift, of "
        "the source. Half of them train a classifier; AUC and p-value are those of the other half. Without "
        "shift, the share is that of false alarms; with shift, the power of the test."
    )
    return replace(
        report,
        results={**report.results, "detector": {**report.results["detector"], **shares}},
        tables=[*report.tables, Table(f"detector on Fashion-MNIST ({shift})", columns, cells, note)],
        figures={**report.figures, "detector": partial(detections, aucs, p_values, LEVEL, shift)},
    )


if __name__ == "__main__":
    run_experiment(main)
