"""The data_loading experiment: the last batch, rows on disk, rows made on the fly."""

import json
from pathlib import Path

import pytest

from tests.conftest import run_results
from tests.tools.forked import fork_experiment


@pytest.mark.figures
def test_rows_come_from_disk_and_on_the_fly_as_from_memory(tmp_path: Path) -> None:
    flags = ["--num_rows", "1500", "--block_rows", "10", "--window_rows", "600", "--max_epochs", "1"]
    more = ["--batch_size", "32", "--generated_rows", "12", "--generated_epochs", "40", "--lr", "0.05"]
    results = run_results("data_loading", tmp_path / "run", *flags, *more)
    kept, dropped = results["batches"]["kept"], results["batches"]["dropped"]
    # 1500 = 46 * 32 + 28
    assert kept == {"batches": 47, "last": 28, "weight_of_last": 32 / 28, "left_out": 0, "never_used": 0}
    assert (dropped["batches"], dropped["last"], dropped["left_out"]) == (46, 32, 28)

    disk = results["disk"]
    assert all(order["each_row_once"] for order in disk.values())
    assert disk["file"]["reads"] == 150
    assert disk["window"]["reads"] in (150, 151)
    assert disk["row"]["reads"] == 1500
    assert disk["row"]["megabytes"] > 5 * disk["window"]["megabytes"]
    in_memory = {name: order["rows_in_memory"] for name, order in disk.items()}
    assert in_memory == {"file": 600, "block": 10, "window": 600, "row": 600, "memory": 1500}
    uneven = {name: order["unevenness"] for name, order in disk.items()}
    assert uneven["file"] > uneven["block"] > 2 > 1.5 > max(uneven["window"], uneven["row"], uneven["memory"])
    for name in ("window", "row", "memory"):
        assert disk[name]["w_error"] < 0.6 * disk["file"]["w_error"]

    new, same = results["generated"]["new"], results["generated"]["same"]
    assert (new["rows_seen"], same["rows_seen"]) == (480, 12)
    assert abs(new["val_loss"] - new["train_loss"]) < 0.5 < same["val_loss"] - same["train_loss"]
    for name, (first, second, again, other_seed) in results["first_targets"].items():
        assert first == again != other_seed
        assert (first == second) == (name == "same")
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert written == {"config.yaml", "figures", "manifest.json", "metrics.csv", "results.json"}
    assert {path.stem for path in (tmp_path / "run" / "figures").iterdir()} == {"orders", "learning_curves"}


SMALL = (
    "--max_epochs 1 --num_rows 90 --block_rows 5 --window_rows 50 --generated_rows 12 --generated_epochs 1"
)


def test_a_trial_run_has_no_losses_of_generated_rows(tmp_path: Path) -> None:
    results = run_results("data_loading", tmp_path / "run", *SMALL.split(), "--fast_dev_run", "true")
    assert results["generated"]["new"]["train_loss"] is results["generated"]["same"]["val_loss"] is None


def test_two_processes_train_on_the_same_rows_from_disk(tmp_path: Path) -> None:
    alone = run_results("data_loading", tmp_path / "alone", *SMALL.split())
    folder = tmp_path / "together"
    words = [*SMALL.split(), "--run_dir", str(folder), "--devices", "2"]
    ended = fork_experiment("data_loading", tmp_path, words)
    assert [process.status for process in ended] == [0, 0], ended
    together = json.loads((folder / "results.json").read_text())["results"]
    for order, found in together["disk"].items():
        assert found == pytest.approx(alone["disk"][order], rel=1e-4), order
    assert not (folder / "rows").exists()
