"""The corrector of one's own data: what it says of the target is true of the target."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression as Reference

from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.run import run_experiment
from tests.conftest import load_experiment, run_results

# Enough to see which side is which.
BRIEF = ["--steps", "100", "--domain_steps", "200"]


def person(folder: Path, n: int = 1500, shift: float = 1.0, label: str = "price") -> dict[str, Any]:
    """Write a source and a target in which prices curve; return the target with its prices."""
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


def test_the_estimates_are_true_of_the_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told_of = person(tmp_path, n=6000, shift=0.6)
    source, target = told_of["source"], told_of["target"]
    results = run_results("correct_shift", tmp_path / "run", *told_of["flags"])
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
    # What was estimated without the target's prices.
    assert results["risk_uncorrected"] == pytest.approx(errors["uncorrected"], rel=0.06)
    assert results["risk_corrected"] == pytest.approx(errors["corrected"], rel=0.06)
    assert errors["corrected"] < 0.7 * errors["uncorrected"]
    assert results["gain"] == pytest.approx(results["risk_uncorrected"] - results["risk_corrected"], rel=1e-4)
    error = results["gain_standard_error"]
    assert 0.1 * results["gain"] < error < 0.3 * results["gain"]
    assert results["gain"] == pytest.approx(errors["uncorrected"] - errors["corrected"], abs=2 * error)
    assert results["risk_on_source"] < 0.7 * results["risk_uncorrected"]

    # The models are those of least (weighted) squares.
    for kind, weight in (("uncorrected", np.ones(6000)), ("corrected", weights["weight"])):
        exact = Reference().fit(features(source), source["price"], weight).predict(features(target))
        assert np.abs(exact - predictions[kind]).mean() < 0.05 * exact.std()
    again = LinearRegression.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "corrected.ckpt")
    assert again(torch.zeros(2, 5)).shape == (2,)

    said = capsys.readouterr().out
    assert "Source and target differ: a linear classifier tells them apart." in said
    assert "Weights lower the risk by" in said
    assert "no clear difference" not in said
    for name in ("weights", "balance"):
        assert (tmp_path / "run" / "figures" / f"{name}.png").exists()


def test_categories(tmp_path: Path) -> None:
    told_of = person(tmp_path, label="kind")
    results = run_results("correct_shift", tmp_path / "run", *told_of["flags"])
    assert results["task"] == "classification"
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    right = (predictions["corrected"] == told_of["target"]["kind"]).mean()
    assert right > 0.75
    assert right > max(told_of["target"]["kind"].mean(), 0.5)


def test_without_shift_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told_of = person(tmp_path, shift=0)
    results = run_results("correct_shift", tmp_path / "run", *told_of["flags"], *BRIEF)
    assert results["detector"]["p_value"] > 0.05
    assert results["effective_sample_size"] > 1400
    said = capsys.readouterr().out
    assert "does not tell source and target apart" in said
    assert "Note: " not in said


def test_a_column_of_another_range_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told_of = person(tmp_path, shift=9)
    results = run_results("correct_shift", tmp_path / "run", *told_of["flags"], *BRIEF)
    said = " ".join(capsys.readouterr().out.split())
    assert results["outside"]["size"] > 0.99
    assert results["uncovered"] > 0.9
    assert "% of the target's rows lie outside what the source has in the column size." in said
    assert "weights cannot help" in said


def test_a_run_can_be_run_again(tmp_path: Path) -> None:
    told_of = person(tmp_path, n=200)
    first = run_results("correct_shift", tmp_path / "1", *told_of["flags"], *BRIEF)
    again = run_results("correct_shift", tmp_path / "2", "--config", str(tmp_path / "1" / "config.yaml"))
    assert again == first
    for name in ("weights.csv", "predictions.csv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--label", "cost"], "source.csv lacks the column 'cost', which is to be predicted"),
        (["--source", "gone.csv"], "cannot read gone.csv: No such file or directory"),
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
        (["--batch_size", "1"], "a larger batch_size makes them fewer"),
    ],
    ids=" ".join,
)
def test_one_line_status_2_and_nothing_written(
    change: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [*person(tmp_path, n=200)["flags"], *change]
    with pytest.raises(SystemExit) as stop:
        run_experiment(load_experiment("correct_shift").main, flags)
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.csv", "target.csv"]


def test_what_must_be_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run_experiment(load_experiment("correct_shift").main, [])
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert "source" in said
    assert list(tmp_path.iterdir()) == []


def files(folder: Path, source: pd.DataFrame, target: pd.DataFrame) -> list[str]:
    source.to_csv(folder / "source.csv", index=False)
    target.to_csv(folder / "target.csv", index=False)
    return ["--source", str(folder / "source.csv"), "--target", str(folder / "target.csv"), "--label", "y"]


def test_a_small_file_is_learned_to_the_end(tmp_path: Path) -> None:
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


def test_many_columns_that_go_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0, 1, (500, 1)) + 0.3 * rng.normal(0, 1, (500, 130))
    table = pd.DataFrame(base, columns=[f"x{i}" for i in range(130)])
    source = table[:400].assign(y=table["x0"] + rng.normal(0, 1, 500))
    flags = [*files(tmp_path, source, table[400:]), "--domain_steps", "100"]
    results = run_results("correct_shift", tmp_path / "run", *flags)
    # Above the variance of the noise, which nobody can predict, and below that of the labels.
    for name in ("risk_on_source", "risk_uncorrected", "risk_corrected"):
        assert 1 < results[name] < 0.95 * source["y"].var()


def test_sides_with_nothing_in_common(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    names = [f"x{i}" for i in range(100)]
    source, target = (pd.DataFrame(rng.normal(mean, 1, (80, 100)), columns=names) for mean in (0, 8))
    results = run_results(
        "correct_shift", tmp_path / "run", *files(tmp_path, source.assign(y=source["x0"]), target), *BRIEF
    )
    assert results["uncovered"] == 1
    assert "weights cannot help" in " ".join(capsys.readouterr().out.split())


def test_names_that_mean_something_to_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    names = ["[/x]", "b [m]", "$a^$", r"US$ at \frac{ $x_", "weight", "line", "größe, Ω", "1"]
    source, target = (pd.DataFrame(rng.normal(0, 1, (50, 8)), columns=names) for _ in range(2))
    flags = files(tmp_path, source.assign(y=source["b [m]"]), target)
    run_results("correct_shift", tmp_path / "run", *flags, *BRIEF)
    said = capsys.readouterr().out
    assert all(name in said for name in names)
    ignoring = ["--ignore", "1", "größe, Ω", "[/x]", *BRIEF]
    results = run_results("correct_shift", tmp_path / "2", *flags, *ignoring)
    assert set(results["outside"]) == {"b [m]", "$a^$", names[3], "weight", "line"}


def test_a_class_with_few_rows_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(0, 1, 90)})
    flags = files(tmp_path, table[:50].assign(y=["rare"] + ["often", "usual"] * 24 + ["often"]), table[50:])
    run_results("correct_shift", tmp_path / "run", *flags, *BRIEF)
    assert "The class rare has 1 rows, fewer than the 5 folds" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("flags", [["--limit_train_batches", "0"], ["--max_steps", "1"]], ids=" ".join)
def test_what_was_not_trained_is_no_finding(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told_of = person(tmp_path, n=200)
    with pytest.raises(SystemExit) as stop:
        run_results("correct_shift", tmp_path / "run", *told_of["flags"], *flags)
    assert stop.value.code == 2
    assert "the flags end the fit of the domain classifiers early" in capsys.readouterr().err
    assert not (tmp_path / "run" / "results.json").exists()


def test_columns_that_do_not_vary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame({"a": [1.0] * 60, "b": ["x"] * 60})
    flags = files(tmp_path, table[:40].assign(y=range(40)), table[40:])
    results = run_results("correct_shift", tmp_path / "run", *flags, "--steps", "10", "--domain_lr", "0.05")
    assert results["effective_sample_size"] == pytest.approx(40, abs=0.1)
    assert results["detector"]["p_value"] == 1
    assert (tmp_path / "run" / "figures" / "weights.png").exists()
