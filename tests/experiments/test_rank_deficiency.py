"""Solutions have one loss, and SGD does not move weights in the null space."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.conftest import empty_file, run_results


@pytest.mark.figures
def test_solutions_and_the_ends_of_sgd(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Figure, "savefig", empty_file)
    flags = [
        "--max_epochs",
        "10",
        "--starts",
        "3",
        "--draws",
        "50",
        "--sigmas",
        "1",
        "0.1",
        "--noise",
        "0.01",
    ]
    results = run_results("rank_deficiency", tmp_path / "run", *flags)
    assert (results["columns"], results["rank"]) == (3, 2)
    least, middle, _ = results["eigenvalues"]
    assert abs(least) < 1e-12 * middle
    shortest, moved, other, truth, ridge = results["weights"].values()
    for solution in (moved, other):
        assert solution["loss"] == pytest.approx(shortest["loss"], rel=1e-9)
        assert solution["norm"] ** 2 == pytest.approx(shortest["norm"] ** 2 + 4)
        assert solution["gradient"] < 1e-12
    assert truth["loss"] > shortest["loss"]
    assert ridge["loss"] > shortest["loss"]
    assert ridge["norm"] < shortest["norm"]
    assert [noise["sigma"] for noise in results["noise"]] == [0.1, 1.0]
    assert [noise["expected_added"] for noise in results["noise"]] == pytest.approx([1.0, 100.0])
    zero, *others = results["sgd"]
    assert zero["in_null_space"] == [0]
    assert zero["to_shortest_solution"] < 2e-3
    for end in (zero, *others):
        assert end["moved_in_null_space"] < 1e-6
        assert end["to_nearest_solution"] < 2e-3
        assert end["to_shortest_solution"] == pytest.approx(abs(end["in_null_space"][0]), abs=2e-3)
    assert min(end["to_shortest_solution"] for end in others) > 0.1
    assert "X has 3 columns and rank 2" in capsys.readouterr().out
    assert {path.stem for path in (tmp_path / "run" / "figures").iterdir()} == {"valley", "noise"}


def test_two_features_are_copies_of_each_other(tmp_path: Path) -> None:
    flags = ["--num_inputs", "2", "--max_epochs", "1", "--starts", "1", "--draws", "2"]
    results = run_results("rank_deficiency", tmp_path / "run", *flags)
    assert results["rank"] == 1
    first, second = results["weights"]["shortest"]["w"]
    assert first == pytest.approx(second)
