"""The sgd experiment: starts, rates, sums, an outlier, and sorted rows."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from d2l_lightning.data.regression import RegressionData, SyntheticRegressionData
from d2l_lightning.models.linear_regression import LinearRegression
from tests.conftest import load_experiment, run_results

experiment = load_experiment("sgd")


@pytest.mark.figures
def test_sgd_needs_a_rate_a_robust_loss_and_shuffling(
    tmp_path: Path, trainer: Callable[..., Trainer]
) -> None:
    flags = ["--num_train", "204", "--num_val", "100", "--batch_size", "8", "--max_epochs", "10"]
    rates = ["--lr", "0.1", "--lrs", "0.001", "0.1", "0.3", "3"]
    results = run_results("sgd", tmp_path / "run", *flags, *rates)
    found = results["rates"]
    slow, good, fast, too_fast = found["epochs_needed"]
    assert slow is too_fast is None
    assert fast < good
    assert found["losses"]["10"][1] < 1.2 * results["exact"]["loss"]
    assert found["error"][1] < found["error"][2]  # a floor that grows with the rate
    assert found["error"][3] is found["losses"]["10"][3] is None
    zero, small, large = results["starts"]["losses"]["1"]
    assert zero == pytest.approx(small, rel=0.05)
    assert large > 10 * zero
    # A member has the result of a fit of its own.
    torch.manual_seed(0)
    model = LinearRegression(2, 0.1, "half_squared")
    data = SyntheticRegressionData(num_train=204, num_val=100, batch_size=8)
    trainer(max_epochs=10).fit(model, data)
    assert experiment.distance(model, data) == pytest.approx(found["error"][1], rel=1e-3)

    assert results["summed"]["dropped"] == 0.0
    assert results["summed"]["kept"] > 1e-4

    squared, absolute, huber, clipped = results["outlier"].values()
    assert squared["regular"] < 0.01 < 1 < squared["outlier"]
    assert max(absolute["outlier"], huber["outlier"], clipped["outlier"]) < 0.3
    assert huber["regular"] < 0.01 < absolute["regular"]

    shuffled, in_order = results["order"].values()
    assert in_order["noise"] > 0.5
    for kind in ("target", "noise"):
        assert in_order[kind] > 1.5 * shuffled[kind]
    assert {path.stem for path in (tmp_path / "run" / "figures").iterdir()} == {"learning_curves", "order"}


def test_the_rows_of_a_last_batch_count_less_in_a_sum(trainer: Callable[..., Trainer]) -> None:
    X, y = torch.randn(3, 2), torch.randn(3)
    data = RegressionData(X, y, 3, 2, shuffle=False)
    torch.manual_seed(0)
    model = experiment.SummedLinearRegression(2, 0.1, "half_squared")
    w, b = model.get_w_b()
    trainer(max_epochs=1).fit(model, data)
    for rows in (slice(0, 2), slice(2, 3)):
        errors = X[rows] @ w + b - y[rows]
        w, b = w - 0.1 * X[rows].T @ errors, b - 0.1 * errors.sum()
    torch.testing.assert_close(model.get_w_b(), (w, b))
