"""What a search leaves: best.yaml is read back to the bit; tables, results and figures show the trials."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from d2l_lightning.errors import InputError
from d2l_lightning.runs.cli import Experiment
from d2l_lightning.search.figures import parameter_importances, search_figures
from d2l_lightning.search.outputs import (
    best_config,
    best_table,
    search_results,
    summary,
    trials_table,
    winner_table,
)
from d2l_lightning.search.trials import State, TrialResult, best_trial, from_optuna, ranked
from tests.conftest import load_experiment

AT = "1 at epoch 5, 1 at epoch 15"


def result(
    number: int,
    value: float | None,
    state: State = "complete",
    epochs: int = 60,
    index: int | None = None,
    folds: Sequence[float] = (),
    **settings: Any,
) -> TrialResult:
    return TrialResult(
        number=number,
        index=number if index is None else index,
        state=state,
        value=value,
        folds=tuple(folds) or (() if value is None else (value - 0.03, value, value + 0.03)),
        epochs=epochs,
        settings=settings,
        params={},
        worker="here",
        seconds=1.5,
        reason="",
        intermediate={} if value is None else {5: value + 0.1, epochs: value},
    )


TRIALS = [
    result(0, 0.1, "pruned", epochs=5, lr=0.01, hidden_sizes=[], k=5),
    result(1, 0.2, lr=3e-05, hidden_sizes=[64], k=5),
    result(2, 0.11, "pruned", epochs=15, lr=0.002, hidden_sizes=[64], k=5),
    result(3, None, "failed", epochs=0, lr=0.5, hidden_sizes=[256, 128], k=5),
    result(4, 0.15, lr=0.00312345678, hidden_sizes=[256, 128], k=5),
    result(5, 0.25, index=3, lr=0.5, hidden_sizes=[256, 128], k=5),
    result(6, None, "failed", epochs=0, lr=9.0, hidden_sizes=[], k=5),
]


def test_the_trials_of_a_study_become_plain_values() -> None:
    space: Any = {"lr": FloatDistribution(0, 1), "sizes": CategoricalDistribution(["[]", "[64]"])}
    study = optuna.create_study()
    for index, state in ((1, TrialState.PRUNED), (0, TrialState.COMPLETE), (2, TrialState.FAIL)):
        attributes = {"index": index, "folds": [0.1, 0.5], "worker": "here", "reason": "why"}
        study.add_trial(
            create_trial(
                state=state,
                value=0.25 if state == TrialState.COMPLETE else None,
                params={"lr": 0.5, "sizes": "[64]"},
                distributions=space,
                user_attrs=attributes,
                intermediate_values={15: 0.3, 5: 0.4} if state == TrialState.PRUNED else {},
            )
        )
    study.add_trial(create_trial(state=TrialState.WAITING))

    complete, pruned, failed = from_optuna(
        study.trials, lambda trial: {**trial.params, "sizes": json.loads(trial.params["sizes"])}
    )
    assert [complete.number, pruned.number, failed.number] == [1, 0, 2]
    assert (complete.state, complete.value, complete.index) == ("complete", 0.25, 0)
    assert complete.folds == (0.1, 0.5)
    assert complete.standard_error == pytest.approx(0.2)  # half the difference of two values
    assert complete.settings == {"lr": 0.5, "sizes": [64]}
    assert complete.params == {"lr": 0.5, "sizes": "[64]"}
    assert (pruned.state, pruned.value, pruned.epochs) == ("pruned", 0.3, 15)
    assert list(pruned.intermediate.items()) == [(5, 0.4), (15, 0.3)]
    assert (failed.state, failed.value, failed.epochs) == ("failed", None, 0)
    assert (failed.worker, failed.reason) == ("here", "why")
    assert from_optuna(study.trials)[0].settings == complete.params
    never_started = create_trial(state=TrialState.FAIL)
    assert from_optuna([never_started], lambda trial: {"lr": trial.params["lr"]})[0].settings == {}


def test_completed_trials_rank_before_pruned_ones_and_later_rungs_before_earlier_ones() -> None:
    assert [trial.number for trial in ranked(TRIALS)] == [4, 1, 5, 2, 0]
    assert best_trial(TRIALS).number == 4


@pytest.mark.parametrize("trials", [[], [TRIALS[0], TRIALS[3]], [result(0, math.inf)]])
def test_a_search_without_a_completed_trial_has_no_best_one(trials: list[TrialResult]) -> None:
    with pytest.raises(InputError, match="no trial of the search was completed"):
        best_trial(trials)


@pytest.mark.parametrize("lr", [1e-05, 3e-4, 0.1 + 0.2, 1e22, 5e-324, 123456789.123, 2.0])
def test_the_house_job_reads_the_best_settings_back_to_the_bit(lr: float, tmp_path: Path) -> None:
    base = {"k": 3, "folds": "stratified", "log_price": True, "bias_lr": None, "data_dir": "a: b", "lr": 7.0}
    base |= {"max_epochs": 60, "betas": (0.9, 0.999)}
    best = result(0, 0.5, lr=lr, hidden_sizes=[256, 128], weight_decay=1e-06)
    text = best_config("a\nb", [best], base, "log RMSE")
    (tmp_path / "best.yaml").write_text(text)
    parser = Experiment(load_experiment("kaggle_house").main).parser
    read = vars(parser.parse_args(["--config", str(tmp_path / "best.yaml")]))
    found = {name: read[name] for name in {**base, **best.settings}}
    assert found.pop("data_dir").endswith("a: b")
    expected: dict[str, Any] = {**base, **best.settings, "betas": [0.9, 0.999]}
    del expected["data_dir"]
    assert {**found, "betas": list(found["betas"])} == expected
    assert type(found["lr"]) is float


def test_best_yaml_says_where_its_settings_come_from_and_keeps_lists_in_a_line() -> None:
    again = [[0.1, 0.2, 0.3], [0.2, 0.2, 0.2]]
    text = best_config("houses", TRIALS, {"max_epochs": 60, "k": 3}, "log RMSE", again)
    assert text.splitlines() == [
        "# The best of 6 settings: trial 4 of study houses.",
        "# log RMSE, mean and standard error over 3 folds: 0.1500 ± 0.01732.",
        "# Cross-validated again with other folds and seeds: 0.2000 ± 0.02887.",
        "",
        "max_epochs: 60",
        "k: 5",
        "lr: 0.00312345678",
        "hidden_sizes: [256, 128]",
    ]
    long = best_config("houses", [result(0, 0.1, sizes=[64] * 60)], {}, "RMSE")
    assert len(long.splitlines()) == 4


def test_trials_csv_has_a_row_for_each_trial_in_the_order_of_the_settings() -> None:
    table = trials_table(TRIALS)
    assert list(table) == [
        *("trial", "setting", "state", "value", "standard_error", "fold_1", "fold_2", "fold_3", "epochs"),
        *("lr", "hidden_sizes", "k", "worker", "seconds", "reason"),
    ]
    assert table["trial"].tolist() == [0, 1, 2, 3, 5, 4, 6]
    assert table["setting"].tolist() == [0, 1, 2, 3, 3, 4, 6]
    assert table["hidden_sizes"].tolist()[-2:] == ["[256, 128]", "[]"]
    row = table.iloc[5]
    assert (row["value"], row["fold_1"], row["lr"]) == (0.15, 0.12, 0.00312345678)
    assert row["standard_error"] == pytest.approx(0.03 / 3**0.5)
    assert math.isnan(table["value"][3])
    assert len(trials_table([])) == 0


def test_the_table_of_the_best_has_completed_trials_and_the_parameters_that_vary() -> None:
    table = best_table(TRIALS, "log RMSE")
    assert table.title == "Best settings: 3 of 6, by the mean log RMSE over the folds"
    assert table.name == "best_settings"
    assert table.columns == ("trial", "mean", "standard error", "lr", "hidden sizes")
    assert table.rows[:2] == [
        ("4", "0.1500", "0.01732", "0.00312", "256, 128"),
        ("1", "0.2000", "0.01732", "3e-05", "64"),
    ]
    assert len(best_table([result(i, 28000.0 + i, lr=i) for i in range(20)], "RMSE").rows) == 10
    assert best_table([result(0, 28123.4)], "RMSE").rows == [("0", "28123", "0.01732")]


def test_many_parameters_share_a_column() -> None:
    settings = [{f"p_{i}": i + trial for i in range(6)} for trial in range(2)]
    table = best_table([result(i, 0.1 + i, **each) for i, each in enumerate(settings)], "RMSE")
    assert table.columns == ("trial", "mean", "standard error", "settings")
    assert table.rows[0][3] == "p_0 0; p_1 1; p_2 2; p_3 3; p_4 4; p_5 5"


def test_the_table_of_the_winner_has_both_values_and_says_that_the_first_is_optimistic() -> None:
    table = winner_table(TRIALS, [[0.1, 0.2, 0.3], [0.2, 0.2, 0.2]], "log RMSE")
    assert table.rows == [
        ("in the search", "0.1500", "0.01732"),
        ("again, on other folds and seeds, 2 times", "0.2000", "0.02887"),
    ]
    assert "lowest of 6, in part by chance" in table.note


@pytest.mark.parametrize(
    ("trials", "sentence", "saved"),
    [
        (
            TRIALS,
            f"6 settings: 3 completed, 2 pruned ({AT}), 1 failed, 1 failed and retried.",
            1 / 3,  # 100 of 5 times 60 epochs
        ),
        (TRIALS[1:2], "1 settings: 1 completed.", 0),
        # One that was completed without reports, and an attempt that failed after another one had ended.
        (
            [
                result(0, 0.1, epochs=0),
                result(1, 0.2, "pruned", epochs=6),
                result(2, None, "failed", index=1),
            ],
            "2 settings: 1 completed, 1 pruned (1 at epoch 6), 1 failed and retried.",
            0.45,
        ),
        # Settings with a number of epochs of their own.
        (
            [result(0, 0.1, max_epochs=180), result(1, 0.2, "pruned", epochs=15, max_epochs=120)],
            "2 settings: 1 completed, 1 pruned (1 at epoch 15).",
            0.35,
        ),
        ([], "0 settings: 0 completed.", 0),
    ],
)
def test_a_sentence_says_how_the_trials_ended(trials: list[TrialResult], sentence: str, saved: float) -> None:
    expected = f"{sentence} Pruning saved {saved:.0%} of the epochs." if saved else sentence
    assert summary(trials, 60) == expected


def test_results_hold_the_best_trial_the_states_and_the_second_cross_validation() -> None:
    results = search_results(TRIALS, "log RMSE", 60, [[0.1, 0.3], [0.2, 0.2]])
    assert results["trials"] == {"complete": 3, "pruned": 2, "failed": 1}
    assert (results["settings"], results["retried"]) == (6, 1)
    assert results["best"]["settings"] == {"lr": 0.00312345678, "hidden_sizes": [256, 128], "k": 5}
    assert (results["best"]["trial"], results["best"]["value"]) == (4, 0.15)
    assert results["again"]["value"] == pytest.approx(0.2)
    assert results["again"]["standard_error"] == pytest.approx(0.05)
    assert results["saved"] == pytest.approx(1 / 3)
    diverged = search_results(TRIALS, "log RMSE", 60, [[0.1, math.inf]])
    assert diverged["again"] is None
    json.dumps([results, diverged], allow_nan=False)
    assert "again" not in search_results(TRIALS, "log RMSE", 60)


def study_of(number: int, important: str) -> optuna.Study:
    """Return a study in which one parameter decides which trials are good, another how bad the rest is."""
    other = {"lr": "dropout", "dropout": "lr"}[important]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space: Any = {"lr": FloatDistribution(1e-4, 1, log=True), "dropout": FloatDistribution(0, 1)}
    space |= {"sizes": CategoricalDistribution(["[]", "[64]"])}
    for _ in range(number):
        trial = study.ask(space)
        value = trial.params[important]
        value = value if value < 0.3 else 1 + trial.params[other]
        trial.report(value + 1, 5)
        if value > 0.5:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.report(value, 60)
            study.tell(trial, value)
    return study


@pytest.mark.parametrize("important", ["lr", "dropout"])
def test_the_parameter_that_decides_is_the_most_important_one(important: str) -> None:
    study = study_of(60, important)
    importances = parameter_importances(from_optuna(study.trials), study.trials)
    assert next(iter(importances)) == important
    assert set(importances) == {"lr", "dropout", "sizes"}
    assert sum(importances.values()) == pytest.approx(1)


def test_pruned_trials_count_for_the_importance() -> None:
    study = study_of(60, "dropout")
    completed = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    everything = parameter_importances(from_optuna(study.trials), study.trials)
    assert everything != parameter_importances(from_optuna(completed), completed)


def test_importance_needs_twenty_trials_and_two_parameters_and_leaves_optunas_messages_on() -> None:
    study = study_of(20, "dropout")
    verbosity = optuna.logging.INFO
    optuna.logging.set_verbosity(verbosity)
    trials = from_optuna(study.trials)
    assert parameter_importances(trials, study.trials)
    assert parameter_importances(trials[1:], study.trials) == {}
    alone = [
        create_trial(params={"lr": i}, distributions={"lr": FloatDistribution(0, 99)}, value=i)
        for i in range(30)
    ]
    for number, trial in enumerate(alone):
        trial.number = number
    assert parameter_importances(from_optuna(alone), alone) == {}
    assert optuna.logging.get_verbosity() == verbosity


def test_a_search_has_the_figures_that_its_trials_allow() -> None:
    study = study_of(30, "dropout")
    trials = from_optuna(study.trials)
    figures = search_figures(trials, study.trials, "log RMSE")
    assert set(figures) == {"history", "rungs", "parameters", "parameter_importance"}
    parameters = figures["parameters"]().axes
    assert [panel.get_xlabel() for panel in parameters[:3]] == ["lr", "dropout", "sizes"]
    assert [panel.get_xscale() for panel in parameters[:3]] == ["log", "linear", "linear"]
    best = best_trial(trials)
    star = next(line for line in parameters[1].lines if line.get_marker() == "*")
    assert (star.get_xdata(), star.get_ydata()) == ([best.params["dropout"]], [best.value])
    assert search_figures([], [], "log RMSE") == {}
    assert set(search_figures([result(0, 0.5, lr=1)], [], "log RMSE")) == {"history", "rungs"}


def test_values_that_are_not_finite_are_left_out_of_figures() -> None:
    trials = [result(0, math.inf, lr=1), result(1, 0.5, lr=2), result(2, 0.4, lr=3)]
    (panel, *_) = search_figures(trials, [], "log RMSE")["history"]().axes
    assert [list(line.get_xdata()) for line in panel.lines] == [[1, 2], [1, 2, 2]]
