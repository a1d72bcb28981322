"""Covariate shift: weights against known ones, what correcting by them is worth, and a detector (4.9.3)."""

from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor

from d2l_lightning.batches import epoch_generator
from d2l_lightning.data.covariate_shift import ShiftedFashionMNIST, SyntheticCovariateShift
from d2l_lightning.errors import InputError, require_not_negative, require_positive
from d2l_lightning.figures import draw_curves, panels
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.module import SupervisedModule
from d2l_lightning.run import Run, run_experiment
from d2l_lightning.shift.comparison import DomainSettings, correct_and_compare, histogram, span_of, whole_fit
from d2l_lightning.shift.covariate import Detection, detect, domain_classifier

LEVEL = 0.05


def main(
    run: Run,
    num_inputs: int,
    shift: float,
    curvature: float,
    noise: float,
    num_source: int,
    num_target: int,
    num_test: int,
    domain_hidden_sizes: list[int],
    domain_lr: float,
    domain_steps: int,
    k: int,
    cap: float,
    trials: int,
    trial_rows: int,
    trial_epochs: int,
    kind: Literal["rotation", "noise", "brightness"],
    amount: float,
    num_permutations: int,
    batch_size: int,
    lr: float,
    data_dir: str | None = None,
) -> None:
    """Estimate, correct and detect covariate shift: with known weights, and on Fashion-MNIST (4.9.3).

    Args:
        run: The run.
        num_inputs: Number of features.
        shift: How far the mean of the features moves from source to target.
        curvature: How much the targets curve: a line fits them where it was trained only.
        noise: Standard deviation of the targets' noise.
        num_source: Rows of the source.
        num_target: Rows of the target, without labels.
        num_test: Rows of the target to tell the risk on.
        domain_hidden_sizes: Hidden layers of the domain classifier; none for logistic regression.
        domain_lr: Adam's learning rate of the domain classifier.
        domain_steps: Steps of its training at least.
        k: Number of folds of the cross-fitting.
        cap: The greatest weight, c.
        trials: Tests without shift, and as many with shift, on Fashion-MNIST; 0 to leave them out.
        trial_rows: Rows of each side in a test.
        trial_epochs: Epochs of a test's domain classifier.
        kind: What is done to the target's images in a test with shift.
        amount: Degrees of rotation, standard deviation of the noise, or factor of the brightness.
        num_permutations: How often held-out rows are dealt out for a p-value.
        batch_size: Rows in a batch.
        lr: Learning rate of minibatch SGD.
        data_dir: A folder with the four IDX files; if not given, they are found or downloaded.
    """
    require_not_negative(trials=trials)
    require_positive(trial_rows=trial_rows, trial_epochs=trial_epochs)
    domain = DomainSettings(domain_hidden_sizes, domain_lr, domain_steps, k, cap, num_permutations)
    data = SyntheticCovariateShift(
        num_inputs, shift, curvature, noise, num_source, num_target, num_test, batch_size, run.seed
    )
    model = LinearRegression(num_inputs, lr)
    images = images_for_trials(data_dir, kind, amount, trial_rows, run.seed) if trials else None
    results, models = correct_and_compare(
        run,
        data,
        model,
        "mean squared error",
        ("loss", "mean squared error"),
        domain,
    )
    run.figure(fits(data, models), "fits")
    if images is not None:
        make = domain_classifier(images.X.shape[1], domain_hidden_sizes, domain_lr)
        found = {
            name: run_trials(run, images, name, trials, trial_rows, trial_epochs, make, num_permutations)
            for name in ("without shift", "with shift")
        }
        rates = {name: sum(one.p_value <= LEVEL for one in tests) / trials for name, tests in found.items()}
        results["detector"] |= {
            "false_alarm_rate": rates["without shift"],
            "power": rates["with shift"],
            "trials": trials,
        }
        rows = [
            (name, f"{torch.tensor([one.auc for one in tests]).median().item():.4f}", f"{rates[name]:.3f}")
            for name, tests in found.items()
        ]
        run.table(
            f"detector on Fashion-MNIST ({kind} {amount:g})",
            (f"{trials} tests", "median AUC", f"share with p <= {LEVEL}"),
            rows,
            f"{trial_rows} rows on each side, half of them to test on.",
        )
        run.figure(detections(found, f"{kind} {amount:g}"), "detector")
    run.finish(results)


def images_for_trials(
    data_dir: str | None,
    kind: Literal["rotation", "noise", "brightness"],
    amount: float,
    rows: int,
    seed: int,
) -> ShiftedFashionMNIST:
    """Read images for the detector's tests; raise an InputError if they are too few."""
    images = ShiftedFashionMNIST(data_dir, kind, amount, seed=seed)
    images.prepare_data()
    images.setup()
    most = min(len(images.rows["source"]) // 2, len(images.rows["target"]))
    if not 2 <= rows <= most:
        raise InputError(f"trial_rows must be from 2 to {most}, as there are no more images, not {rows}")
    return images


def run_trials(
    run: Run,
    images: ShiftedFashionMNIST,
    name: str,
    trials: int,
    rows: int,
    epochs: int,
    make_classifier: Any,
    num_permutations: int,
) -> list[Detection]:
    """Test images against other images of the source, or against shifted ones, many times side by side."""
    source = images.X[images.rows["source"]]
    shift = name == "with shift"
    target = images.X[images.rows["target"]] if shift else source
    generator = epoch_generator(run.seed, 0, 5)
    drawn: list[tuple[Tensor, Tensor]] = []
    for _ in range(trials):
        order = torch.randperm(len(source), generator=generator)
        others = torch.randperm(len(target), generator=generator) if shift else order[rows:]
        drawn.append((order[:rows], others[:rows]))

    # Not logged: hundreds of curves that nobody would look at.
    fit = whole_fit(run, f"tests {name}", epochs, logged=False)
    return detect(
        fit, source, target, make_classifier, drawn, num_permutations=num_permutations, seed=run.seed
    )


def fits(data: SyntheticCovariateShift, models: dict[str, SupervisedModule]) -> Figure:
    """Draw source, target and the models along the direction of the shift."""
    figure, (panel,) = panels(
        [""], "A line for a curve: where it fits depends on the rows", "t = <a, x>", "y"
    )
    t = data.X @ data.direction
    for name, colour, marker in (("source", "0.75", "o"), ("target", "0.45", "x")):
        rows = data.rows[name][:400]
        panel.plot(
            t[rows].numpy(), data.y[rows].numpy(), marker, markersize=3, color=colour, label=name,
            linestyle="none", zorder=1,
        )  # fmt: skip
    ends = torch.tensor([t.min().item(), t.max().item()])
    lines = []
    for name, model in models.items():
        with torch.no_grad():
            lines.append((name, ends.tolist(), model(ends[:, None] * data.direction).tolist()))
    draw_curves(panel, lines)
    panel.legend(frameon=False)
    return figure


def detections(found: dict[str, list[Detection]], shift: str) -> Figure:
    """Draw the AUC of all tests, and the share of p-values up to each level."""
    figure, (areas, levels) = panels(
        ["AUC on held-out rows", "how often a test raises an alarm"],
        f"Detecting a shift of Fashion-MNIST: {shift}",
        ["area under the curve", "level of the test"],
        ["share of tests per bin", "share of tests with p up to it"],
    )
    values = {name: torch.tensor([one.auc for one in tests]) for name, tests in found.items()}
    span = span_of(torch.cat(list(values.values())))
    curves = []
    for (name, aucs), colour, filled in zip(
        values.items(), ("#0072B2", "#D55E00"), (True, False), strict=True
    ):
        histogram(areas, name, aucs, span, colour, filled)
        sorted_p = sorted(one.p_value for one in found[name])
        n = len(sorted_p)
        curves.append((name, [0, *sorted_p, 1], [0, *((i + 1) / n for i in range(n)), 1]))
    draw_curves(levels, curves)
    levels.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="what chance would give")
    levels.axvline(LEVEL, color="0.6", linewidth=1, linestyle=":", label=f"level {LEVEL}")
    areas.legend(frameon=False)
    levels.legend(frameon=False)
    return figure


if __name__ == "__main__":
    run_experiment(main)
