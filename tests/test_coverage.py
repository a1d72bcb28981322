"""docs/coverage.md has a row for every section and exercise of both chapters, and says what shows it."""

import re
from importlib import util
from pydoc import locate
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.test_docs import COMMANDS

# The numbers of subsections before the summary, and of exercises, of each section of the book.
SUBSECTIONS = {
    **{"3.1": 4, "3.2": 4, "3.3": 3, "3.4": 4, "3.5": 4, "3.6": 3, "3.7": 4},
    **{"4.1": 2, "4.2": 5, "4.3": 1, "4.4": 4, "4.5": 4, "4.6": 5, "4.7": 4, "4.8": 2, "4.9": 5, "4.10": 8},
}
EXERCISES = {
    **{"3.1": 8, "3.2": 2, "3.3": 4, "3.4": 9, "3.5": 5, "3.6": 7, "3.7": 6},
    **{"4.1": 4, "4.2": 6, "4.3": 3, "4.4": 4, "4.5": 6, "4.6": 7, "4.7": 5, "4.8": 4, "4.9": 4, "4.10": 6},
}
PAGE = (ROOT / "docs" / "coverage.md").read_text()
CELLS = r"(?<!\\)\|"


def make_coverage() -> ModuleType:
    spec = util.spec_from_file_location("make_coverage", ROOT / "docs" / "make_coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = make_coverage()
SECTIONS: dict[str, list[dict[str, Any]]] = SCRIPT.load()
ROWS = [row for rows in SECTIONS.values() for row in rows]
BY_NUMBER = {title.split()[0]: [row["item"] for row in rows] for title, rows in SECTIONS.items()}


def test_every_section_has_a_row_for_each_subsection_and_exercise() -> None:
    assert list(BY_NUMBER) == list(EXERCISES) == list(SUBSECTIONS)
    for section, items in BY_NUMBER.items():
        numbers = {match[1] for item in items if (match := re.match(rf"{re.escape(section)}\.(\d+)", item))}
        assert numbers >= {str(number + 1) for number in range(SUBSECTIONS[section])}, section
        exercises = [int(match[1]) for item in items if (match := re.match(r"exercise (\d+)", item))]
        assert exercises == sorted(exercises)
        assert set(exercises) == set(range(1, EXERCISES[section] + 1)), section


def test_every_row_says_what_shows_it() -> None:
    for row in ROWS:
        keys = {"item", "shows", "command", "code", "paper", "book", "results", "plots"}
        assert {"item"} <= set(row) <= keys, row
        assert len({"command", "code", "paper"} & set(row)) == 1, row
        assert row.get("paper") or row["shows"], row
        assert not {"results", "plots"} & set(row) or "command" in row, row
        assert "book" not in row or "results" in row or "paper" in row or "code" in row, row


def test_every_command_is_one_that_the_other_pages_have_and_tests_run() -> None:
    known = {
        " ".join(command.split()).removeprefix("experiments/").replace(".py", "", 1) for command in COMMANDS
    }
    missing = [command for command in SCRIPT.commands(SECTIONS) if command not in known]
    assert not missing


def test_every_function_and_page_exists() -> None:
    for row in ROWS:
        if "code" not in row:
            continue
        if "/" in row["code"]:
            assert (ROOT / row["code"]).is_file(), row
        else:
            assert locate(row["code"]) is not None, row


def test_the_page_has_the_rows_of_its_source() -> None:
    lines = [
        line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| in the book")
    ]
    lines = [line for line in lines if not line.startswith("| ---")]
    assert re.findall("^## (.*)$", PAGE, re.MULTILINE) == list(SECTIONS)
    assert len(lines) == len(ROWS)
    for line, row in zip(lines, ROWS, strict=True):
        cells = [cell.strip() for cell in re.split(CELLS, line)[1:-1]]
        assert all(cells), line
        expected = re.split(CELLS, SCRIPT.render(row, "figures"))[1:-1]
        assert cells[:4] == [cell.strip() for cell in expected[:4]]
        assert (cells[4] != SCRIPT.NONE) == bool({"results", "plots"} & set(row)), line


def test_figures_are_found_and_written_short() -> None:
    results = {"fits": {"0.5": [1, 2.34567], "3": {"norm": 0.0099487}}, "ok": True, "rows": 1460}
    assert (
        SCRIPT.measured({"results": ["fits.0.5", "fits.3.norm"]}, results)
        == "`fits.0.5` 1, 2.346; `fits.3.norm` 0.009949"
    )
    assert (
        SCRIPT.measured({"results": ["fits.0.5.-1", "ok", "rows"]}, results)
        == "`fits.0.5.-1` 2.346; `ok` true; `rows` 1,460"
    )
    assert SCRIPT.measured({"results": ["rows"], "plots": ["loss"]}, results) == "`rows` 1,460; `loss.png`"
    assert SCRIPT.measured({}, results) == SCRIPT.NONE
    assert SCRIPT.measured({"results": ["fits.0.5.max", "fits.0.5.count"]}, results).endswith("count` 2")
    with pytest.raises(KeyError):
        SCRIPT.measured({"results": ["fits.4"]}, results)
    with pytest.raises(ValueError, match="too many"):
        SCRIPT.shown([1.0] * 9)
