"""Ctrl-C and a deleted working folder while an experiment is still importing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from d2l_lightning.runs import importing
from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.run import Run
from tests.conftest import ROOT

# A torch whose import waits, and turns what stops it into another error.
WAITING = """
import time
try:
    print("importing", flush=True)
    time.sleep(60)
except BaseException:
    raise ImportError("torch is broken")
"""


def start(script: Path, packages: Path) -> subprocess.Popen[str]:
    (packages / "torch").mkdir(exist_ok=True)
    (packages / "torch/__init__.py").write_text(WAITING)
    return subprocess.Popen(
        [sys.executable, str(script)],
        cwd=packages,
        env={**os.environ, "PYTHONPATH": f"{packages}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A process that is started by one in the background ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def interrupt(process: subprocess.Popen[str]) -> tuple[int, str]:
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=30)[1]
    return process.returncode, error


@pytest.mark.parametrize("name", ["kaggle_house", "activations"])
def test_ctrl_c_while_torch_is_imported_is_one_line(name: str, tmp_path: Path) -> None:
    process = start(ROOT / f"experiments/{name}.py", tmp_path)
    assert interrupt(process) == (130, f"{name}: stopped before anything was done\n")


def test_a_program_that_runs_no_experiment_is_left_alone(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "try:\n    from d2l_lightning import MLP\nexcept ImportError as error:\n    print(error)\n"
    )
    process = start(program, tmp_path)
    assert interrupt(process) == (0, "")


def test_a_deleted_working_folder_is_one_line(tmp_path: Path) -> None:
    command = f"mkdir gone; cd gone; rmdir ../gone; exec {sys.executable} {ROOT}/experiments/kaggle_house.py"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    line = "kaggle_house: the working folder was deleted; change to another folder\n"
    assert (done.returncode, done.stderr) == (2, line)


def test_ctrl_c_raises_again_when_the_experiment_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = []

    def experiment(run: Run) -> None:
        handlers.append(signal.getsignal(signal.SIGINT))

    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGINT, importing._end_import)
    try:
        run_experiment(experiment, [])
        assert importing._end_import not in handlers
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        # Outside of imports, the handler itself raises too.
        with pytest.raises(KeyboardInterrupt):
            importing._end_import(signal.SIGINT, None)
    finally:
        signal.signal(signal.SIGINT, before)


def test_sigterm_ends_the_imports_of_the_first_process_of_a_container(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importing, "_runs_an_experiment", lambda: True)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ended: list[tuple[str, int]] = []
    monkeypatch.setattr(importing, "_end", lambda text, status: ended.append((text, status)))
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        importing.guard_imports()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # which ends any other process
        monkeypatch.setattr(importing.os, "getpid", lambda: 1)
        importing.guard_imports()
        signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert ended == [("stopped before anything was done", 143)]


def test_a_number_that_libraries_read_as_they_are_imported_is_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def end(text: str, status: int) -> None:
        raise SystemExit(f"{text} {status}")

    monkeypatch.setattr(importing, "_runs_an_experiment", lambda: True)
    monkeypatch.setattr(importing, "_end", end)
    monkeypatch.setenv("LOCAL_RANK", "x")
    with pytest.raises(SystemExit, match="LOCAL_RANK must be a number from 0 on, not 'x' 2"):
        importing.guard_imports()
