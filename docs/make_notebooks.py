"""Write the notebooks in docs/notebooks again, from the pages in docs/tutorials."""

import re
from pathlib import Path

import jupytext
import nbformat

PAGES = Path(__file__).parent / "tutorials"
NOTEBOOKS = Path(__file__).parent / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebook_of(page: str) -> str:
    """Return the text of the notebook that has the cells of a page, without outputs.

    The code between ``python`` fences becomes code cells. What a cell prints stands after it on the page, and
    is left out. Links to other tutorials lead to their notebooks.
    """
    cells = re.sub(r"(?<=```\n)\n```text\n.*?```\n", "", page, flags=re.DOTALL)
    notebook = jupytext.reads(re.sub(r"\]\(([\w-]+)\.md", r"](\1.ipynb", cells), fmt="md")
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id, cell.metadata = f"cell-{number}", nbformat.from_dict({})  # the ids of jupytext are random
    return nbformat.writes(notebook) + "\n"


def main() -> None:
    """Write all notebooks."""
    for page in sorted(PAGES.glob("*.md")):
        path = NOTEBOOKS / f"{page.stem}.ipynb"
        path.write_text(notebook_of(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
