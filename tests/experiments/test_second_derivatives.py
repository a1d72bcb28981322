"""The second_derivatives experiment finds what Hessians cost, and where they fail."""

from pathlib import Path

import pytest

from tests.conftest import run_results


@pytest.mark.figures
def test_hessians_grow_fail_at_kinks_and_on_few_rows_and_are_indefinite(tmp_path: Path) -> None:
    flags = ["--dims", "20", "5", "--num_rows", "60", "--steps", "12"]
    results = run_results("second_derivatives", tmp_path / "run", *flags)
    assert [size["d"] for size in results["sizes"]] == [5, 20]
    assert [size["megabytes"] for size in results["sizes"]] == [25 * 8 / 1e6, 400 * 8 / 1e6]
    for size in results["sizes"]:
        assert size["formula_difference"] < 1e-12
        assert size["newton_difference"] < 1e-12
        assert size["free_difference"] < 1e-4
        assert min(size[name] for name in ("seconds", "product_seconds", "free_seconds")) > 0
    squared, absolute, huber = results["kinks"].values()
    assert squared["newton"] < 0.1
    assert (absolute["rank"], absolute["newton"]) == (0, None)
    assert huber["newton"] > 10
    assert absolute["reweighted"] < 0.1
    assert huber["reweighted"] == pytest.approx(squared["newton"], rel=0.5)
    few, more, all_rows = results["rows"].values()
    assert (few["rank"], few["newton"]) == (10, None)
    assert more["rank"] == all_rows["rank"] == 20
    assert all_rows["newton"] < more["newton"] < few["damped"]
    network = results["network"]
    assert network["parameters"] == 33
    assert network["negative"] > 5
    assert network["least"] < -0.1
    assert network["gauss_newton_least"] > -1e-9
    descent, newton, gauss_newton = network["losses"].values()
    assert descent == sorted(descent, reverse=True)
    assert gauss_newton[-1] < 0.3 * min(descent[-1], newton[-1])
    assert {path.stem for path in (tmp_path / "run" / "figures").iterdir()} == {"seconds", "network"}
