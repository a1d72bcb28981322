"""Train on two nodes that share no files, and lose one of them; needs root and the command `ip`.

`python tests/tools/two_nodes.py` prints a line for each check. The nodes are network namespaces of this
machine, connected by a pair of virtual Ethernet devices.
"""

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEVICE, PORT = "eth0", "29555"
# A run that does not end by itself, and saves its state after each epoch.
ENDLESS = ("--max_epochs", "1000000", "--checkpoint_every", "0", "--enable_progress_bar", "false")
# Seconds until a run has begun to train; imports take most of them.
START = 180.0


def ip(*words: str) -> str:
    """Run the command `ip`; return what it prints."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Node:
    """A node: a network namespace with an address, and a folder for its files."""

    number: int
    name: str
    address: str
    folder: Path

    @property
    def work(self) -> Path:
        """The working folder."""
        return self.folder / "work"

    def start(self, command: Sequence[str], **variables: str) -> "Job":
        """Start a command in the working folder, with a cache and a folder for temporary files of its own."""
        for name in ("work", "cache", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        own = {"D2L_LIGHTNING_CACHE": str(self.folder / "cache"), "TMPDIR": str(self.folder / "tmp")}
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MASTER_", "SLURM_", "D2L_"))}
        output = self.folder / "output.txt"
        with output.open("w") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *command],
                cwd=self.work,
                env={**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **own, **variables},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        return Job(process, output)

    def kill(self) -> None:
        """Kill all processes of the node."""
        for pid in ip("netns", "pids", self.name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


@dataclass(frozen=True)
class Job:
    """A command that runs on a node, and the file of what it prints."""

    process: subprocess.Popen[bytes]
    output: Path

    def wait(self, seconds: float) -> int | None:
        """Return the exit status; None if the command does not end in this time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        return None

    @property
    def text(self) -> str:
        """What the command has printed."""
        return self.output.read_text(errors="replace")


@contextlib.contextmanager
def two_nodes(scratch: Path) -> Iterator[list[Node]]:
    """A context with two nodes that reach each other; their processes end with it."""
    nodes = [Node(n, f"d2l_{os.getpid()}_{n}", f"10.99.0.{n + 1}", scratch / f"node_{n}") for n in range(2)]
    made: list[Node] = []
    try:
        for node in nodes:
            ip("netns", "add", node.name)
            made.append(node)
        first, second = (node.name for node in nodes)
        ip("link", "add", DEVICE, "netns", first, "type", "veth", "peer", "name", DEVICE, "netns", second)
        for node in nodes:
            ip("-n", node.name, "address", "add", f"{node.address}/24", "dev", DEVICE)
            for device in (DEVICE, "lo"):
                ip("-n", node.name, "link", "set", device, "up")
        yield nodes
    finally:
        for node in made:
            node.kill()
            ip("netns", "delete", node.name)  # the devices go with it


def script(experiment: str) -> str:
    """Return the path of an experiment."""
    return str(ROOT / "experiments" / f"{experiment}.py")


def by_python(node: Node, experiment: str, *flags: str) -> Job:
    """Start an experiment on a node with the variables that a run reads, one process on each node."""
    variables = {"MASTER_ADDR": "10.99.0.1", "MASTER_PORT": PORT, "NODE_RANK": str(node.number)}
    words = [sys.executable, script(experiment), "--num_nodes", "2", "--accelerator", "cpu"]
    return node.start([*words, "--run_dir", "run", *flags], **variables)


def by_torchrun(node: Node, experiment: str, *flags: str) -> Job:
    """Start an experiment on a node with torchrun, two processes on each node."""
    words = ["--nnodes", "2", "--nproc_per_node", "2", "--node_rank", str(node.number)]
    words += ["--master_addr", "10.99.0.1", "--master_port", PORT, script(experiment), "--num_nodes", "2"]
    words += ["--devices", "2", "--accelerator", "cpu", "--run_dir", "run", *flags]
    return node.start([sys.executable, "-m", "torch.distributed.run", *words])


Starter = Callable[..., Job]


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in nested results, by name."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from numbers(item, f"{name}/{key}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


def results_of(run: Path) -> dict[str, float]:
    """Return the numbers of results.json, by name."""
    return dict(numbers(json.loads((run / "results.json").read_text())["results"]))


def files_in(folder: Path) -> set[str]:
    """Return the files in a folder and its subfolders."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def alone(scratch: Path, experiment: str, *flags: str) -> Path:
    """Run an experiment in one process; return its run folder."""
    folder = scratch / f"alone_{experiment}"
    words = [sys.executable, script(experiment), "--accelerator", "cpu", "--run_dir", str(folder), *flags]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(words, check=True, capture_output=True, env=env)
    return folder


def same_as_alone(scratch: Path, starter: Starter, experiment: str, *flags: str) -> str:
    """Check that two nodes find what one process finds, and that only node 0 writes and prints."""
    expected = alone(scratch, experiment, *flags)
    with two_nodes(scratch) as nodes:
        jobs = [starter(node, experiment, *flags) for node in nodes]
        statuses = [job.wait(START) for job in jobs]
        assert statuses == [0, 0], (statuses, *(job.text for job in jobs))
        assert files_in(nodes[0].work / "run") == files_in(expected)
        assert not files_in(nodes[1].work), files_in(nodes[1].work)
        assert not files_in(nodes[1].folder / "cache")
        printed = [line for line in jobs[1].text.splitlines() if "[c10d]" not in line]  # PyTorch's own
        assert all(line.startswith("waiting up to ") for line in printed), jobs[1].text
        found, reference = results_of(nodes[0].work / "run"), results_of(expected)
    assert found.keys() == reference.keys()
    differences = {
        name: abs(found[name] - value) / max(abs(value), 1e-5)  # errors near 0 have no relative size
        for name, value in reference.items()
        if math.isfinite(value)
    }
    worst = max(differences, key=lambda name: differences[name])
    assert differences[worst] <= 1e-4, (worst, found[worst], reference[worst])
    return f"{len(differences)} numbers, largest relative difference {differences[worst]:.1e}"


def ended_in_one_line(job: Job, experiment: str, seconds: float) -> str:
    """Check that a job ends in time, with a status other than 0 and one line; return the line."""
    status = job.wait(seconds)
    assert status not in (None, 0), (status, job.text)
    lines = [line for line in job.text.splitlines() if line.startswith(f"{experiment}: ")]
    assert len(lines) == 1, job.text
    for part in ("d2l_lightning", "experiments"):  # torchrun prints a traceback of its own
        assert f'File "{ROOT / part}' not in job.text, job.text
    return lines[0]


def wait_for_state(nodes: Sequence[Node], jobs: Sequence[Job]) -> None:
    """Wait until node 0 has saved the state of the run."""
    end = time.monotonic() + START
    while not any((nodes[0].work / "run" / "state").glob("*.ckpt")):
        assert time.monotonic() < end, [job.text for job in jobs]
        assert all(job.process.poll() is None for job in jobs), [job.text for job in jobs]
        time.sleep(0.1)


def loses(
    scratch: Path,
    starter: Starter,
    lose: Callable[[list[Node]], None],
    survivors: Sequence[int],
    seconds: float,
) -> str:
    """Check that the nodes that survive a loss end in time, each with one line."""
    with two_nodes(scratch) as nodes:
        jobs = [starter(node, "linear_regression", *ENDLESS) for node in nodes]
        wait_for_state(nodes, jobs)
        lose(nodes)
        began = time.monotonic()
        lines = []
        for number in survivors:
            left = seconds - (time.monotonic() - began)
            lines.append(ended_in_one_line(jobs[number], "linear_regression", left))
        return f"{time.monotonic() - began:.1f} s; {' | '.join(lines)}"


def stops(scratch: Path, starter: Starter) -> str:
    """Check that SIGTERM on node 1 stops the run on both nodes after its state was saved."""
    with two_nodes(scratch) as nodes:
        jobs = [starter(node, "linear_regression", *ENDLESS) for node in nodes]
        wait_for_state(nodes, jobs)
        jobs[1].process.send_signal(signal.SIGTERM)
        line = ended_in_one_line(jobs[0], "linear_regression", 30)
        assert "stopped by SIGTERM after epoch" in line, line
        assert jobs[1].wait(30) not in (None, 0), jobs[1].text
        assert "linear_regression: " not in jobs[1].text, jobs[1].text
        return f"exit statuses {[job.process.returncode for job in jobs]}; {line}"


def never_comes(scratch: Path, number: int) -> str:
    """Check that a node that waits in vain for the other one ends in time with one line."""
    with two_nodes(scratch) as nodes:
        job = by_python(nodes[number], "linear_regression", "--join_timeout", "3")
        return ended_in_one_line(job, "linear_regression", START)


def kill_0(nodes: list[Node]) -> None:
    """Kill node 0."""
    nodes[0].kill()


def kill_1(nodes: list[Node]) -> None:
    """Kill node 1."""
    nodes[1].kill()


def cut(nodes: list[Node]) -> None:
    """Take the network of node 1 away."""
    ip("-n", nodes[1].name, "link", "set", DEVICE, "down")


CHECKS: dict[str, Callable[[Path], str]] = {
    "linear regression, torchrun": lambda at: same_as_alone(at, by_torchrun, "linear_regression"),
    "house prices": lambda at: same_as_alone(at, by_python, "kaggle_house", "--max_epochs", "20"),
    "node 1 is killed": lambda at: loses(at, by_python, kill_1, [0], 30),
    "node 0 is killed": lambda at: loses(at, by_python, kill_0, [1], 30),
    "node 1 is killed, torchrun": lambda at: loses(at, by_torchrun, kill_1, [0], 30),
    "the network is lost": lambda at: loses(at, by_python, cut, [0, 1], 60),
    "SIGTERM on node 1": lambda at: stops(at, by_python),
    "SIGTERM on node 1, torchrun": lambda at: stops(at, by_torchrun),
    "node 1 never comes": lambda at: never_comes(at, 0),
    "node 0 never comes": lambda at: never_comes(at, 1),
}


def main() -> int:
    """Run the checks; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", default="", help="run the checks whose name contains this text")
    arguments = parser.parse_args()
    failed = 0
    for name, check in CHECKS.items():
        if arguments.only not in name:
            continue
        scratch = Path(tempfile.mkdtemp(prefix="two_nodes_"))
        began = time.monotonic()
        try:
            text = check(scratch)
        except AssertionError as error:
            failed, text = failed + 1, f"FAILED: {error}"
        finally:
            shutil.rmtree(scratch)
        print(f"{name} ({time.monotonic() - began:.0f} s): {text}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
