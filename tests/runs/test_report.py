"""What a run reports: the table, the environment, the git commit."""

import subprocess
from pathlib import Path

import pytest
import torch

from d2l_lightning.callbacks.progress import EpochProgressBar
from d2l_lightning.runs.report import (
    Table,
    environment,
    git_commit,
    one_line,
    print_line,
    print_table,
    print_warning,
    track,
)


def test_a_table_lines_up_and_shows_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(Table("lengths [cm]", ("", "value [red]"), [("a", 1.0), ("long name", "x")], "A [note]."))
    title, *lines, note = capsys.readouterr().out.splitlines()
    assert title.strip() == "lengths [cm]"
    assert note == "A [note]."
    assert len({len(line) for line in lines}) == 1
    assert "1.000000" in lines[3]
    assert "value [red]" in lines[1]


def test_numbers_have_six_decimals_unless_they_are_large_or_small(capsys: pytest.CaptureFixture[str]) -> None:
    values = [0.0, -1.25, 123456.5, 1.5e12, -2.5e-7, float("nan")]
    print_table(Table("title", ("value",), [(value,) for value in values]))
    shown = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()[4:-1]]
    assert shown == ["0.000000", "-1.250000", "123456.500000", "1.5e+12", "-2.5e-07", "nan"]


def test_a_narrow_table_prints_every_letter(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_table(Table("title", ("name", "digits"), [("a" * 30, "1" * 30)]))
    printed = capsys.readouterr().out
    assert (printed.count("a"), printed.count("1")) == (31, 30)  # one letter of the head


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("log RMSE, 331 features (book: 331)", "log_rmse"),
        ("weight decay", "weight_decay"),
        ("Detector on Fashion-MNIST (rotation 15)", "detector_on_fashion"),
    ],
)
def test_a_tables_name_leaves_out_settings(title: str, name: str) -> None:
    assert Table(title, (), []).name == name


def test_the_environment_names_device_seed_threads_and_versions(tmp_path: Path) -> None:
    found = environment(3, torch.device("cpu"), 2, 5, tmp_path)
    assert (found["device"], found["seed"]) == ("cpu", 3)
    assert (found["processes"], found["threads"]) == (2, 5)
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]


def test_the_commit_is_that_of_the_code_with_a_mark_for_changes(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert git_commit(tmp_path) is None
    git("init", "-q")
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "below").mkdir()
    assert git_commit(tmp_path) == git_commit(tmp_path / "below") == commit
    (tmp_path / "code.py").write_text("2")
    assert git_commit(tmp_path) == f"{commit}-dirty"


def test_everything_that_is_printed_shows_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    bad, shown = "a\x1b[31m\x07\x9b", r"a\x1b[31m\x07\x9b"
    print_table(Table(bad, (bad, bad), [(bad, 1.0)], bad))
    print_line(bad)
    print_warning(bad)
    for _ in track([1], bad):
        pass
    said = capsys.readouterr()
    assert said.out.count(shown) == 6
    assert said.err.count(shown) >= 2
    assert "\x07" not in said.out + said.err
    assert "\x9b" not in said.out + said.err


def test_the_title_and_the_metrics_of_the_progress_bar_show_control_characters() -> None:
    assert EpochProgressBar("a\x1b[31m").title == r"a\x1b[31m"


def test_a_line_is_one_line_and_not_too_long() -> None:
    assert one_line("a\n  b\tc é") == "a b c é"
    assert len(one_line("x" * 1_000_000)) < 1010
