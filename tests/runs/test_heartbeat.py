"""A log shows from time to time that a run is alive."""

import io
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.runs import run as run_module
from d2l_lightning.runs.heartbeat import Heartbeat
from d2l_lightning.runs.run import Run
from tests.runs.test_run import small_data


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [False, True])
def test_a_line_comes_now_and_then_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with Heartbeat(lambda: "alive", seconds=0.01):
        deadline = time.monotonic() + 5
        while stream.getvalue().count("alive\n") < 2 and time.monotonic() < (deadline if not terminal else 0):
            time.sleep(0.01)
    written = stream.getvalue()
    assert (written == "") if terminal else (written.count("alive\n") >= 2)
    time.sleep(0.05)
    assert stream.getvalue() == written  # it ends with the context


def test_the_line_says_how_far_the_run_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []

    class Wait(Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            deadline, before = time.monotonic() + 10, len(lines)
            while len(lines) < before + 2 and time.monotonic() < deadline:
                time.sleep(0.01)

    def beat(describe: Any) -> Heartbeat:
        def note() -> str:
            lines.append(describe())
            return lines[-1]

        return Heartbeat(note, seconds=0.01)

    monkeypatch.setattr(run_module, "Heartbeat", beat)
    with Run("test", run_dir=str(tmp_path), accelerator="cpu", max_epochs=2) as run:
        run.fit("line", LinearRegression(2), small_data(), callbacks=[Wait()])
        run.finish({"value": 1.0})
    assert any(
        re.fullmatch(r"test: \d+ s, line: 1 of 2 epochs  val/\S+ [\d.e+-]+", line) for line in lines
    ), lines
    assert "line: 1 of 2 epochs" in capsys.readouterr().err
