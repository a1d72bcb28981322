"""Make docs/coverage.md from docs/coverage.yaml: run its commands, and put their figures beside the book's.

Each command has a run folder inside ``--runs``. A run that is finished there is not repeated: delete its
folder to measure it again. All runs together take about half an hour on two cores.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
SOURCE, PAGE = ROOT / "docs" / "coverage.yaml", ROOT / "docs" / "coverage.md"
HEAD = """# Coverage

Every section, printed figure, plot and exercise of the two chapters, and what shows it here. Sections 3.x are
those of the book's PyTorch edition, Sections 4.x those of the 0.16 edition.

`kaggle_house --k 5` stands for `python experiments/kaggle_house.py --k 5`. The last column has numbers from
`results.json` of that command's run folder, after their names there, and the files of its figures.
`python docs/make_coverage.py` runs all commands with seed 0, and writes this page{versions}. "Paper" marks
what a proof or an opinion answers.
"""
COLUMNS = ("in the book", "what it shows", "shown by", "book", "this project")
NONE = "-"
# The most numbers of a list that a cell has.
LONGEST = 8
OF_LISTS: dict[str, Callable[[list[Any]], Any]] = {"min": min, "max": max, "count": len}


def load() -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each section."""
    sections: dict[str, list[dict[str, Any]]] = yaml.safe_load(SOURCE.read_text())["sections"]
    return sections


def commands(sections: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return each command once: an experiment and its flags."""
    return list(
        dict.fromkeys(row["command"] for rows in sections.values() for row in rows if "command" in row)
    )


def value_at(results: Any, path: str) -> Any:
    """Return what lies at a dotted path in nested results; raise a KeyError if nothing does.

    Keys may contain dots. A number is a place in a list; min, max and count are those of a list.
    """
    if not path:
        return results
    if isinstance(results, list) and path in OF_LISTS:
        return OF_LISTS[path](results)
    parts = path.split(".")
    for length in range(1, len(parts) + 1):
        key, rest = ".".join(parts[:length]), ".".join(parts[length:])
        try:
            if isinstance(results, Mapping) and key in results:
                return value_at(results[key], rest)
            if isinstance(results, list) and key.lstrip("-").isdecimal():
                return value_at(results[int(key)], rest)
        except (KeyError, IndexError):
            continue
    raise KeyError(path)


def shown(value: Any) -> str:
    """Return a number, a word, or a short list of them, as a cell has it."""
    if isinstance(value, list):
        if len(value) > LONGEST:
            raise ValueError(f"{len(value)} values are too many for a cell")
        return ", ".join(map(shown, value))
    if value is None:
        return "none"
    if isinstance(value, bool | str):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}"


def measured(row: Mapping[str, Any], results: Any) -> str:
    """Return the cell of this project: the numbers at the row's paths, then the files of its plots."""
    numbers = [f"`{path}` {shown(value_at(results, path))}" for path in row.get("results", [])]
    return "; ".join([*numbers, *(f"`{plot}.png`" for plot in row.get("plots", []))]) or NONE


def render(row: Mapping[str, Any], figures: str) -> str:
    """Return a row of the page."""
    if "paper" in row:
        cells = [row["item"], row["paper"], "paper", row.get("book", NONE), NONE]
    else:
        source = row.get("command") or row["code"]
        cells = [row["item"], row["shows"], f"`{source}`", row.get("book", NONE), figures]
    return "| " + " | ".join(" ".join(str(cell).split()).replace("|", r"\|") for cell in cells) + " |"


def page(
    sections: Mapping[str, Sequence[Mapping[str, Any]]], results: Mapping[str, Any], versions: str
) -> str:
    """Return the page, with the results of each command."""
    lines = [HEAD.format(versions=versions)]
    for title, rows in sections.items():
        lines += [f"## {title}\n", f"| {' | '.join(COLUMNS)} |", f"| {' | '.join(['---'] * len(COLUMNS))} |"]
        lines += [render(row, measured(row, results.get(row.get("command", "")))) for row in rows]
        lines.append("")
    return "\n".join(lines)


def run(command: str, runs: Path) -> dict[str, Any]:
    """Run a command unless it has run; return its results.json."""
    name, *flags = shlex.split(command)
    folder = runs / "_".join([name, *(flag.strip("-").replace("/", "_") for flag in flags)])
    if not (folder / "results.json").exists():
        print(f"run {command}", flush=True)
        script = [sys.executable, str(ROOT / "experiments" / f"{name}.py"), *flags]
        resume = ["--resume", "true"] if folder.exists() else []
        subprocess.run([*script, "--run_dir", str(folder), *resume], cwd=ROOT, check=True)
    record: dict[str, Any] = json.loads((folder / "results.json").read_text())
    record["plots"] = {path.stem for path in folder.glob("figures/*.png")}
    return record


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", type=Path, default=ROOT / "runs" / "coverage", help="the folder of the runs"
    )
    sections = load()
    runs = parser.parse_args().runs
    records = {command: run(command, runs) for command in commands(sections)}
    for row in (row for rows in sections.values() for row in rows):
        if missing := set(row.get("plots", [])) - records.get(row.get("command", ""), {}).get("plots", set()):
            raise FileNotFoundError(f"{row['command']} draws no {', '.join(missing)}")
    versions = {record["environment"]["versions"]["torch"] for record in records.values()}
    results = {command: record["results"] for command, record in records.items()}
    PAGE.write_text(page(sections, results, f" with PyTorch {', '.join(sorted(versions))}"))


if __name__ == "__main__":
    main()
