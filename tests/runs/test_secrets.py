"""The password in the URL of a database is in nothing that a run writes or prints."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

from d2l_lightning.data.regression import RegressionData
from d2l_lightning.errors import InputError, without_password
from d2l_lightning.models.linear_regression import LinearRegression
from d2l_lightning.runs.cli import Experiment, run_experiment
from d2l_lightning.runs.report import Table
from d2l_lightning.runs.run import Run

URL = "postgresql+psycopg://me:s3cr/et:x@db:5432/houses?sslmode=require"
PLAIN = "postgresql+psycopg://me@db:5432/houses?sslmode=require"
used: list[str] = []


def experiment(run: Run, storage: str = "", fails: bool = False) -> None:
    """Train, and show the URL wherever an experiment can.

    Args:
        run: The run.
        storage: The URL of a database.
        fails: Whether the run ends with an error.
    """
    used.append(storage)
    X = torch.arange(8.0)[:, None]
    run.fit("model", LinearRegression(1), RegressionData(X, X[:, 0], 6))
    if fails:
        raise InputError(f"cannot reach {storage}: no host")
    run.finish({"where": storage}, tables=[Table(f"at {storage}", ["a"], [[storage]])], notes=[storage])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (URL, PLAIN),
        (f"--storage={URL}", f"--storage={PLAIN}"),
        ("cannot reach a://u:p@h/d: no", "cannot reach a://u@h/d: no"),
        ("a://u:p q@r@h/d", "a://u@h/d"),
        ("a://:p@h", "a://@h"),
        ("in a://u:1@h and b://v:2@i/d?c=3", "in a://u@h and b://v@i/d?c=3"),
        ("a://h/d?user=u&password=p&x=y", "a://h/d?user=u&x=y"),
        ("at a://h/d?password=p&sslpassword=q&x=y.", "at a://h/d?x=y."),
        ("{'url': 'a://u:p@h'}", "{'url': 'a://u@h'}"),
        ("https://host:80/a/b?c=d", "https://host:80/a/b?c=d"),
        ("sqlite:////home/a@b/c:d@e.db", "sqlite:////home/a@b/c:d@e.db"),
        ("12:30, a@b", "12:30, a@b"),
    ],
)
def test_urls_lose_their_password_and_nothing_else(text: str, shown: str) -> None:
    assert without_password(text) == shown
    assert without_password(shown) == shown


def test_long_texts_are_read_once() -> None:
    # An expression that starts anew at each letter would take minutes.
    text = "a" * 1_000_000 + " b://u:p@h " + "c." * 500_000
    assert without_password(text) == text.replace(":p@", "@")


def test_a_password_is_in_no_file_and_in_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--max_epochs=1", "--accelerator=cpu", "--logger=wandb", "--wandb_mode=offline"]
    # The process of a pytest-xdist worker has no command line of its own.
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "experiment.py", raising=False)
    monkeypatch.setattr(sys, "argv", ["experiment.py", *flags, f"--storage={URL}", "--run_dir=a"])
    run_experiment(experiment)
    monkeypatch.setenv("D2L_LIGHTNING_STORAGE", URL)
    with pytest.raises(SystemExit):
        run_experiment(experiment, [*flags, "--run_dir=b", "--fails=true"])
    Path("config.yaml").write_text(yaml.safe_dump({"storage": URL, "max_epochs": 1, "fails": True}))
    monkeypatch.delenv("D2L_LIGHTNING_STORAGE")
    Path("c").mkdir()
    with pytest.raises(SystemExit):
        run_experiment(
            experiment, ["--config=config.yaml", "--logger=csv", "--run_dir=c", "--accelerator=cpu"]
        )
    assert used == [URL] * 3
    Path("config.yaml").unlink()

    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert [path for path, content in written.items() if b"s3cr" in content] == []
    assert PLAIN.encode() in written[tmp_path / "a" / "config.yaml"]
    assert PLAIN.encode() in written[tmp_path / "b" / "manifest.json"]
    assert any(path.suffix == ".wandb" and PLAIN.encode() in written[path] for path in written)
    out, err = capsys.readouterr()
    assert "s3cr" not in out + err
    assert PLAIN in out
    assert f"cannot reach {PLAIN}: no host" in err


def test_a_run_is_resumed_with_or_without_the_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--max_epochs=1", "--accelerator=cpu", f"--run_dir={tmp_path / 'run'}", "--resume=true"]
    with pytest.raises(SystemExit):
        run_experiment(experiment, [*flags, "--storage", URL, "--fails=true"])
    with pytest.raises(SystemExit):
        run_experiment(experiment, [*flags, "--storage", URL.replace("db", "other")])
    assert "storage" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_experiment(experiment, [*flags, "--storage", PLAIN, "--fails=true"])
    assert "cannot reach" in capsys.readouterr().err


def test_the_command_that_resumes_a_run_has_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D2L_LIGHTNING_STORAGE", URL)
    assert (
        Experiment(experiment)
        ._command(["--storage", "a://u:it's@h/d"])
        .endswith(f"'--storage={PLAIN}' --storage a://u@h/d")
    )
