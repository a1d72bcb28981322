"""Output that cannot be written never costs a result."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from d2l_lightning.runs.streams import ForgivingStream
from tests.conftest import HOUSE_FIGURES, ROOT
from tests.experiments.test_settings import houses


def test_a_stream_drops_what_it_cannot_write(capsys: pytest.CaptureFixture[str]) -> None:
    with Path("/dev/full").open("w") as full:
        stream = ForgivingStream(full, "stdout")
        assert stream.write("x" * 100_000) == 100_000
        stream.flush()
        stream.write("again")
        stream.flush()
    assert capsys.readouterr().err == (
        "warning: stdout cannot be written (No space left on device); the run goes on\n"
    )


def test_a_stream_escapes_what_it_cannot_encode(tmp_path: Path) -> None:
    with (tmp_path / "text").open("w", encoding="cp1252") as file:
        ForgivingStream(file, "stdout").write("Привет, é")
    assert (tmp_path / "text").read_text(encoding="cp1252") == r"\u041f\u0440\u0438\u0432\u0435\u0442, é"


@pytest.mark.slow
def test_no_output_costs_a_run(tmp_path: Path) -> None:
    """Run the house job with each kind of output that fails; one process after the other.

    A process with a stream that fails also has a setting of matplotlib or an encoding that fails.
    """
    matplotlibrc = tmp_path / "matplotlibrc"
    matplotlibrc.write_text("text.usetex: True\n")
    houses(tmp_path / "houses", 0)
    flags = "--accelerator cpu --max_epochs 1 --k 2 --data_dir houses"
    python = f"{sys.executable} {ROOT / 'experiments/kaggle_house.py'} {flags}"
    cases: dict[str, tuple[str, dict[str, str]]] = {
        "closed": ("| head -1", {"MATPLOTLIBRC": str(matplotlibrc)}),
        "full": ("> /dev/full", {"MPLBACKEND": "module://a_module_that_is_not_installed"}),
        "none": (">&- 2>&-", {}),
        "кириллица": ("2> >(true)", {"PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252"}),
    }
    for name, (redirection, variables) in cases.items():
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"{python} --run_dir {name} {redirection}"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, (name, done.stderr)
        assert (tmp_path / name / "results.json").is_file(), name
        assert len((tmp_path / name / "submission.csv").read_text().splitlines()) == 123, name
        pictures = {path.name for path in (tmp_path / name / "figures").iterdir()}
        assert pictures == {f"{figure}.png" for figure in HOUSE_FIGURES}, name
        assert b"Traceback" not in done.stderr, name
