"""The experiment on products of matrices: what it prints, and its bounds."""

from pathlib import Path

import pytest

from tests.conftest import run_results


@pytest.mark.figures
@pytest.mark.usefixtures("unsaved_figures")
def test_both_matrices_are_printed_and_orthogonal_ones_stay_well_conditioned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run_results("matrix_products", tmp_path / "run")
    assert results["product_max_abs"] > 1e12
    assert results["product_max_abs"] == max(abs(v) for row in results["product"] for v in row)
    bounds = results["singular_values"]
    for values in bounds.values():
        assert values["largest"] <= values["largest_bound"] * (1 + 1e-9)
        assert values["smallest"] >= values["smallest_bound"] * (1 - 1e-9)
    assert bounds["orthogonal"]["smallest_bound"] == pytest.approx(1)
    assert bounds["variance 1 / n"]["smallest"] < 1e-20
    printed = capsys.readouterr().out
    for text in ("a single matrix", f"{results['first'][2][1]:.4e}", f"{results['product'][3][0]:.4e}"):
        assert text in printed
    assert "the book's is 3.1e+24" in printed
    figures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert figures == {"matrix_product", "singular_values"}
