"""Runs of several experiments are killed as real processes, and resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.data.test_fashion_mnist import write
from tests.experiments.test_correct_shift import write_tables


@pytest.mark.slow
def test_killed_runs_end_as_ones_that_were_not(tmp_path: Path) -> None:
    images = ["--data_dir", str(write(tmp_path / "images", (400, 100))), "--batch_size", "20"]
    tables = write_tables(tmp_path, n=100)["flags"]
    short = ["--steps", "20", "--domain_steps", "20", "--num_permutations", "9"]
    (tmp_path / "space.yaml").write_text(
        "parameters: {lr: {min: 0.001, max: 0.02}, dropout: {min: 0.1, max: 0.5}}"
    )
    search = ["--space", str(tmp_path / "space.yaml"), "--hidden_sizes", "8", "--max_epochs", "5"]
    offline = ["--logger", "wandb", "--wandb_mode", "offline"]
    jobs: list[tuple[str, int, list[str]]] = [
        ("kaggle_house", 2, ["--max_epochs", "8", "--statistics", "train", *offline]),
        ("dropout", 1, [*images, "--max_epochs", "5", "--logger", "tensorboard"]),
        ("label_shift", 1, [*images, "--max_epochs", "10", "--num_target", "500", "--lr", "0.5"]),
        ("correct_shift", 1, [*tables, *short]),
        ("polynomial_regression", 1, ["--epochs", "5", "5", "9", "--max_epochs", "9"]),
        ("search_house", 2, [*search, "--trials", "9", "--pack", "3", "--first_rung", "2", "--confirm", "1"]),
    ]
    flags = ["--accelerator", "cpu", "--checkpoint_every", "0"]
    (tmp_path / "jobs.json").write_text(
        json.dumps([[name, kills, [*own, *flags], True] for name, kills, own in jobs])
    )
    loop = [sys.executable, str(ROOT / "tests/tools/kill_loop.py")]
    ended = subprocess.run(
        [*loop, "--jobs", str(tmp_path / "jobs.json")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count(" s: the same\n") >= len(jobs)
    assert "differs" not in ended.stdout
