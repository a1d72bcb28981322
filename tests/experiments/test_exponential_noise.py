"""The mean and the median are the best constants; steps of SGD that become shorter come closer."""

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from d2l_lightning.data.exercises import ExponentialNoiseData
from tests.conftest import empty_file, run_results


@pytest.mark.figures
def test_constants_and_distances(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Figure, "savefig", empty_file)
    flags = ["--num_train", "31", "--max_epochs", "15", "--lrs", "1", "0.3"]
    results = run_results("exponential_noise", tmp_path / "run", *flags)
    y = ExponentialNoiseData(num_train=31).y
    assert results["mean"] == pytest.approx(y.mean().item())
    assert results["median"] == pytest.approx(torch.median(y).item())
    step = (y.max() - y.min()).item() / 2000
    assert results["minimisers"]["normal"] == pytest.approx(results["mean"], abs=step)
    assert results["minimisers"]["exponential"] == pytest.approx(results["median"], abs=step)
    equal, falling = results["distances"]["equal"], results["distances"]["falling"]
    assert min(equal) > 0.15
    assert equal[0] > equal[1]
    assert all(near < far / 3 for near, far in zip(falling, equal, strict=True))
    assert "The true value is 4.2" in capsys.readouterr().out
    assert {path.stem for path in (tmp_path / "run" / "figures").iterdir()} == {"costs", "distances"}
