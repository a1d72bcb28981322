"""The tutorials run as notebooks, and their pages show what the cells print."""

import os
import re
import sys
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient

from tests.conftest import ROOT

PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/tutorials/*.md"))}
NOTEBOOKS = ROOT / "docs" / "notebooks"
# A cell of a page, and what it prints.
CELL = re.compile(r"```python\n(.*?)\n```\n(?:\n```text\n(.*?)\n```\n)?", re.DOTALL)


def make_notebooks() -> ModuleType:
    spec = util.spec_from_file_location("make_notebooks", ROOT / "docs" / "make_notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_notebooks_are_what_the_script_makes_of_the_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = make_notebooks()
    monkeypatch.setattr(script, "NOTEBOOKS", tmp_path)
    script.main()
    made = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert {name.removesuffix(".ipynb") for name in made} == set(PAGES)
    assert made == {path.name: path.read_text(encoding="utf-8") for path in NOTEBOOKS.glob("*.ipynb")}


def code_cells(name: str) -> list[Any]:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", PAGES)
def test_a_notebook_has_the_cells_of_its_page_and_no_outputs(name: str) -> None:
    cells = code_cells(name)
    assert [cell.source for cell in cells] == [code for code, _ in CELL.findall(PAGES[name])]
    assert not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AsyncKernelManager]:
    """Return a kernel of this Python and this checkout, which is not yet started."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    for variable in ("IPYTHONDIR", "D2L_LIGHTNING_CACHE", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    with TemporaryDirectory() as sockets:  # the path of a socket must be short
        manager = AsyncKernelManager(transport="ipc", ip=f"{sockets}/kernel")
        manager._kernel_spec = KernelSpec(argv=command, display_name="this Python", language="python")
        yield manager
        run_sync(manager.shutdown_kernel)(now=True)


def printed_and_shown(cell: Any) -> tuple[str, int]:
    """Return what a cell printed, and the number of figures that it showed."""
    streams = [o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout"]
    return "".join(streams).rstrip("\n"), sum("image/png" in o.get("data", {}) for o in cell.outputs)


@pytest.mark.slow
def test_each_cell_prints_what_its_page_says_or_shows_a_figure(
    kernel: AsyncKernelManager, tmp_path: Path
) -> None:
    # One kernel for all, because it takes seconds to import what they need.
    cells = {name: code_cells(name) for name in PAGES}
    run = nbformat.v4.new_notebook()
    for of_page in cells.values():
        run.cells += [nbformat.v4.new_code_cell("%reset -f"), *of_page]
    NotebookClient(run, km=kernel, timeout=600).execute(cwd=str(tmp_path))
    for name, page in PAGES.items():
        for cell, (code, printed) in zip(cells[name], CELL.findall(page), strict=True):
            found, figures = printed_and_shown(cell)
            assert found == printed, f"{name}: {code}"
            assert printed or figures, f"{name} shows nothing: {code}"
