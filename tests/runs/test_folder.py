"""The run folder: which folders a run takes, which files it writes, and which it removes."""

import json
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from d2l_lightning.errors import InputError
from d2l_lightning.runs.folder import RunFolder, whole_file
from d2l_lightning.runs.run import Run


def finish(folder: Path, overwrite: bool = False, *, figure: str = "first", product: str = "first") -> None:
    """Finish a run with a figure and a product."""
    with Run("test", run_dir=str(folder), overwrite=overwrite) as run:
        run.finish(
            {"value": 1.0},
            products={f"{product}.csv": pd.DataFrame({"x": [1]})},
            figures={figure: lambda: Figure()},
        )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_manifest_lists_every_file_of_the_run(tmp_path: Path) -> None:
    finish(tmp_path / "run")
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["experiment"] == "test"
    # metrics.csv is listed before there are metrics, because Lightning writes it.
    assert {*manifest["files"], "manifest.json"} == {*contents(tmp_path / "run"), "metrics.csv"}


def test_a_finished_run_is_kept_without_overwrite(tmp_path: Path) -> None:
    finish(tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match="holds a finished run; choose another folder or --overwrite true"):
        Run("test", run_dir=str(tmp_path / "run"))
    assert contents(tmp_path / "run") == before


def test_overwrite_removes_the_files_of_the_earlier_run_and_no_others(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    finish(folder)
    mine = {"notes.txt": b"mine", "figures/mine.png": b"mine", "checkpoints/mine.ckpt": b"mine"}
    for name, text in mine.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(text)
    finish(folder, overwrite=True, figure="second", product="second")
    after = contents(folder)
    assert {name: after[name] for name in mine} == mine
    written = {"config.yaml", "manifest.json", "results.json", "second.csv", "figures/second.png"}
    assert set(after) == {*mine, *written}


def test_folders_that_become_empty_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    finish(folder)
    with Run("test", run_dir=str(folder), overwrite=True) as run:
        run.finish({})
    assert [path for path in folder.iterdir() if path.is_dir()] == []


def test_results_are_the_first_file_that_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(tmp_path / "run")
    removed: list[str] = []
    monkeypatch.setattr(RunFolder, "_remove", lambda self, name: removed.append(name))
    RunFolder(str(tmp_path / "run"), "test", overwrite=True).clear()
    assert removed[0] == "results.json"
    assert {"first.csv", "figures/first.png"} < set(removed)


def test_a_run_that_fails_after_overwrite_leaves_no_finished_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    finish(folder)

    def fail() -> None:
        with Run("test", run_dir=str(folder), overwrite=True) as run:
            run.start()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert set(contents(folder)) == {"config.yaml", "manifest.json"}
    finish(folder)  # no overwrite is needed


@pytest.mark.parametrize("name", ["../outside.txt", "/{tmp}/outside.txt", "figures/../../outside.txt"])
def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path: Path, name: str) -> None:
    finish(tmp_path / "run")
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    manifest = tmp_path / "run" / "manifest.json"
    listed = json.loads(manifest.read_text())
    listed["files"].append(name.format(tmp=tmp_path))
    manifest.write_text(json.dumps(listed))
    finish(tmp_path / "run", overwrite=True)
    assert outside.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "k: 1"),
        ("results.json", "{}"),
        ("manifest.json", '{"name": "a web page"}'),
        ("manifest.json", "[]"),
        ("manifest.json", "not JSON"),
    ],
)
def test_a_folder_with_other_files_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="holds files of no run; choose another folder"):
        Run("test", run_dir=str(tmp_path), overwrite=True)
    assert contents(tmp_path) == {name: text.encode()}


def test_folders_that_cannot_be_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder, message in (
        (tmp_path / "file", "is a file, not a folder"),
        (tmp_path / "file" / "below", "is a file, not a folder"),
        (Path("/proc/1/run"), "/proc/1/run"),  # not even root can write there
    ):
        with pytest.raises(InputError, match=message):
            Run("test", run_dir=str(folder)).start()
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    finish(tmp_path)
    assert "results.json" in contents(tmp_path)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail() -> None:
        with whole_file(tmp_path / "half.txt") as path:
            path.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with whole_file(tmp_path / "sub/whole.txt") as path:
        path.write_text("whole")
        assert not (tmp_path / "sub/whole.txt").exists()
    assert contents(tmp_path) == {"sub/whole.txt": b"whole"}


def test_runs_of_the_same_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "now")
    first, second = RunFolder(None, "test"), RunFolder(None, "test")
    first.create()
    second.create()
    assert first.path == Path("runs/test/now")
    assert second.path == Path("runs/test/now_2")
    assert RunFolder(None, "test").path == Path("runs/test/now_3")
