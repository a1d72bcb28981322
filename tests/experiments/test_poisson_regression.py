"""The Poisson model with a log rate finds the true weights; the linear model predicts negative counts."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.conftest import empty_file, run_results


@pytest.mark.figures
def test_models_of_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Figure, "savefig", empty_file)
    results = run_results(
        "poisson_regression", tmp_path / "run", "--draws", "5", "--lr", "0.05", "--max_epochs", "12"
    )
    models = results["models"]
    for w, spread, truth in zip(
        *(models["log"][key] for key in ("weights", "spread")), [0.5, -0.8, 0.7], strict=True
    ):
        assert w == pytest.approx(truth, abs=0.06)
        assert 0 < spread < 0.1
    assert results["true_weights"] == pytest.approx([0.5, -0.8, 0.7])
    losses = [models[kind]["negative_log_likelihood"] for kind in ("log", "softplus", "linear")]
    assert losses == sorted(losses)
    assert models["log"]["rmse"] < models["linear"]["rmse"]
    assert models["log"]["negative_predictions"] == models["softplus"]["negative_predictions"] == 0
    # A normal slope of w E[y] makes predictions negative where <w, x> < -1.
    assert models["linear"]["negative_predictions"] == pytest.approx(0.145, abs=0.03)
    assert models["linear"]["probability_below_0"] > 0.1
    for found in results["rates"]:
        assert found["formula"] == pytest.approx(found["rate"])
        assert found["mean"] == pytest.approx(found["rate"], rel=0.01)
        assert found["variance"] == pytest.approx(found["rate"], rel=0.02)
    assert "0.500" in capsys.readouterr().out
    assert {path.stem for path in (tmp_path / "run" / "figures").iterdir()} == {"counts"}
    assert {path.stem for path in (tmp_path / "run" / "checkpoints").iterdir()} == set(models)
