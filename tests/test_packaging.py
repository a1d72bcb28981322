"""The package installs as it says: locks answer pyproject.toml, files are there, versions go together."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, requires
from importlib.resources import files

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.conftest import ROOT

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
def test_the_locks_answer_pyproject(lock: str, wanted: list[Requirement]) -> None:
    pins = locked(lock)
    for requirement in wanted:
        assert pins.get(requirement.name.lower()), f"{lock} lacks {requirement.name}"
        for version in pins[requirement.name.lower()]:
            assert requirement.specifier.contains(version), f"{lock}: {requirement.name} {version}"


def test_the_dev_lock_holds_the_runtime_lock() -> None:
    runtime, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    assert {name: dev.get(name) for name in runtime} == runtime


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_locks_are_hashed_and_name_no_host(lock: str) -> None:
    text = (ROOT / lock).read_text()
    pins = re.findall(r"^[\w.-]+==.*?(?=^[\w.-]+==|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(pins) > 50
    assert all("--hash=sha256:" in pin for pin in pins)
    assert "://" not in text
    assert "--index-url" not in text
    assert "--find-links" not in text


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_locks_are_for_every_platform(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "sys_platform == 'win32'" in text
    assert "sys_platform == 'linux'" in text


def test_installed_torch_and_torchvision_are_a_pair() -> None:
    wanted = [Requirement(text) for text in requires("torchvision") or []]
    (torch_wanted,) = [r for r in wanted if r.name == "torch"]
    assert torch_wanted.specifier.contains(Version(distribution("torch").version).public)
    import torchvision

    assert torchvision.ops.nms is not None


def test_what_ships_with_the_package() -> None:
    package = files("d2l_lightning")
    assert package.joinpath("py.typed").is_file()
    for name in ("train", "test"):
        assert package.joinpath("data", "files", f"kaggle_house_pred_{name}.csv.gz").is_file()
    data = PROJECT["tool"]["setuptools"]["package-data"]["d2l_lightning"]
    assert data == ["py.typed", "data/files/*"]


def test_rooms_know_only_what_they_may() -> None:
    allowed = {
        "functional": {"errors", "functional"},
        "models": {"functional", "module", "errors", "optim", "models"},
        "data": {"errors", "batches", "data", "functional"},
        "ensemble": {"errors", "batches", "module", "ensemble"},
    }
    for room, may_know in allowed.items():
        sources = list((ROOT / "d2l_lightning" / room).glob("*.py"))
        assert sources
        for source in sources:
            text = source.read_text()
            known = set(re.findall(r"(?:from|import) d2l_lightning\.(\w+)", text))
            assert known <= may_know, source
            if room == "functional":
                assert set(re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)) <= {
                    "torch",
                    "math",
                    "collections",
                    "typing",
                    "d2l_lightning",
                }


def test_importing_the_package_and_the_hub_costs_nothing() -> None:
    heavy = "torch", "lightning", "pandas"
    code = f"import sys, d2l_lightning.data.hub; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
