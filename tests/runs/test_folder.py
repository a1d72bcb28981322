"""The run folder: which folders a run takes, which files it writes, and which it removes."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from d2l_lightning.errors import InputError
from d2l_lightning.runs.folder import RunFolder, whole_file
from d2l_lightning.runs.run import Run


def finish(
    folder: Path,
    overwrite: bool = False,
    resume: bool = False,
    *,
    figure: str = "first",
    product: str = "first",
) -> None:
    """Finish a run with a figure and a product."""
    with Run("test", run_dir=str(folder), overwrite=overwrite, resume=resume) as run:
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
    monkeypatch.setattr("d2l_lightning.runs.folder._remove", lambda folder, name: removed.append(name))
    with Run("test", run_dir=str(tmp_path / "run"), overwrite=True) as run:
        run.finish({"value": 2.0})
    assert removed[0] == "results.json"
    assert {"first.csv", "figures/first.png"} < set(removed)


def test_a_run_that_fails_leaves_the_finished_run_that_it_was_to_replace(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    finish(folder)
    before = contents(folder)

    def fail() -> None:
        with Run("test", run_dir=str(folder), overwrite=True) as run, run.file("second.csv") as path:
            path.write_text("half")
            run.start()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert {name: text for name, text in contents(folder).items() if not name.startswith(".new/")} == before
    finish(folder, overwrite=True, product="third")
    assert set(contents(folder)) == {*before, "third.csv"} - {"first.csv"}


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
    message = f"holds {name}, which no run wrote" if name != "manifest.json" else "not that of a run"
    with pytest.raises(InputError, match=f"{message}; choose another folder"):
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


def test_a_file_that_a_library_gave_a_suffix_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / ".partial-other.png").touch()
    message = r"x has no suffix that names its format; take x.png, for example"
    with pytest.raises(InputError, match=message), whole_file(tmp_path / "x") as path:
        Figure().savefig(path)
    with suppress(KeyError), whole_file(tmp_path / "x") as path:
        Figure().savefig(path)
        raise KeyError
    assert [file.name for file in tmp_path.iterdir()] == [".partial-other.png"]


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


class Killed(BaseException):
    """Ends a run at once."""


def killed_run(folder: Path, **flags: Any) -> None:
    """Start a run that writes a product and is killed then."""
    run = Run("test", "k: 1\n", run_dir=str(folder), **flags)
    with run.file("half.csv") as path:
        path.write_text("x\n1\n")
    run.start()
    run._files.close()  # as the end of a process does


def test_a_killed_run_is_refused_with_the_command_that_resumes_it(tmp_path: Path) -> None:
    killed_run(tmp_path / "run", command="python experiments/test.py --k 1")
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match="holds an unfinished run; to go on with it: ") as raised:
        Run("test", run_dir=str(tmp_path / "run"), command="python experiments/test.py --k 2")
    command = f"python experiments/test.py --k 1 --run_dir {tmp_path}/run --resume true; "
    assert command in str(raised.value)
    assert contents(tmp_path / "run") == before
    with pytest.raises(InputError, match="holds a run of test, not of other"):
        Run("other", run_dir=str(tmp_path / "run"), resume=True)
    finish(tmp_path / "run", overwrite=True)
    assert "half.csv" not in contents(tmp_path / "run")


def test_resume_starts_a_run_where_there_is_none(tmp_path: Path) -> None:
    for folder in (tmp_path / "new", tmp_path):
        with Run("test", run_dir=str(folder), resume=True) as run:
            run.finish({"value": 1.0})
        assert "results.json" in contents(folder)
        shutil.rmtree(folder)
    with pytest.raises(InputError, match="--resume needs --run_dir"):
        Run("test", resume=True)


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    finish(tmp_path)
    before = contents(tmp_path)
    run = Run("test", run_dir=str(tmp_path), resume=True)
    assert run.finished
    with pytest.raises(InputError, match="has --seed 0, not 1"):
        Run("test", run_dir=str(tmp_path), resume=True, seed=1)
    with pytest.raises(InputError, match="does not replace a finished run"):
        Run("test", run_dir=str(tmp_path), overwrite=True, fast_dev_run=True)
    with pytest.raises(InputError, match="is finished; there is nothing to resume"), run:
        pass
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", [".DS_Store", "desktop.ini", ".gitkeep", "lost+found"])
def test_files_of_the_system_do_not_matter(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    finish(tmp_path)
    finish(tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == "mine"


def test_what_a_killed_process_leaves_is_recognised_and_removed(tmp_path: Path) -> None:
    # Killed while it wrote the first manifest, and while it wrote other files.
    (tmp_path / ".partial-manifest.json").write_text("{")
    (tmp_path / ".lock").touch()
    finish(tmp_path)
    assert not list(tmp_path.glob(".*"))
    killed_run(tmp_path, overwrite=True)
    for name in (".new/.partial-half.csv", ".new/.partial-manifest.json"):
        (tmp_path / name).write_text("half")
    finish(tmp_path, overwrite=True)
    assert not list(tmp_path.rglob(".*"))
    shutil.rmtree(tmp_path)
    killed_run(tmp_path)
    (tmp_path / ".partial-half.csv").write_text("half")
    with Run("test", "k: 1\n", run_dir=str(tmp_path), resume=True) as run:
        run.start()
        assert not (tmp_path / ".partial-half.csv").exists()
        run.finish({"value": 1.0})


def test_one_process_owns_a_folder(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    early = Run("test", run_dir=folder)  # looks at the folder before the other run creates it
    with Run("test", run_dir=folder) as run:
        run.start()
        for flags in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(InputError, match="is in use by another process"):
                Run("test", run_dir=folder, **flags)
        with pytest.raises(InputError, match="is in use by another process"):
            early.start()
        run.finish({"value": 1.0})
    with pytest.raises(InputError, match="holds a finished run"):
        early.start()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    started, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            Run("test", run_dir=str(tmp_path)).start()
        os.write(end, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(started, 1)
    with pytest.raises(InputError, match="in use"):
        Run("test", run_dir=str(tmp_path), overwrite=True)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    finish(tmp_path, overwrite=True)


def test_an_earlier_result_is_there_until_the_new_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill a run that replaces another at each of its steps on the disk."""
    folder, calls = tmp_path / "run", 0
    originals = {name: getattr(Path, name) for name in ("replace", "unlink", "mkdir", "rmdir")}

    def step(name: str) -> Callable[..., Any]:
        def counted(self: Path, *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at and self.is_relative_to(folder) and self.name != ".lock":
                raise Killed
            return originals[name](self, *args, **kwargs)

        return counted

    finish(tmp_path / "first", figure="first", product="first")
    finish(tmp_path / "second", figure="second", product="second")
    wholes = {name: set(contents(tmp_path / name)) for name in ("first", "second")}
    seen = set()
    for at in range(1, 1000):
        shutil.rmtree(folder, ignore_errors=True)
        finish(folder, figure="first", product="first")
        calls = 0
        for name in originals:
            monkeypatch.setattr(Path, name, step(name))
        killed = False
        try:
            finish(folder, overwrite=True, figure="second", product="second")
        except Killed:
            killed = True
        monkeypatch.undo()
        if not killed and calls < at:
            break
        # What the next process finds.
        try:
            Run("test", run_dir=str(folder)).finish({})
        except InputError as error:
            message = str(error)
        now = {name for name in contents(folder) if not name.startswith(".new/")}
        (kind,) = [name for name, whole in wholes.items() if whole - {f"figures/{name}.png"} <= now]
        seen.add((kind, "unfinished" in message))
        finish(folder, overwrite=True, resume=True, figure="second", product="second")
        assert set(contents(folder)) == wholes["second"]
    assert {kind for kind, _ in seen} == {"first", "second"}
    assert at > 15


def test_a_run_without_fits_that_is_stopped_while_it_draws_is_not_finished(tmp_path: Path) -> None:
    def draw() -> Figure:
        raise Killed

    with pytest.raises(Killed), Run("test", run_dir=tmp_path) as run:
        run.finish({"value": 1.0}, figures={"first": draw})
    assert (tmp_path / "results.json").exists()
    with pytest.raises(InputError, match="holds an unfinished run"):
        Run("test", run_dir=tmp_path)
    finish(tmp_path, resume=True)
    assert (tmp_path / "figures/first.png").exists()


def test_a_finished_run_of_another_experiment_is_not_that_of_this_one(tmp_path: Path) -> None:
    finish(tmp_path)
    with pytest.raises(InputError, match="holds a run of test, not of other"):
        Run("other", run_dir=tmp_path, resume=True)


def test_an_empty_folder_is_empty_again_after_a_start_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise InputError("no tracker")

    monkeypatch.setattr("d2l_lightning.runs.run.open_trackers", fail)
    with pytest.raises(InputError, match="no tracker"), Run("test", run_dir=tmp_path) as run:
        run.start()
    assert not list(tmp_path.iterdir())


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="is a link to a folder that does not exist"):
        Run("test", run_dir=tmp_path / "link")


def test_what_weights_and_biases_left_of_an_abandoned_replacement_is_removed(tmp_path: Path) -> None:
    finish(tmp_path)
    folder = RunFolder(tmp_path, "test", overwrite=True)
    folder.create()
    folder.record("wandb/")  # its files are not in the folder of the new run
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "file").touch()
    folder.close()
    finish(tmp_path, overwrite=True)
    assert not (tmp_path / "wandb").exists()


def test_from_python_too_a_run_is_resumed_with_its_settings(tmp_path: Path) -> None:
    run = Run("test", run_dir=tmp_path, seed=1, max_epochs=3)
    run.start()
    run._files.close()  # as the end of a process does
    for flags, message in (
        ({"seed": 2, "max_epochs": 3}, "has --seed 1, not 2"),
        ({"seed": 1, "max_epochs": 3, "precision": "64-true"}, "has --precision None, not 64-true"),
    ):
        with pytest.raises(InputError, match=message):
            Run("test", run_dir=tmp_path, resume=True, **flags)
    Run("test", run_dir=tmp_path, resume=True, seed=1, max_epochs=4)


def test_what_weights_and_biases_writes_for_the_new_run_stays_when_it_replaces_the_old(
    tmp_path: Path,
) -> None:
    finish(tmp_path)
    folder = RunFolder(tmp_path, "test", overwrite=True)
    folder.create()
    folder.record("wandb/")
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "file").touch()
    folder.replace()
    folder.end()
    folder.close()
    assert set(contents(tmp_path)) == {"manifest.json", "wandb/file"}
