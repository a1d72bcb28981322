"""From all starts, the logarithm of a constant reaches it; the constant itself hardly moves."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.conftest import empty_file, run_results


@pytest.mark.figures
def test_constants_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Figure, "savefig", empty_file)
    flags = ["--factors", "0.3", "2", "--resistance", "50", "--temperature", "3000", "--max_epochs", "20"]
    results = run_results("physical_laws", tmp_path / "run", *flags)
    ohm, planck = results["ohm"], results["planck"]
    assert (ohm["truth"], planck["truth"]) == (50, 3000)
    assert ohm["starts"] == pytest.approx([15, 100])
    assert ohm["estimates"]["log_R"] == pytest.approx([ohm["least_squares"]] * 2, rel=2e-3)
    # The standard deviation of the estimate is 1 V / (200 * 0.1^2 / 3)^0.5 = 1.2 ohms.
    assert ohm["least_squares"] == pytest.approx(50, abs=4)
    for name in ("log_T", "log_T_by_squared_error"):
        assert planck["estimates"][name] == pytest.approx([3000] * 2, rel=0.01), name
    assert ohm["estimates"]["R"] == pytest.approx(ohm["starts"], abs=10)
    assert planck["estimates"]["T"] == pytest.approx(planck["starts"], abs=10)
    printed = capsys.readouterr().out
    assert "The true value is 3000 K" in printed
    assert f"The exact least-squares solution is {ohm['least_squares']:.1f}" in " ".join(printed.split())
    assert {path.stem for path in (tmp_path / "run" / "figures").iterdir()} == {"laws", "starts"}
