"""The experiments on covariate shift estimate weights, correct and detect."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from d2l_lightning.data.kaggle_house import BUNDLED
from d2l_lightning.runs.cli import run_experiment
from tests.conftest import check_medians, load_experiment, needs_fashion_mnist, run_results
from tests.data.test_fashion_mnist import write

KEYS = {
    *("weight_correlation", "risk_uncorrected", "risk_corrected", "risk_oracle", "recovered"),
    *("effective_sample_size", "uncovered", "detector"),
}


@pytest.mark.slow
def test_weights_and_risks_on_synthetic_data_in_the_median_of_three_seeds(tmp_path: Path) -> None:
    def within(seed: int) -> dict[str, bool]:
        found = run_results("covariate_shift", tmp_path / str(seed), "--seed", str(seed), "--trials", "0")
        assert found["detector"]["p_value"] == 0.001
        assert found["uncovered"] < 0.05
        return {
            "correlation": found["weight_correlation"] >= 0.95,
            "recovered": found["recovered"] >= 0.8,
            # In closed form: c^2 E[(t^2 - 1)^2] plus the noise.
            "uncorrected": found["risk_uncorrected"] == pytest.approx(0.25 * 7 + 0.01, rel=0.1),
            # The least risk of a line: c^2 2 plus the noise.
            "oracle": found["risk_oracle"] == pytest.approx(0.25 * 2 + 0.01, rel=0.06),
        }

    check_medians(within, seeds=3)


@pytest.mark.slow
@needs_fashion_mnist
def test_the_detector_has_the_right_level_and_finds_rotated_clothes(tmp_path: Path) -> None:
    results = run_results("covariate_shift", tmp_path, "--seed", "2", "--max_epochs", "1")
    assert results["detector"]["trials"] == 200
    assert 0.02 <= results["detector"]["false_alarm_rate"] <= 0.08
    assert results["detector"]["power"] >= 0.95


QUICK = [
    *("--num_source", "300", "--num_target", "200", "--num_test", "500"),
    *("--max_epochs", "3", "--domain_steps", "200"),
]


@pytest.mark.figures
def test_a_run_writes_results_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data_dir", str(write(tmp_path / "data", (400, 200))), "--trials", "20", "--trial_rows", "60"]
    flags = [*QUICK, *data, "--kind", "brightness", "--amount", "0.1", "--num_permutations", "99"]
    results = run_results("covariate_shift", tmp_path / "run", *flags)
    assert set(results) == KEYS
    detector = results["detector"]
    assert set(detector) == {"auc", "p_value", "false_alarm_rate", "power", "trials"}
    # Of 20 tests at level 0.05, four alarms or more come once in 60 times.
    assert detector["false_alarm_rate"] <= 0.15
    assert detector["power"] == 1
    for name in ("weights", "risk", "fits", "detector"):
        assert (tmp_path / "run" / "figures" / f"{name}.png").exists()
    printed = capsys.readouterr().out
    assert "The estimated weights bring" in printed
    assert "detector on Fashion-MNIST (brightness 0.1)" in printed


def test_the_config_of_a_run_repeats_it(tmp_path: Path) -> None:
    first = run_results("covariate_shift", tmp_path / "1", *QUICK, "--trials", "0", "--seed", "7")
    config = ["--config", str(tmp_path / "1" / "config.yaml")]
    assert run_results("covariate_shift", tmp_path / "2", *config) == first


def test_houses_unlike_those_of_the_source_are_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run_results(
        "covariate_shift_houses", tmp_path / "run", "--max_epochs", "5", "--domain_steps", "300"
    )
    assert set(results) == KEYS
    assert results["weight_correlation"] is None
    assert results["detector"]["p_value"] == 0.001
    assert results["uncovered"] > 0.3
    assert "weights cannot help" in capsys.readouterr().out
    split = ["--split_by", "Neighborhood", "--neighborhoods", "NAmes"]
    quick = ["--max_epochs", "5", "--domain_steps", "50"]
    risks = run_results("covariate_shift_houses", tmp_path / "other", *split, *quick)
    table = pd.read_csv(BUNDLED / "kaggle_house_pred_train.csv.gz")
    prices = np.log(table["SalePrice"][table["Neighborhood"] == "NAmes"])
    for name in ("uncorrected", "corrected", "oracle"):
        # A risk is below that of a constant prediction, but not 0.
        assert 0.001 < risks[f"risk_{name}"] < 0.9 * prices.var() / 2


@pytest.mark.slow
@needs_fashion_mnist
def test_weights_help_with_rotated_clothes(tmp_path: Path) -> None:
    results = run_results("covariate_shift_images", tmp_path)
    assert results["weight_correlation"] > 0.6
    assert results["recovered"] > 0.5
    assert results["detector"]["p_value"] == 0.001


def test_without_true_weights_the_comparison_is_with_the_targets_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data_dir", str(write(tmp_path / "data", (300, 200)))]
    change = ["--kind", "brightness", "--amount", "0.3", "--source_share", "0", "--target_share", "1"]
    quick = ["--max_epochs", "3", "--domain_steps", "60"]
    results = run_results("covariate_shift_images", tmp_path / "run", *data, *change, *quick)
    assert results["weight_correlation"] is None
    assert results["uncovered"] > 0.9
    printed = capsys.readouterr().out
    assert "the target's labels" in printed
    assert "weights cannot help" in printed


CASES: dict[str, list[tuple[list[str], str]]] = {
    "covariate_shift": [
        (["--k", "1"], "k must be from 2 to the rows of the smaller side; it is 1"),
        (["--k", "9", "--num_target", "8"], "it is 9, the target has 8"),
        (["--cap", "0"], "cap must be positive"),
        (["--num_source", "0"], "num_source must be positive"),
        (["--shift", ".nan"], "shift must be a finite number"),
        (["--lr", "-1"], "lr must be positive"),
        (["--domain_lr", "0"], "lr must be positive"),
        (["--domain_steps", "0"], "steps must be positive"),
        (["--domain_hidden_sizes", "0"], "hidden_sizes must name at least one positive width"),
        (["--num_permutations", "0"], "num_permutations must be positive"),
        (["--trials", "-1"], "trials must not be negative"),
        (["--trial_epochs", "0"], "trial_epochs must be positive"),
        (["--kind", "blur"], "kind: "),
    ],
    "covariate_shift_houses": [
        (["--year", "3000"], "year 3000: 1460 houses are the source and 0 the target"),
        (["--split_by", "Neighborhood", "--neighborhoods", "Soho"], "no house in the neighborhood 'Soho'"),
        (["--lr", "0"], "lr must be positive"),
        (["--k", "1"], "k must be from 2"),
    ],
    "covariate_shift_images": [
        (["--source_share", "2"], "source_share must be from 0 to 1"),
        (["--amount", "500"], "amount must be from -180 to 180"),
        (["--lr", "0"], "lr must be positive"),
    ],
}


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [(name, *case) for name, cases in CASES.items() for case in cases],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_writes_nothing(
    name: str,
    flags: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    trials = ["--trials", "0"] if name == "covariate_shift" and "--trials" not in flags else []
    with pytest.raises(SystemExit) as stop:
        run_experiment(load_experiment(name).main, [*trials, *flags])
    assert stop.value.code == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert len(printed.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_trials_need_enough_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "data", (50, 20))
    flags = ["--data_dir", str(folder), "--trial_rows", "11", "--run_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        run_experiment(load_experiment("covariate_shift").main, flags)
    assert "trial_rows must be from 2 to 10, as there are no more rows, not 11" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
