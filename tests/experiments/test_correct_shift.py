"""The corrector of two CSV files: its estimates agree with the labels of the target."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression as Reference

from d2l_lightning.data.shifted_tables import ShiftedTables
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.run import Run
from d2l_lightning.shift.correction import WeightedCrossValidation
from d2l_lightning.shift.domain import DomainSettings
from tests.conftest import load_experiment, run_results

# Few steps, enough to separate source and target.
BRIEF = ["--steps", "100", "--domain_steps", "200"]


def write_tables(folder: Path, n: int = 1500, shift: float = 1.0, label: str = "price") -> dict[str, Any]:
    """Write a source and a target with nonlinear prices; return flags and both tables with prices."""
    rng = np.random.default_rng(3)

    def rows(count: int, mean: float) -> pd.DataFrame:
        size, age = rng.normal(mean, 1, count), rng.normal(0, 1, count)
        city = rng.choice(["Lima", "Oslo", "Rome"], count, p=[0.3, 0.3, 0.4])
        worth = 100 + 20 * (size + 0.5 * size**2 - age + (city == "Rome")) + rng.normal(0, 2, count)
        return pd.DataFrame(
            {"Id": range(count), "size": size, "age": age, "city": city, "price": worth, "kind": worth > 110}
        )

    source, target = rows(n, 0), rows(n // 2, shift)
    other = "kind" if label == "price" else "price"
    source.drop(columns=other).to_csv(folder / "source.csv", index=False)
    target.drop(columns=["price", "kind"]).to_csv(folder / "target.csv", index=False)
    flags = ["--source", str(folder / "source.csv"), "--target", str(folder / "target.csv"), "--label", label]
    return {"flags": [*flags, "--ignore", "Id"], "source": source, "target": target}


def features(table: pd.DataFrame) -> np.ndarray[Any, Any]:
    return np.column_stack([table["size"], table["age"], table["city"] == "Rome", table["city"] == "Oslo"])


@pytest.mark.figures
def test_the_estimates_agree_with_the_labels_of_the_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = write_tables(tmp_path, n=6000, shift=0.6)
    source, target = tables["source"], tables["target"]
    results = run_results("correct_shift", tmp_path / "run", *tables["flags"])
    assert results["task"] == "regression"
    assert (results["source_rows"], results["target_rows"], results["features"]) == (6000, 3000, 5)
    assert results["detector"]["p_value"] == 0.001

    weights = pd.read_csv(tmp_path / "run" / "weights.csv")
    assert weights["line"].tolist() == list(range(2, 6002))
    true = np.exp(0.6 * source["size"] - 0.18)
    assert np.corrcoef(weights["weight"], true)[0, 1] > 0.95
    assert results["effective_sample_size"] == pytest.approx(
        weights["weight"].sum() ** 2 / weights["weight"].pow(2).sum()
    )

    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert predictions["line"].tolist() == list(range(2, 3002))
    errors = {
        kind: (predictions[kind] - target["price"]).pow(2).mean() for kind in ("uncorrected", "corrected")
    }
    # These were estimated without the target's prices.
    assert results["risk_uncorrected"] == pytest.approx(errors["uncorrected"], rel=0.06)
    assert results["risk_corrected"] == pytest.approx(errors["corrected"], rel=0.06)
    assert errors["corrected"] < 0.7 * errors["uncorrected"]
    assert results["gain"] == pytest.approx(results["risk_uncorrected"] - results["risk_corrected"], rel=1e-4)
    error = results["gain_standard_error"]
    assert 0.1 * results["gain"] < error < 0.3 * results["gain"]
    assert results["gain"] == pytest.approx(errors["uncorrected"] - errors["corrected"], abs=2 * error)
    assert results["risk_on_source"] < 0.7 * results["risk_uncorrected"]

    # The models are those of weighted and plain least squares.
    for kind, weight in (("uncorrected", np.ones(6000)), ("corrected", weights["weight"])):
        exact = Reference().fit(features(source), source["price"], weight).predict(features(target))
        assert np.abs(exact - predictions[kind]).mean() < 0.05 * exact.std()
    restored = LinearRegression.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "corrected.ckpt")
    assert restored(torch.zeros(2, 5)).shape == (2,)

    printed = capsys.readouterr().out
    assert "Source and target differ: a linear classifier separates them." in printed
    assert "Weights lower the loss on the target by" in printed
    assert "not significant" not in printed
    for name in ("weights", "balance"):
        assert (tmp_path / "run" / "figures" / f"{name}.png").exists()


def test_categories_are_predicted(tmp_path: Path) -> None:
    tables = write_tables(tmp_path, label="kind")
    results = run_results("correct_shift", tmp_path / "run", *tables["flags"])
    assert results["task"] == "classification"
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    right = (predictions["corrected"] == tables["target"]["kind"]).mean()
    assert right > 0.75
    assert right > max(tables["target"]["kind"].mean(), 0.5)


def test_without_shift_the_run_finds_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = write_tables(tmp_path, shift=0)
    results = run_results("correct_shift", tmp_path / "run", *tables["flags"], *BRIEF)
    assert results["detector"]["p_value"] > 0.05
    assert results["effective_sample_size"] > 1400
    printed = capsys.readouterr().out
    assert "does not separate source and target" in printed
    assert "Note: " not in printed


def test_a_column_with_another_range_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = write_tables(tmp_path, shift=9)
    results = run_results("correct_shift", tmp_path / "run", *tables["flags"], *BRIEF)
    printed = " ".join(capsys.readouterr().out.split())
    assert results["outside"]["size"] > 0.99
    assert results["uncovered"] > 0.9
    assert "% of the target's rows lie outside what the source has in the column size." in printed
    assert "weights cannot help" in printed


def test_the_config_of_a_run_repeats_it(tmp_path: Path) -> None:
    tables = write_tables(tmp_path, n=200)
    first = run_results("correct_shift", tmp_path / "1", *tables["flags"], *BRIEF)
    again = run_results("correct_shift", tmp_path / "2", "--config", str(tmp_path / "1" / "config.yaml"))
    assert again == first
    for name in ("weights.csv", "predictions.csv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--label", "cost"], "source.csv lacks the column 'cost', the label"),
        (["--source", "gone.csv"], "gone.csv: No such file or directory"),
        (["--ignore", "Name"], "--ignore names the column 'Name', which neither file has"),
        (["--ignore", "Id", "price"], "the label 'price' cannot be ignored"),
        (["--task", "ranking"], "task: "),
        (["--k", "1"], "k must be from 2"),
        (["--k", "101"], "it is 101, the target has 100"),
        (["--cap", "-1"], "cap must be positive"),
        (["--lr", "0"], "lr must be positive"),
        (["--domain_steps", "0"], "steps must be positive"),
        (["--steps", "0"], "steps must be positive"),
        (["--num_permutations", "0"], "num_permutations must be positive"),
        (["--batch_size", "0"], "batch_size must be positive"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_writes_nothing(
    change: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [*write_tables(tmp_path, n=200)["flags"], *change]
    with pytest.raises(SystemExit) as stop:
        run_experiment(load_experiment("correct_shift").main, flags)
    assert stop.value.code == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert len(printed.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.csv", "target.csv"]


SEPARATED = "save it as CSV, separated by commas"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text.replace(b",", b";"), f"target.csv is separated by ';'; {SEPARATED}"),
        (lambda text: text.replace(b",", b"\t"), f"target.csv is separated by '\\t'; {SEPARATED}"),
        (lambda text: text.decode().encode("utf-16-be"), "target.csv, line 1: not text in UTF-8; save"),
        (lambda text: text.replace(b"Id", b"Id,\x1b[2J,\x1b[2J"), "target.csv, line 2: 4 fields where"),
        (lambda text: text.replace(b"Id,size", b"\x1b[2J,\x1b[2J"), "has the column '\\x1b[2J' 2 times"),
    ],
    ids=["semicolons", "tabs", "utf-16", "header", "control characters"],
)
def test_a_file_of_another_kind_is_one_line(
    spoil: Callable[[bytes], bytes], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = write_tables(tmp_path, n=50)["flags"]
    (tmp_path / "target.csv").write_bytes(spoil((tmp_path / "target.csv").read_bytes()))
    with pytest.raises(SystemExit) as stop:
        run_experiment(load_experiment("correct_shift").main, [*flags, "--run_dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert printed.isprintable()
    assert not (tmp_path / "run").exists()


def test_it_can_be_called_from_python(tmp_path: Path) -> None:
    _, source, _, target, _, label, *_ = write_tables(tmp_path, n=100)["flags"]
    run = Run("correct_shift", run_dir=str(tmp_path / "run"), logger="none", accelerator="cpu")
    data, domain = partial(ShiftedTables, ignore=["Id"]), partial(DomainSettings, domain_steps=20)
    cross_validation = partial(WeightedCrossValidation, steps=20)
    with run:
        experiment = load_experiment("correct_shift")
        experiment.main(run, source, target, label, data, domain=domain, cross_validation=cross_validation)
    assert len(pd.read_csv(tmp_path / "run" / "predictions.csv")) == 50


def test_required_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run_experiment(load_experiment("correct_shift").main, [])
    assert stop.value.code == 2
    printed = capsys.readouterr().err.strip()
    assert len(printed.splitlines()) == 1
    assert "source" in printed
    assert list(tmp_path.iterdir()) == []


def files(folder: Path, source: pd.DataFrame, target: pd.DataFrame) -> list[str]:
    source.to_csv(folder / "source.csv", index=False)
    target.to_csv(folder / "target.csv", index=False)
    return ["--source", str(folder / "source.csv"), "--target", str(folder / "target.csv"), "--label", "y"]


def test_a_small_file_gets_enough_steps(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source = pd.DataFrame({"a": rng.normal(0, 1, 60), "b": rng.normal(0, 5, 60)})
    target = pd.DataFrame({"a": rng.normal(1, 1, 40), "b": rng.normal(0, 5, 40)})
    truth = 3 * target["a"] + 2 * target["b"] + 100
    flags = files(tmp_path, source.assign(y=3 * source["a"] + 2 * source["b"] + 100), target)
    results = run_results("correct_shift", tmp_path / "run", *flags)
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    for kind in ("corrected", "uncorrected"):
        assert predictions[kind].to_numpy() == pytest.approx(truth.to_numpy(), abs=0.05)
    assert results["risk_on_source"] < 1e-3


def test_many_correlated_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0, 1, (500, 1)) + 0.3 * rng.normal(0, 1, (500, 130))
    table = pd.DataFrame(base, columns=[f"x{i}" for i in range(130)])
    source = table[:400].assign(y=table["x0"] + rng.normal(0, 1, 500))
    flags = [*files(tmp_path, source, table[400:]), "--domain_steps", "100", "--steps", "400"]
    results = run_results("correct_shift", tmp_path / "run", *flags)
    # The risks are above the variance of the noise and below that of the labels.
    for name in ("risk_on_source", "risk_uncorrected", "risk_corrected"):
        assert 1 < results[name] < 0.95 * source["y"].var()


def test_source_and_target_without_overlap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    names = [f"x{i}" for i in range(100)]
    source, target = (pd.DataFrame(rng.normal(mean, 1, (80, 100)), columns=names) for mean in (0, 8))
    results = run_results(
        "correct_shift", tmp_path / "run", *files(tmp_path, source.assign(y=source["x0"]), target), *BRIEF
    )
    assert results["uncovered"] == 1
    assert "weights cannot help" in " ".join(capsys.readouterr().out.split())


def test_column_names_with_special_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    names = ["[/x]", "b [m]", "$a^$", r"US$ at \frac{ $x_", "weight", "line", "größe, Ω", "1"]
    source, target = (pd.DataFrame(rng.normal(0, 1, (50, 8)), columns=names) for _ in range(2))
    flags = files(tmp_path, source.assign(y=source["b [m]"]), target)
    run_results("correct_shift", tmp_path / "run", *flags, *BRIEF)
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    ignoring = ["--ignore", "1", "größe, Ω", "[/x]", *BRIEF]
    results = run_results("correct_shift", tmp_path / "2", *flags, *ignoring)
    assert set(results["outside"]) == {"b [m]", "$a^$", names[3], "weight", "line"}


def test_a_class_with_few_rows_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(0, 1, 90)})
    flags = files(tmp_path, table[:50].assign(y=["rare"] + ["often", "usual"] * 24 + ["often"]), table[50:])
    run_results("correct_shift", tmp_path / "run", *flags, *BRIEF)
    assert "The class rare has 1 rows, fewer than the 5 folds" in " ".join(capsys.readouterr().out.split())


def test_flags_that_end_training_early_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = write_tables(tmp_path, n=200)
    with pytest.raises(SystemExit) as stop:
        run_results("correct_shift", tmp_path / "run", *tables["flags"], "--max_steps", "1")
    assert stop.value.code == 2
    assert "the flags end the fit of the domain classifiers early" in capsys.readouterr().err
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.figures
def test_constant_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame({"a": [1.0] * 60, "b": ["x"] * 60})
    flags = files(tmp_path, table[:40].assign(y=range(40)), table[40:])
    domain = ["--domain_lr", "0.05", "--domain_steps", "300"]
    results = run_results("correct_shift", tmp_path / "run", *flags, "--steps", "10", *domain)
    assert results["effective_sample_size"] == pytest.approx(40, abs=0.1)
    assert results["detector"]["p_value"] == 1
    assert (tmp_path / "run" / "figures" / "weights.png").exists()
