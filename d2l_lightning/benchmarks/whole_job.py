"""The whole house-price job as a user starts it: this project's script, and one in plain PyTorch."""

import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from d2l_lightning.benchmarks import ENVIRONMENT
from d2l_lightning.benchmarks.base import Job, Metrics, output_of
from d2l_lightning.data.kaggle_house import BUNDLED
from d2l_lightning.errors import InputError

PLAIN_SCRIPT = Path(__file__).with_name("plain_kaggle_house.py")
FILES = [str(BUNDLED / f"kaggle_house_pred_{name}.csv.gz") for name in ("train", "test")]
# This project sets them for itself; the plain script must not inherit them.
OPENMP = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")
CPU = ", CPU time"


class WholeJob(Job):
    """K folds, a fit on all rows, figures and submission, each time in a process of its own.

    CPU time is measured with one thread, and time on the clock with the number of threads that comes.
    """

    title = "the house-price job in processes of its own"
    batch_size = 64
    warm_up = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.implementations = {
            "this project": self.this_project,
            "plain script": self.plain_script,
            f"this project{CPU}": lambda: self.this_project(OMP_NUM_THREADS="1"),
            f"plain script{CPU}": lambda: self.plain_script(OMP_NUM_THREADS="1"),
        }

    def clock(self, name: str) -> Callable[[], float]:
        """Return the clock on the wall, or that of the CPU time of processes that have ended."""
        return children_cpu_seconds if name.endswith(CPU) else time.perf_counter

    def ratios(self, medians: Mapping[str, float]) -> dict[str, float]:
        """Return the ratios of CPU times and of times on the clock.

        Raises:
            InputError: If the system does not report the CPU time of processes.
        """
        if not medians[f"plain script{CPU}"]:
            raise InputError("whole_job needs a system that reports the CPU time of processes")
        kinds = {"plain_script_cpu": CPU, "plain_script_wall": ""}
        return {
            ratio: medians[f"this project{kind}"] / medians[f"plain script{kind}"]
            for ratio, kind in kinds.items()
        }

    def this_project(self, **variables: str) -> Metrics:
        """Run `kaggle_house.py`, with environment variables."""
        flags = {"--accelerator": "cpu", "--max_epochs": self.epochs}
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            self._run(self.scripts / "kaggle_house.py", {**flags, "--run_dir": run}, variables)
            results = json.loads((run / "results.json").read_text(encoding="utf-8"))["results"]
        names = {"train": "train_log_rmse", "val": "val_log_rmse", "all rows": "final_train_log_rmse"}
        return {**{name: results[key] for name, key in names.items()}, "features": results["features"]}

    def plain_script(self, **variables: str) -> Metrics:
        """Run the script in plain PyTorch, with environment variables."""
        with tempfile.TemporaryDirectory() as folder:
            flags = {"--out": folder, "--epochs": self.epochs}
            printed = self._run(PLAIN_SCRIPT, flags, variables, *FILES)
        values = dict(re.findall(r"^(.+?): (.+)$", printed, re.MULTILINE))
        train, val, all_rows = re.findall(r"\d+\.\d+", values["average"] + values["all rows"])
        errors = {"train": float(train), "val": float(val), "all rows": float(all_rows)}
        return {**errors, "features": int(values["features"])}

    def _run(self, script: Path, flags: dict[str, Any], variables: dict[str, str], *words: str) -> str:
        flags |= {"--seed": self.seed, "--batch_size": self.batch_size}
        inherited = {
            name: value
            for name, value in ENVIRONMENT.items()
            if name not in OPENMP and not name.startswith("D2L_LIGHTNING_")
        }
        pairs = (str(word) for flag in flags.items() for word in flag)
        return output_of([str(script), *words, *pairs], {**inherited, **variables})


def children_cpu_seconds() -> float:
    """Return the CPU time of the processes that this one has started and that have ended."""
    times = os.times()
    return times.children_user + times.children_system
