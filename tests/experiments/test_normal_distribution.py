"""Densities have an integral of 1, and both objectives find the same weights."""

import math
from pathlib import Path

import pytest

from tests.conftest import run_results


@pytest.mark.parametrize("noise", ["0.01", "2.0"])
def test_the_likelihood_finds_the_weights_of_the_squared_loss(tmp_path: Path, noise: str) -> None:
    results = run_results("normal_distribution", tmp_path / "run", "--noise", noise)
    by_loss, by_likelihood = results["weights"].values()
    assert by_loss == pytest.approx(by_likelihood, rel=0, abs=1e-7)
    spread = 4 * float(noise) / math.sqrt(1000)
    assert by_loss == pytest.approx([2, -3.4, 4.2], rel=0, abs=spread)
    assert by_loss != pytest.approx([2, -3.4, 4.2], rel=0, abs=1e-6)  # estimates, not the true weights


def test_integrals_are_exact_for_narrow_and_wide_densities(tmp_path: Path) -> None:
    results = run_results(
        "normal_distribution", tmp_path / "run", "--means", "0", "1", "--stds", "0.01", "10"
    )
    assert [density["integral"] for density in results["densities"]] == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.figures
def test_peaks_and_integrals_of_densities(tmp_path: Path) -> None:
    results = run_results("normal_distribution", tmp_path / "run", "--means", "-1", "7", "--stds", "0.5", "2")
    for density, mean, std in zip(results["densities"], (-1, 7), (0.5, 2), strict=True):
        assert (density["mean"], density["std"]) == (mean, std)
        assert density["integral"] == pytest.approx(1, abs=1e-5)
        assert density["peak"] == pytest.approx(1 / (std * math.sqrt(2 * math.pi)))
    names = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert names == {"densities", "likelihoods", "prices"}
    price, logarithm = results["prices"].values()
    # scipy.stats.skew of the 1,460 prices, and of their logarithms
    assert price["skewness"] == pytest.approx(1.880941, abs=1e-5)
    assert logarithm["skewness"] == pytest.approx(0.121210, abs=1e-5)
    assert price["normal_probability_below_0"] == pytest.approx(0.01136, abs=1e-4)
    assert logarithm["normal_probability_below_0"] == 0
