"""Counts, such as apples that are sold: Poisson regression against a linear model (3.1.6)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast

from d2l_lightning.data.counts import SyntheticCountData
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import require_members, require_positive
from d2l_lightning.functional.normal import count_negative_log_likelihood
from d2l_lightning.functional.poisson import poisson_negative_log_likelihood, poisson_probability
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.models.poisson_regression import PoissonRegression
from d2l_lightning.plots.counts import count_figure
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run

import torch
from torch import Tensor

NAMES = {"log": "Poisson, log rate", "softplus": "Poisson, rate", "linear": "linear, normal noise"}
RATES, NUM_COUNTS = (0.5, 2.0, 8.0), 100_000  # of the counts whose mean and variance are measured
Kind = Literal["log", "softplus", "linear"]
Model = PoissonRegression | LinearRegression


def count_model(num_inputs: int, kind: Kind, lr: float = 0.02) -> Model:
    """Return a Poisson regression with a link, or a linear model with the squared error.

    Args:
        num_inputs: Number of features.
        kind: The link, or ``linear``.
        lr: The learning rate of AdamW, for all models.
    """
    if kind == "linear":
        return LinearRegression(num_inputs, lr, optimizer="adamw")
    return PoissonRegression(num_inputs, lr, kind)


def main(
    run: Run,
    draws: int = 20,
    data: Callable[..., SyntheticCountData] = SyntheticCountData,
    model: Callable[..., Model] = count_model,
) -> None:
    """Predict counts by the likelihood of a Poisson distribution, and by least squares (3.1.6).

    Args:
        run: The run.
        draws: Number of data sets. The models of all data sets are trained side by side.
        data: The data.
        model: The models.
    """
    require_members(draws=draws)
    sets = [data(seed=run.seed * draws + draw) for draw in range(draws)]
    require_positive(num_val=sets[0].num_val)
    kinds = cast(Sequence[Kind], tuple(NAMES))
    members = {kind: [model(len(sets[0].w), kind) for _ in sets] for kind in kinds}
    trained = {kind: fit(run, kind, members[kind], sets) for kind in kinds}
    y, predictions = stack(sets, "val"), {kind: predict(trained[kind], sets, "val") for kind in kinds}
    errors = predict(trained["linear"], sets, "train") - stack(sets, "train")
    std = errors.square().mean(dim=1, keepdim=True).sqrt()
    below = {kind: torch.zeros(()) for kind in kinds}  # the probability of numbers that round to less than 0
    below["linear"] = torch.special.ndtr((-0.5 - predictions["linear"]) / std)
    losses = {kind: poisson_negative_log_likelihood(predictions[kind], y) for kind in kinds[:2]}
    losses["linear"] = count_negative_log_likelihood(predictions["linear"], y, std)
    models = {
        kind: {
            "negative_log_likelihood": losses[kind].mean().item(),
            "rmse": (predictions[kind] - y).square().mean().sqrt().item(),
            "negative_predictions": (predictions[kind] < 0).double().mean().item(),
            "probability_below_0": below[kind].mean().item(),
            **weights(trained[kind]),
        }
        for kind in kinds
    }
    results = {
        "models": models,
        "true_weights": [*sets[0].w.tolist(), sets[0].b],
        "rates": [counts_of_rate(rate, run.seed) for rate in RATES],
    }
    rate = sets[0].rate[sets[0].rows["val"]]
    quiet = rate.argmin()  # the row with the lowest rate
    k = torch.arange(-8, 7).double()
    of_poisson = poisson_probability(k.clamp(min=0), predictions["log"][0, quiet]).where(k >= 0, 0)
    of_linear = (-count_negative_log_likelihood(predictions["linear"][0, quiet], k, std[0])).exp()
    shown = {NAMES[kind]: predictions[kind][0] for kind in ("log", "linear")}
    probabilities = dict(zip(shown, (of_poisson, of_linear), strict=True))
    run.finish(
        results,
        checkpoints={kind: each[0] for kind, each in trained.items()},
        tables=tables(results, draws),
        figures={"counts": partial(count_figure, rate, y[0], shown, k, probabilities)},
    )


def fit(run: Run, kind: Kind, members: Sequence[Model], sets: Sequence[SyntheticCountData]) -> list[Model]:
    """Train a member on each data set, side by side; return the members."""
    X, y = torch.stack([each.X for each in sets]), torch.stack([each.y for each in sets])
    rows = {stage: [of_stage] * len(sets) for stage, of_stage in sets[0].rows.items()}
    stacked = StackedModule(members, [f"draw_{k}" for k in range(1, len(sets) + 1)])
    data = StackedData(X, y, rows, sets[0].batch_size, run.seed)
    run.fit(kind, stacked, data, title=NAMES[kind]).validate()  # raises an error if a member diverged
    return [cast(Model, member).cpu() for member in stacked.unstack()]


def stack(sets: Sequence[SyntheticCountData], stage: str) -> Tensor:
    """Return the counts of a stage in each data set, shape ``(K, n)``, in double precision."""
    return torch.stack([each.y[each.rows[stage]] for each in sets]).double()


@torch.no_grad()
def predict(models: Sequence[Model], sets: Sequence[SyntheticCountData], stage: str) -> Tensor:
    """Return what each model predicts for the rows of its data set, as ``stack`` returns the counts."""
    pairs = zip(models, sets, strict=True)
    return torch.stack([model(each.X[each.rows[stage]].to(model.dtype)) for model, each in pairs]).double()


def weights(models: Sequence[Model]) -> dict[str, list[float]]:
    """Return mean and standard deviation over the data sets of the weights and, last, of the bias."""
    found = torch.stack([torch.cat([w, b[None]]) for w, b in (model.get_w_b() for model in models)])
    return {"weights": found.mean(dim=0).tolist(), "spread": found.std(dim=0, correction=0).tolist()}


def counts_of_rate(rate: float, seed: int) -> dict[str, float]:
    """Return the expected value of counts by the formula, and mean and variance of counts (exercise 8.2)."""
    k = torch.arange(200).double()
    formula = (k * poisson_probability(k, torch.tensor(rate).double())).sum().item()
    generator = torch.Generator().manual_seed(seed)
    counts = torch.poisson(torch.full((NUM_COUNTS,), rate), generator=generator).double()
    return {"rate": rate, "formula": formula, "mean": counts.mean().item(), "variance": counts.var().item()}


def tables(results: Mapping[str, Any], draws: int) -> list[Table]:
    """Return tables of the models on test rows, of their weights, and of counts of known rates."""
    models, truth = results["models"], results["true_weights"]
    keys = ("negative_log_likelihood", "rmse", "negative_predictions", "probability_below_0")
    quality = [[NAMES[kind], *(found[key] for key in keys)] for kind, found in models.items()]
    columns = ("", "-log likelihood", "RMSE", "negative", "probability below 0")
    note = (
        f"Test rows of {draws} data sets. -log likelihood: mean of -log p(count); with normal noise, p is "
        "the probability of the numbers that round to the count. Negative: the share of predictions below 0."
    )
    num = min(3, len(truth) - 1)
    shown = [*range(num), -1]
    found = [["the truth", *(f"{truth[i]:.3f}" for i in shown)]]
    for kind, each in models.items():
        found.append([NAMES[kind], *(f"{each['weights'][i]:.3f} ± {each['spread'][i]:.3f}" for i in shown)])
    weights_note = (
        "Mean and standard deviation over the data sets. The true weights are those of the logarithm of the "
        "rate; the weights of the other models have another meaning."
    )
    rates = [
        [f"{each['rate']:g}", each["formula"], each["mean"], each["variance"]] for each in results["rates"]
    ]
    return [
        Table("counts of test rows", columns, quality, note),
        Table("weights", ("", *(f"w{i + 1}" for i in range(num)), "b"), found, weights_note),
        Table(f"{NUM_COUNTS:,} counts of a known rate", ("rate", "sum of k p(k)", "mean", "variance"), rates),
    ]


if __name__ == "__main__":
    run_experiment(main)
