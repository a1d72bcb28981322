"""Every number of the corrector equals that of pandas and scikit-learn for the same files."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression as Reference

from d2l_lightning.ensemble.folds import k_fold
from d2l_lightning.models.linear_regression import LinearRegression
from tests.conftest import run_outputs, run_results

SEED, K = 3, 4
KINDS = ("uncorrected", "corrected")


class Finished(NamedTuple):
    """A run that trained until convergence, with its inputs."""

    folder: Path
    outputs: dict[str, Any]
    source: pd.DataFrame
    target: pd.DataFrame

    def features(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return the features of source and target, by pandas."""
        both = pd.concat([self.source.drop(columns="price"), self.target])
        numbers = both[["size", "age"]]
        numbers = (numbers - numbers.mean()) / numbers.std()
        X = pd.concat([numbers, pd.get_dummies(both["city"], prefix="city")], axis=1).to_numpy(float)
        return X[: len(self.source)], X[len(self.source) :]

    def weights(self) -> np.ndarray[Any, Any]:
        return pd.read_csv(self.folder / "weights.csv")["weight"].to_numpy()

    def fitted(self, kind: str, rows: Any = slice(None)) -> Reference:
        """Return the least-squares model, weighted for the corrected one."""
        X, _ = self.features()
        weights = self.weights()[rows] if kind == "corrected" else None
        return Reference().fit(X[rows], self.source["price"].to_numpy()[rows], weights)


def write_tables(folder: Path, n: int, m: int, shift: float, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    for name, rows, mean in (("source", n, 0.0), ("target", m, shift)):
        table = pd.DataFrame({"size": rng.normal(mean, 1, rows), "age": rng.normal(mean / 3, 2, rows)})
        table["city"] = rng.choice(["Oslo", "Rome"], rows, p=[0.5 - shift / 5, 0.5 + shift / 5])
        if name == "source":
            bend = table["size"] + table["size"] ** 2 - table["age"] + 2 * (table["city"] == "Rome")
            table["price"] = 50 + 10 * bend + rng.normal(0, 5, rows)
        table.to_csv(folder / f"{name}.csv", index=False)
    files = ["--source", str(folder / "source.csv"), "--target", str(folder / "target.csv")]
    return [*files, "--label", "price"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("correct_shift")
    flags = write_tables(folder, 60, 50, 0.8)
    # With all rows in one batch, training converges to the minimum.
    flags += ["--batch_size", "100", "--lr", "0.1", "--steps", "400", "--domain_steps", "40"]
    flags += ["--k", str(K), "--seed", str(SEED), "--cap", "4", "--enable_progress_bar", "false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        outputs = run_outputs("correct_shift", folder / "run", *flags)
    source, target = (pd.read_csv(folder / f"{name}.csv") for name in ("source", "target"))
    return Finished(folder / "run", outputs, source, target)


def test_predictions_are_those_of_least_squares_with_and_without_weights(finished: Finished) -> None:
    predictions = pd.read_csv(finished.folder / "predictions.csv")
    _, X = finished.features()
    expected = {kind: finished.fitted(kind).predict(X) for kind in KINDS}
    spread = expected["corrected"].std()
    assert np.abs(expected["corrected"] - expected["uncorrected"]).mean() > 0.1 * spread
    for kind in KINDS:
        assert predictions[kind].to_numpy() == pytest.approx(expected[kind], abs=0.005 * spread)


def test_the_checkpoint_is_the_corrected_model(finished: Finished) -> None:
    model = LinearRegression.load_from_checkpoint(finished.folder / "checkpoints" / "corrected.ckpt")
    _, X = finished.features()
    price = finished.source["price"]
    with torch.no_grad():
        predicted = model(torch.tensor(X).float()).double().numpy() * price.std() + price.mean()
    predictions = pd.read_csv(finished.folder / "predictions.csv")
    assert predictions["corrected"].to_numpy() == pytest.approx(predicted, rel=1e-4)
    assert predictions["uncorrected"].to_numpy() != pytest.approx(predicted, rel=1e-2)


def test_risks_gain_and_standard_error_are_those_of_held_out_rows(finished: Finished) -> None:
    X, _ = finished.features()
    price, weights = finished.source["price"].to_numpy(), finished.weights()
    errors = {kind: np.empty(60) for kind in KINDS}
    for train, held_out in zip(*k_fold(60, K, SEED), strict=True):
        for kind in KINDS:
            predicted = finished.fitted(kind, train.numpy()).predict(X[held_out])
            errors[kind][held_out] = (predicted - price[held_out]) ** 2
    gains = errors["uncorrected"] - errors["corrected"]
    gain = np.average(gains, weights=weights)
    expected = {
        "risk_on_source": errors["uncorrected"].mean(),
        "risk_uncorrected": np.average(errors["uncorrected"], weights=weights),
        "risk_corrected": np.average(errors["corrected"], weights=weights),
        "gain": gain,
        # The standard error of a ratio of means, by the delta method.
        "gain_standard_error": (weights * (gains - gain)).std() / weights.mean() / np.sqrt(60),
    }
    for name, value in expected.items():
        assert finished.outputs[f"results/{name}"] == pytest.approx(value, rel=0.01), name


def test_the_standard_error_equals_that_of_the_bootstrap(finished: Finished) -> None:
    # The bootstrap draws rows; models and weights stay the same.
    X, _ = finished.features()
    price, weights = finished.source["price"].to_numpy(), finished.weights()
    gains = np.empty(60)
    for train, held_out in zip(*k_fold(60, K, SEED), strict=True):
        off = [finished.fitted(kind, train.numpy()).predict(X[held_out]) - price[held_out] for kind in KINDS]
        gains[held_out] = off[0] ** 2 - off[1] ** 2
    drawn = np.random.default_rng(0).integers(60, size=(4000, 60))
    estimates = (weights[drawn] * gains[drawn]).sum(axis=1) / weights[drawn].sum(axis=1)
    assert finished.outputs["results/gain_standard_error"] == pytest.approx(estimates.std(), rel=0.1)


def test_the_balance_table_equals_that_of_pandas(finished: Finished) -> None:
    tables = [
        pd.concat(
            [table[["size", "age"]], pd.get_dummies(table["city"], prefix="city").astype(float)], axis=1
        )
        for table in (finished.source, finished.target)
    ]
    source, target = tables
    deviation = pd.concat(tables).std()
    before = (target.mean() - source.mean()) / deviation
    mean = pd.Series(np.average(source, axis=0, weights=finished.weights()), index=source.columns)
    after = (target.mean() - mean) / deviation
    assert (before - after).abs().min() > 0.005
    for name in source:
        assert finished.outputs[f"printed/{name}"] == [[f"{before[name]:+.3f}", f"{after[name]:+.3f}"]]
    shown = [
        key.removeprefix("printed/") for key in finished.outputs if key.removeprefix("printed/") in source
    ]
    assert shown == before.abs().sort_values(ascending=False, kind="stable").index.tolist()


def test_the_printed_numbers_are_those_of_the_results(finished: Finished) -> None:
    out = finished.outputs
    facts = {
        "rows of the source": "60",
        "rows of the target": "50",
        "test for a shift: AUC of a classifier of source and target": f"{out['results/detector/auc']:.4f}",
        "test for a shift: p-value": f"{out['results/detector/p_value']:.4f}",
        "effective sample size of the weighted source": f"{out['results/effective_sample_size']:.1f}",
        "target rows without a similar source row": f"{out['results/uncovered']:.2%}",
        "on the source, trained without weights": f"{out['results/risk_on_source']:.6g}",
        "on the target, trained without weights": f"{out['results/risk_uncorrected']:.6g}",
        "on the target, trained with weights": f"{out['results/risk_corrected']:.6g}",
    }
    assert {name: out[f"printed/{name}"] for name in facts} == {name: [[it]] for name, it in facts.items()}


def test_an_overfitted_model_is_evaluated_on_other_rows(tmp_path: Path) -> None:
    # With more columns than rows and random labels, the error on training rows is 0.
    rng = np.random.default_rng(0)
    names = [f"x{i}" for i in range(80)]
    source, target = (pd.DataFrame(rng.normal(0, 1, (n, 80)), columns=names) for n in (40, 30))
    source.assign(y=rng.normal(0, 1, 40)).to_csv(tmp_path / "source.csv", index=False)
    target.to_csv(tmp_path / "target.csv", index=False)
    flags = [
        "--source",
        str(tmp_path / "source.csv"),
        "--target",
        str(tmp_path / "target.csv"),
        "--label",
        "y",
    ]
    flags += ["--label", "y", "--steps", "120", "--domain_steps", "4", "--batch_size", "100", "--lr", "0.1"]
    results = run_results("correct_shift", tmp_path / "run", *flags)
    for name in ("risk_on_source", "risk_uncorrected", "risk_corrected"):
        assert results[name] > 0.7


@pytest.mark.parametrize(
    ("shift", "significant", "end"),
    [(1.2, True, "."), (0.3, False, ", so the difference is not significant.")],
    ids=["significant", "not significant"],
)
def test_the_note_has_the_gain_with_its_significance(
    shift: float, significant: bool, end: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        *write_tables(tmp_path, 200, 150, shift),
        "--steps",
        "300",
        "--lr",
        "0.05",
        "--domain_steps",
        "100",
    ]
    results = run_results("correct_shift", tmp_path / "run", *flags)
    gain, error = results["gain"], results["gain_standard_error"]
    assert (abs(gain) > 2 * error) == significant
    verb = "lower" if gain > 0 else "raise"
    note = (
        f"Weights {verb} the loss on the target by {abs(gain):.3g}, with a standard error of {error:.3g}{end}"
    )
    assert note in " ".join(capsys.readouterr().out.split())
