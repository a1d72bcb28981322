"""The locks satisfy pyproject.toml, versions go together, and the package works when it is installed."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.conftest import ROOT

PACKAGE = ROOT / "d2l_lightning"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
DEV = [Requirement(text) for text in PROJECT["dependency-groups"]["dev"]]


def locked(name: str) -> dict[str, list[Version]]:
    """Return the versions that a lock pins, by package; several where they depend on the platform."""
    pins: dict[str, list[Version]] = {}
    for package, version in re.findall(r"^([\w.-]+)==([^ \\;]+)", (ROOT / name).read_text(), re.MULTILINE):
        pins.setdefault(package.lower(), []).append(Version(version))
    return pins


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [("requirements.lock", RUNTIME), ("requirements-dev.lock", [*RUNTIME, *DEV])],
    ids=["runtime", "dev"],
)
def test_the_locks_satisfy_pyproject(lock: str, wanted: list[Requirement]) -> None:
    pins = locked(lock)
    for requirement in wanted:
        assert pins.get(requirement.name.lower()), f"{lock} lacks {requirement.name}"
        for version in pins[requirement.name.lower()]:
            assert requirement.specifier.contains(version), f"{lock}: {requirement.name} {version}"


def test_the_dev_lock_contains_the_runtime_lock() -> None:
    runtime, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    assert {name: dev.get(name) for name in runtime} == runtime


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_the_locks_have_hashes_and_name_no_host(lock: str) -> None:
    text = (ROOT / lock).read_text()
    pins = re.findall(r"^[\w.-]+==.*?(?=^[\w.-]+==|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(pins) > 50
    assert all("--hash=sha256:" in pin for pin in pins)
    assert "://" not in text
    assert "--index-url" not in text
    assert "--find-links" not in text


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_the_locks_are_for_all_platforms(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "sys_platform == 'win32'" in text
    assert "sys_platform == 'linux'" in text


def test_the_installed_torch_and_torchvision_go_together() -> None:
    wanted = [Requirement(text) for text in requires("torchvision") or []]
    (torch_wanted,) = [r for r in wanted if r.name == "torch"]
    assert torch_wanted.specifier.contains(Version(distribution("torch").version).public)
    import torchvision

    assert torchvision.ops.nms is not None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel without network, from a copy, because a build leaves files in the source folder."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(PACKAGE, source / "d2l_lightning", ignore=shutil.ignore_patterns("__pycache__"))
    run_pip("wheel", "--no-build-isolation", "--wheel-dir", str(built), str(source))
    (path,) = built.iterdir()
    return path


def run_pip(command: str, *words: str) -> None:
    options = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    subprocess.run([sys.executable, "-m", "pip", command, *options, *words], check=True)


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    present = {file.relative_to(ROOT).as_posix() for file in PACKAGE.rglob("*") if file.is_file()}
    present = {name for name in present if "__pycache__" not in name}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == present
    assert {"d2l_lightning/py.typed", "d2l_lightning/__init__.pyi"} < packed
    assert "d2l_lightning/data/files/kaggle_house_pred_train.csv.gz" in packed


def test_a_script_runs_with_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    run_pip("install", "--no-compile", "--target", str(tmp_path / "installed"), str(wheel))
    for name in ("experiments", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import runpy, d2l_lightning; runpy.run_path('experiments/kaggle_house.py', run_name='__main__')"
    flags = ("--max_epochs", "1", "--accelerator", "cpu", "--run_dir", "run")
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(d2l_lightning.__file__)", *flags],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.splitlines()[-1]).is_relative_to(tmp_path / "installed")
    assert (tmp_path / "run" / "submission.csv").is_file()
    assert "k: 5" in (tmp_path / "run" / "config.yaml").read_text()
