"""The jobs on covariate shift: weights are found, correcting pays where it can, shifts are detected."""

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from d2l_lightning.data.kaggle_house import BUNDLED
from d2l_lightning.run import run_experiment
from tests.conftest import load_experiment, needs_fashion_mnist, run_results
from tests.data.test_fashion_mnist import write

KEYS = {
    *("weight_correlation", "risk_uncorrected", "risk_corrected", "risk_oracle", "recovered"),
    *("effective_sample_size", "uncovered", "detector"),
}


@pytest.mark.slow
def test_the_accepted_figures_on_synthetic_data(tmp_path: Path) -> None:
    found = [
        run_results("covariate_shift", tmp_path / str(seed), "--seed", str(seed), "--trials", "0")
        for seed in range(5)
    ]
    assert statistics.median(told["weight_correlation"] for told in found) >= 0.95
    recovered = [
        (told["risk_uncorrected"] - told["risk_corrected"]) / (told["risk_uncorrected"] - told["risk_oracle"])
        for told in found
    ]
    assert statistics.median(recovered) >= 0.8
    assert [told["recovered"] for told in found] == pytest.approx(recovered)
    # In closed form: c^2 E[(t^2 - 1)^2] and the least that a line can do, c^2 var(t^2 | t's best line).
    medians = {
        name: statistics.median(told[f"risk_{name}"] for told in found) for name in ("uncorrected", "oracle")
    }
    assert medians["uncorrected"] == pytest.approx(0.25 * 7 + 0.01, rel=0.1)
    assert medians["oracle"] == pytest.approx(0.25 * 2 + 0.01, rel=0.06)
    assert all(told["detector"]["p_value"] == 0.001 for told in found)
    assert all(told["uncovered"] < 0.05 for told in found)


@pytest.mark.slow
@needs_fashion_mnist
def test_the_accepted_figures_of_the_detector(tmp_path: Path) -> None:
    told = run_results("covariate_shift", tmp_path, "--seed", "2", "--max_epochs", "1")
    assert told["detector"]["trials"] == 200
    assert 0.02 <= told["detector"]["false_alarm_rate"] <= 0.08
    assert told["detector"]["power"] >= 0.95


QUICK = [
    "--num_source",
    "300",
    "--num_target",
    "200",
    "--num_test",
    "500",
    "--max_epochs",
    "3",
    "--domain_steps",
    "200",
]


def test_what_a_run_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data_dir", str(write(tmp_path / "data", (400, 200))), "--trials", "20", "--trial_rows", "60"]
    flags = [*QUICK, *data, "--kind", "brightness", "--amount", "0.1", "--num_permutations", "99"]
    told = run_results("covariate_shift", tmp_path / "run", *flags)
    assert set(told) == KEYS
    detector = told["detector"]
    assert set(detector) == {"auc", "p_value", "false_alarm_rate", "power", "trials"}
    # Of 20 tests at level 0.05, four alarms or more come once in 60 times.
    assert detector["false_alarm_rate"] <= 0.15
    assert detector["power"] == 1
    for name in ("weights", "risk", "fits", "detector"):
        assert (tmp_path / "run" / "figures" / f"{name}.png").exists()
    said = capsys.readouterr().out
    assert "The correction recovers" in said
    assert "detector on Fashion-MNIST (brightness 0.1)" in said


def test_a_run_can_be_run_again(tmp_path: Path) -> None:
    first = run_results("covariate_shift", tmp_path / "1", *QUICK, "--trials", "0", "--seed", "7")
    config = ["--config", str(tmp_path / "1" / "config.yaml")]
    assert run_results("covariate_shift", tmp_path / "2", *config) == first


def test_houses_that_the_source_knows_nothing_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run_results(
        "covariate_shift_houses", tmp_path / "run", "--max_epochs", "5", "--domain_steps", "300"
    )
    assert set(told) == KEYS
    assert told["weight_correlation"] is None
    assert told["detector"]["p_value"] == 0.001
    assert told["uncovered"] > 0.3
    assert "weights cannot help" in capsys.readouterr().out
    other = [
        "--split_by",
        "Neighborhood",
        "--neighborhoods",
        "NAmes",
        "--max_epochs",
        "5",
        "--domain_steps",
        "50",
    ]
    risks = run_results("covariate_shift_houses", tmp_path / "other", *other)
    table = pd.read_csv(BUNDLED / "kaggle_house_pred_train.csv.gz")
    prices = np.log(table["SalePrice"][table["Neighborhood"] == "NAmes"])
    for name in ("uncorrected", "corrected", "oracle"):
        # Better than a constant; none of them can be without error.
        assert 0.001 < risks[f"risk_{name}"] < 0.9 * prices.var() / 2


@pytest.mark.slow
@needs_fashion_mnist
def test_turned_clothes_are_learned_better_with_weights(tmp_path: Path) -> None:
    told = run_results("covariate_shift_images", tmp_path)
    assert told["weight_correlation"] > 0.6
    assert told["recovered"] > 0.5
    assert told["detector"]["p_value"] == 0.001


def test_images_that_the_source_has_not_are_learned_from_the_targets_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data_dir", str(write(tmp_path / "data", (300, 200)))]
    change = ["--kind", "brightness", "--amount", "0.3", "--source_share", "0", "--target_share", "1"]
    told = run_results("covariate_shift_images", tmp_path / "run", *data, *change, "--max_epochs", "3")
    assert told["weight_correlation"] is None
    assert told["uncovered"] > 0.9
    said = capsys.readouterr().out
    assert "the target's labels" in said
    assert "weights cannot help" in said


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
def test_one_line_status_2_and_nothing_written(
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
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_trials_need_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "data", (50, 20))
    flags = ["--data_dir", str(folder), "--trial_rows", "11", "--run_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        run_experiment(load_experiment("covariate_shift").main, flags)
    assert "trial_rows must be from 2 to 10, as there are no more images, not 11" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
