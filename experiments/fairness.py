"""Fairness: errors of groups, decisions with costs, and predictions that change their own data (4.9.5)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from d2l_lightning.data.batches import data_generator
from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.data.two_groups import GROUPS, TwoGroups
from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.stacked import StackedModule
from d2l_lightning.errors import InputError, require_members, require_positive
from d2l_lightning.functional import fairness as formulas
from d2l_lightning.models.logistic_regression import LogisticRegression
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.plots import fairness as plots
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run
from d2l_lightning.tabular.cross_validation import cross_validate
from d2l_lightning.tabular.groups import errors_by_group

import torch
from torch import Tensor

# For each model of two groups: does it know who belongs to which, and do both groups count the same?
MODELS = {"one model": (False, False), "equal weights": (False, True), "knows the group": (True, False)}
TEST_ROWS, LR, BATCH_SIZE, FOLDS, SHOWN = 20_000, 0.05, 256, 5, 3
# Patrols in a round, the probability that one discovers a crime, crimes known at first, and repetitions.
PATROLS, CRIME, KNOWN, REPEATS = 100, 0.2, 20, 200


def main(
    run: Run,
    minority: float = 0.1,
    num_train: int = 4000,
    draws: int = 5,
    false_positive: float = 1.0,
    false_negative: float = 10.0,
    start: float = 0.55,
    focus: float = 2.0,
    rounds: int = 60,
    group_by: str = "Neighborhood",
    data_dir: str | Path | None = None,
) -> None:
    """Measure errors of groups, costs of decisions, and a feedback loop of predictions and data (4.9.5).

    Args:
        run: The run.
        minority: The share of people whose illness shows in another measurement than that of the majority.
        num_train: The number of people that the models learn from.
        draws: How often people are drawn. The models of all draws are trained side by side.
        false_positive: The cost of treating a person who is not ill.
        false_negative: The cost of not treating a person who is ill.
        start: The share of the known crimes that were discovered in the first of two districts before the
            first round. Both have equal crime.
        focus: Patrols are sent in proportion to this power of the predicted crime.
        rounds: Rounds of predictions and patrols.
        group_by: The column of the house prices whose values are groups of houses.
        data_dir: A folder with your own train.csv and test.csv, as in kaggle_house.py. If not given, the data
            of the package.
    """
    require_members(draws=draws)
    require_positive(rounds=rounds, num_train=num_train)
    best = formulas.best_threshold(false_positive, false_negative)
    if not 0 < start < 1:
        raise InputError(f"start must be between 0 and 1, not {start}")
    shares = feedback(start, focus, rounds, data_generator(run.seed))
    houses = KaggleHouse(data_dir, seed=run.seed)
    houses.setup()
    groups = houses.groups(group_by)
    generator = data_generator(run.seed)
    people = [TwoGroups.draw(num_train + TEST_ROWS, minority, generator) for _ in range(draws)]
    test = [each.part(slice(num_train, None)) for each in people]
    predicted = train(run, people, num_train)
    by_group = {name: scores(test, own) for name, own in predicted.items()}
    by_group["true probabilities"] = scores(test, [each.probabilities for each in test])
    thresholds = torch.cat([torch.linspace(0.01, 0.99, 99), torch.tensor([0.5, best])]).double()
    y = torch.cat([each.y for each in test])
    wrong = formulas.decision_rates(torch.cat(predicted["knows the group"]), y, thresholds)
    wrong["accuracy"] = 1 - wrong["false_positive"] - wrong["false_negative"]
    wrong["cost"] = false_positive * wrong["false_positive"] + false_negative * wrong["false_negative"]
    cv = cross_validate(run, houses, PriceRegressor, FOLDS)
    errors = errors_by_group(cv.mean_held_out(), houses.prices, groups, "log_rmse")
    results: dict[str, Any] = {
        "groups": by_group,
        "thresholds": {
            name: {"threshold": at, **{key: values[i].item() for key, values in wrong.items()}}
            for name, i, at in (("half", -2, 0.5), ("from_costs", -1, best))
        },
        "patrol_share": {name: values[-1].mean().item() for name, values in shares.items()},
        "houses": {"log_rmse": cv.results()["mean_pooled_val_log_rmse"], "groups": errors.to_dict("records")},
    }
    labels = patrol_labels(focus)
    over, right, cost = (values[:99].tolist() for values in (thresholds, wrong["accuracy"], wrong["cost"]))
    names, counts, own = (errors[name].tolist() for name in ("group", "rows", "log_rmse"))
    whole = results["houses"]["log_rmse"]
    run.finish(
        results,
        products={"houses_by_group.csv": errors},
        tables=tables(results, (false_positive, false_negative), labels, rounds, group_by),
        figures={
            "groups": partial(plots.group_bars, by_group),
            "thresholds": partial(plots.threshold_figure, over, right, cost, best),
            "feedback": partial(plots.feedback_figure, {labels[name]: each for name, each in shares.items()}),
            "houses": partial(plots.group_errors_figure, names, counts, own, whole, group_by),
        },
    )


def train(run: Run, people: Sequence[TwoGroups], num_train: int) -> dict[str, list[Tensor]]:
    """Train each model on each draw, side by side; return the probabilities of the test rows, by model."""
    cases = [(each, knows, equal) for knows, equal in MODELS.values() for each in people]
    X = torch.stack([each.features(knows) for each, knows, _ in cases])
    y = torch.stack([each.y for each, *_ in cases])
    weights = torch.ones_like(y)
    for weight, (each, _, equal) in zip(weights, cases, strict=True):
        if equal:
            weight[:num_train] = each.part(slice(num_train)).equal_weights()
    rows = {"train": [torch.arange(num_train)] * len(cases)}
    data = StackedData(X, y, rows, BATCH_SIZE, run.seed, weights={"train": weights})
    models = StackedModule([LogisticRegression(X.shape[-1], LR) for _ in cases])
    run.fit("groups", models, data, title="models of two groups", logged=False)
    with torch.no_grad():
        found = [m(own[num_train:]).sigmoid() for m, own in zip(models.unstack(), X, strict=True)]
    return {name: found[i * len(people) :][: len(people)] for i, name in enumerate(MODELS)}


def scores(people: Sequence[TwoGroups], probabilities: Sequence[Tensor]) -> dict[str, float]:
    """Return the share of right decisions at the threshold 0.5, for all people and for each group."""
    pairs = zip(people, probabilities, strict=True)
    right = torch.cat([((own > 0.5) == (each.y > 0.5)).double() for each, own in pairs])
    means = formulas.group_means(right, torch.cat([each.group for each in people]), len(GROUPS))
    return {"all": right.mean().item(), **dict(zip(GROUPS, means.tolist(), strict=True))}


def feedback(start: float, focus: float, rounds: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the share of patrols in the first district before each round, and after the last: ``(T, R)``."""
    known = torch.tensor([[start, 1 - start]]).expand(REPEATS, 2) * KNOWN
    strategies = {"proportional": (1.0, False), "focused": (focus, False), "corrected": (focus, True)}
    shares = {}
    for name, (power, corrected) in strategies.items():
        before = formulas.patrol_shares(known, PATROLS, CRIME, power, corrected, generator)
        shares[name] = torch.stack([*islice(before, rounds + 1)])
    return shares


def patrol_labels(focus: float) -> dict[str, str]:
    """Return what patrols are in proportion to, by the name of the strategy."""
    power = f", to the power {focus:g}"
    return {
        "proportional": "discoveries",
        "focused": f"discoveries{power}",
        "corrected": f"discoveries per patrol{power}",
    }


def tables(
    results: Mapping[str, Any],
    costs: tuple[float, float],
    labels: Mapping[str, str],
    rounds: int,
    group_by: str,
) -> Iterator[Table]:
    """Yield the accuracy of groups, the costs of two thresholds, the patrols, and the errors for houses."""
    rows: list[Any] = [
        [name, *(f"{v:.3f}" for v in each.values())] for name, each in results["groups"].items()
    ]
    note = (
        "Equal weights: both groups count alike in the loss. On average, no model can be right more often "
        "than the true probabilities."
    )
    yield Table("accuracy on new people", ("", "all", *GROUPS), rows, note)

    names = ("threshold", "accuracy", "false_positive", "false_negative", "cost")
    rows = [[f"{each[n]:.3f}" for n in names] for each in results["thresholds"].values()]
    note = (
        f"Shares of all people. A person who is treated without need costs {costs[0]:g}, and one who is ill "
        f"and missed {costs[1]:g}."
    )
    heads: Sequence[str] = ("threshold", "accuracy", "treated without need", "missed", "mean cost")
    yield Table("decisions of the model that knows the group", heads, rows, note)

    rows = [[labels[name], f"{share:.3f}"] for name, share in results["patrol_share"].items()]
    note = "Both districts have equal crime, so a share of 0.5 would be right."
    heads = ("patrols in proportion to", "share")
    yield Table(f"patrols in the first of two districts after {rounds} rounds", heads, rows, note)

    found = results["houses"]["groups"]
    shown = found if len(found) <= 2 * SHOWN else [*found[:SHOWN], *found[-SHOWN:]]
    rows = [[e["group"], str(e["rows"]), e["log_rmse"], f"{math.expm1(e['bias']):+.1%}"] for e in shown]
    rows.append(["all", str(sum(e["rows"] for e in found)), results["houses"]["log_rmse"], ""])
    note = (
        "The largest and the smallest groups. The mean error is that of predictions, in percent of the price."
    )
    heads = (group_by, "houses", "log RMSE", "mean error")
    yield Table("house prices by group", heads, rows, note)


if __name__ == "__main__":
    run_experiment(main)
