"""Kill a run at random moments, resume it, and compare it with a run that was not killed.

`python tests/tools/kill_loop.py` kills the house-price job 50 times and prints a line for each kill and the
tally. `--experiment` and the flags after `--` choose another job.

The jobs are real processes. They are forked from this one after its imports, because the imports take longer
than the jobs.
"""

import argparse
import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from d2l_lightning.runs.cli import run_experiment

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
# What jobs import only once they need it.
IMPORTED_LATE = ("matplotlib.backends.backend_agg", "rich.progress", "torch.utils.tensorboard", "wandb")
# What no run may leave in its folder.
DEBRIS = ("**/.partial-*", "state", ".new", ".lock")


def load_main(name: str) -> Callable[..., None]:
    """Return the ``main`` of an experiment."""
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # jsonargparse reads its source
    spec.loader.exec_module(module)
    main: Callable[..., None] = module.main
    return main


@dataclass
class Job:
    """An experiment with its flags, of which the run folder is not one."""

    experiment: str
    flags: Sequence[str]
    empty_figures: bool = False  # drawing takes most of the time of a short job

    def start(self, folder: Path, log: Path, resume: bool = True) -> int:
        """Start the job in a process of its own; return the id of the process."""
        main = load_main(self.experiment)
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            torch.set_num_threads(1)
            if self.empty_figures:
                Figure.savefig = lambda figure, path: Path(path).write_bytes(b"")  # type: ignore[assignment]
            words = [*self.flags, "--run_dir", str(folder), *(["--resume", "true"] if resume else [])]
            run_experiment(main, words)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(status)

    def run(self, folder: Path, log: Path, resume: bool = True) -> float:
        """Run the job to its end; return its seconds."""
        began = time.monotonic()
        status = os.waitstatus_to_exitcode(os.waitpid(self.start(folder, log, resume), 0)[1])
        if status != 0:
            raise RuntimeError(f"{self.experiment} ended with status {status}:\n{log.read_text()}")
        return time.monotonic() - began

    def kill(self, folder: Path, log: Path, after: float, signum: int = signal.SIGKILL) -> int:
        """Start the job and send it a signal after some seconds; return its exit status."""
        pid = self.start(folder, log)
        time.sleep(after)
        os.kill(pid, signum)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def outcome(folder: Path) -> dict[str, Any]:
    """Return what a run folder holds and what must not depend on kills, by file."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name.startswith(("wandb/", "tensorboard/")):
            continue
        found[name] = None
        if name == "results.json":
            found[name] = json.loads(path.read_text())["results"]
        elif name == "trials.csv":  # of a search: by whom, and how long it took, depends on kills
            found[name] = pd.read_csv(path).drop(columns=["worker", "seconds"]).to_csv()
        elif path.suffix in (".csv", ".yaml"):
            found[name] = path.read_bytes()
        elif path.suffix == ".ckpt":
            checkpoint = torch.load(path, weights_only=True)
            weights = {key: value.tolist() for key, value in checkpoint["state_dict"].items()}
            found[name] = (weights, checkpoint.get("hyper_parameters"))
    for pattern in DEBRIS:
        found.update({f"debris: {path.relative_to(folder)}": None for path in folder.glob(pattern)})
    return found


def differences(reference: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names of the files in which two outcomes differ."""
    names = {*reference, *other}
    return sorted(n for n in names if n not in reference or n not in other or reference[n] != other[n])


def kill_loop(
    job: Job,
    kills: int,
    seed: int,
    scratch: Path,
    again: float = 0.5,
) -> tuple[int, int]:
    """Kill runs of a job, some of them several times, and print a line for each.

    Returns how many runs there were, and how many differed.

    Args:
        job: The job.
        kills: The number of kills.
        seed: Seed of the moments.
        scratch: A folder for the run folders.
        again: The probability that a run that goes on is killed once more.
    """
    choose = random.Random(seed)
    reference, log = scratch / "reference", scratch / "log.txt"
    seconds = job.run(reference, log, resume=False)
    expected = outcome(reference)
    done = runs = differed = 0
    while done < kills:
        folder, moments = scratch / f"run_{runs}", []
        log.write_text("")
        while done < kills and (not moments or choose.random() < again):
            moments.append(choose.uniform(0, seconds if not moments else seconds / 2))
            job.kill(folder, log, moments[-1])
            done += 1
        job.run(folder, log)
        found = differences(expected, outcome(folder))
        runs, differed = runs + 1, differed + bool(found)
        at = ", ".join(f"{moment:.2f}" for moment in moments)
        same = f"differs: {', '.join(found)}" if found else "the same"
        print(f"{done} kills: killed after {at} s: {same}", flush=True)
        if not found:
            shutil.rmtree(folder)
    print(f"{done} kills in {runs} runs of {seconds:.1f} s: {runs - differed} of {runs} the same")
    return runs, differed


def main() -> int:
    """Run the loop; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--experiment", default="kaggle_house")
    parser.add_argument("--jobs", type=Path, help="JSON: [[experiment, kills, flags, empty_figures], ...]")
    parser.add_argument("flags", nargs="*", help="flags of the experiment, after --")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="kill_loop_"))
    jobs = [[arguments.experiment, arguments.kills, arguments.flags, False]]
    if arguments.jobs is not None:
        jobs = json.loads(arguments.jobs.read_text())
    differed = 0
    for name in IMPORTED_LATE:
        importlib.import_module(name)
    for number, (experiment, kills, flags, empty_figures) in enumerate(jobs):
        folder = scratch / str(number)
        folder.mkdir()
        job = Job(experiment, ["--checkpoint_every", "0.2", *flags], empty_figures)
        print(f"{experiment}:", flush=True)
        _, wrong = kill_loop(job, kills, arguments.seed + number, folder)
        differed += wrong
    if differed:
        print(f"what differs is in {scratch}")
        return 1
    shutil.rmtree(scratch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
