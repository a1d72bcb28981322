"""README.md and the pages of docs: their commands and code run, and their links lead somewhere."""

import gzip
import re
import shlex
import subprocess
import sys
from importlib import import_module, util
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import yaml
from PIL import Image

import d2l_lightning
from d2l_lightning.data import fashion_mnist
from d2l_lightning.data.hub import DATA_HUB
from d2l_lightning.data.kaggle_house import BUNDLED
from d2l_lightning.runs.cli import run_experiment
from tests.conftest import ROOT, load_experiment
from tests.data.test_fashion_mnist import write
from tests.tools.house_runs import write_house_run

FILES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/tutorials/*.md")]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in FILES}
README, CONTRIBUTING = PAGES["README.md"], PAGES["CONTRIBUTING.md"]
EXPERIMENTS = {path.stem for path in (ROOT / "experiments").glob("*.py")}
QUOTE = r"<!-- from (\S+) -->\n"
# Each command of an experiment once, on whatever page and with whatever words around it.
COMMANDS = list(
    dict.fromkeys(
        command.strip()
        for text in PAGES.values()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for command in re.findall(r"\b(?:python|torchrun .*) (experiments/\w+\.py[^&#\n]*)", block)
    )
)
DOMAIN = ["--max_epochs", "1", "--domain_steps", "20"]
# What makes a command quick, by experiment.
QUICK = {
    "activations": [],
    "backpropagation": ["--max_epochs", "1"],
    "bandits": ["--steps", "50", "--repeats", "3"],
    "benchmark": ["--epochs", "1", "--repeats", "1"],
    "concept_shift": [],
    "correct_shift": ["--steps", "20", "--domain_steps", "20"],
    "covariate_shift": [*DOMAIN, "--num_test", "100", "--trials", "3", "--trial_rows", "20"],
    "covariate_shift_houses": DOMAIN,
    "covariate_shift_images": DOMAIN,
    "data_loading": [
        *("--max_epochs", "1", "--num_rows", "99", "--block_rows", "8", "--window_rows", "64"),
        *("--generated_epochs", "1"),
    ],
    "dropout": ["--max_epochs", "1", "--num_masks", "2", "--num_seeds", "0"],
    "fairness": ["--max_epochs", "1", "--num_train", "50", "--draws", "1", "--data_dir", "my_data/few"],
    "initialization": ["--max_epochs", "1", "--depths", "2"],
    "exponential_noise": ["--max_epochs", "1", "--num_train", "5"],
    "exact_polynomials": ["--max_degree", "5"],
    "generalization": ["--draws", "20", "--ks", "2"],
    "matrix_products": [],
    "nonlinearity": ["--max_epochs", "1"],
    "polynomial_features": ["--max_epochs", "1", "--lrs", "0.01"],
    "backpropagation_cost": ["--widths", "2", "--batch_size", "8", "--parts", "1", "--seconds", "0.001"],
    "symmetry": ["--max_epochs", "1"],
    "house_ablation": ["--splits", "1", "--models", "1", "--k", "2", "--recipe", "my_data/recipe.yaml"],
    "house_comparison": ["--max_epochs", "1", "--k", "2", "--data_dir", "my_data/few"],
    "kaggle_house": ["--max_epochs", "1", "--accelerator", "cpu", "--k", "2"],
    "kaggle_table": ["--max_epochs", "1", "--accelerator", "cpu", "--k", "2"],
    "label_shift": ["--max_epochs", "10", "--batch_size", "8"],
    "layer_rates": ["--max_epochs", "1"],
    "linear_regression": ["--max_epochs", "1"],
    "missing_values": ["--max_epochs", "1", "--draws", "1", "--data_dir", "my_data/few"],
    "mlp": ["--max_epochs", "1"],
    "mlp_settings": ["--max_epochs", "1", "--num_seeds", "1", "--hidden_units", "8"],
    "normal_distribution": [],
    "physical_laws": ["--max_epochs", "1", "--num_train", "10"],
    "poisson_regression": ["--max_epochs", "1", "--draws", "2"],
    "predict": [],
    "polynomial_regression": ["--max_epochs", "1", "--degrees", "3", "--epochs", "2"],
    "rank_deficiency": ["--max_epochs", "1", "--draws", "2"],
    "search_house": [
        *("--max_epochs", "1", "--k", "2", "--accelerator", "cpu", "--hidden_sizes", "[2]"),
        *("--space", "my_data/space.yaml", "--trials", "2", "--workers", "1"),
    ],
    "second_derivatives": ["--dims", "3", "--steps", "1"],
    "sgd": ["--max_epochs", "1"],
    "standardization": ["--max_epochs", "1", "--lrs", "1", "--data_dir", "my_data/few"],
    "softmax_regression": ["--max_epochs", "1"],
    "vectorization": ["--n", "10", "100"],
    "weight_decay": ["--max_epochs", "1"],
}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with the configurations and small files, also for Fashion-MNIST."""
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(ROOT / "configs")
    own = write(tmp_path / "my_data", (400, 100))
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", own)
    monkeypatch.setenv("D2L_LIGHTNING_CACHE", str(own))  # for the processes that the benchmark starts
    few = own / "few"
    few.mkdir()
    for kind in ("train", "test"):
        with gzip.open(BUNDLED / f"kaggle_house_pred_{kind}.csv.gz") as stream:
            content = stream.read()
        (own / f"{kind}.csv").write_bytes(content)
        few.joinpath(f"{kind}.csv").write_bytes(b"\n".join(content.splitlines()[:120]))
    Path("runs/search").mkdir(parents=True)  # of the study that a larger search joins
    (own / "space.yaml").write_text("parameters: {lr: {min: 0.1, max: 0.2}}")
    recipe = {"data_dir": "my_data/few", "hidden_sizes": [2], "max_epochs": 1}
    (own / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for file, header in (("labelled", "Id,size,price"), ("new", "Id,size")):
        rows = [",".join(str(i * column) for column in range(1, header.count(",") + 2)) for i in range(30)]
        Path(f"{file}.csv").write_text("\n".join([header, *rows]))
    return tmp_path


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(command: str, workplace: Path) -> None:
    script, *flags = shlex.split(command)
    name = Path(script).stem
    main = load_experiment(name).main
    if "--help" in flags:
        with pytest.raises(SystemExit) as stop:
            run_experiment(main, flags)
        assert stop.value.code == 0
        return
    if name == "predict":
        write_house_run(Path(flags[flags.index("--run") + 1]), k=2)
    if name == "kaggle_house" and "--data_dir" not in flags:
        flags += ["--data_dir", "my_data/few"]
    disabled = ["--wandb_mode", "disabled"] if "wandb" in flags else []
    if {"--devices", "--num_nodes"} & set(flags):  # tests/runs/test_processes.py starts several processes
        disabled += ["--accelerator", "cpu", "--devices", "1", "--num_nodes", "1"]
    run_experiment(main, [*flags, *QUICK[name], *disabled, "--run_dir", str(workplace / "run")])
    assert (workplace / "run" / "results.json").exists()


def test_every_experiment_has_a_command_and_a_row_in_the_readme_or_among_the_exercises() -> None:
    assert {Path(shlex.split(command)[0]).stem for command in COMMANDS} == EXPERIMENTS
    row = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)
    of_sections, of_exercises = row.findall(README), row.findall(PAGES["docs/exercises.md"])
    assert sorted([*of_sections, *of_exercises]) == sorted(EXPERIMENTS)


def test_names_beside_those_of_the_book_exist() -> None:
    page = PAGES["docs/regression.md"]
    rows = re.findall(r"^\| .* \| (.*) \|$", page, re.MULTILINE)
    found = {name for row in rows for name in re.findall(r"`([A-Za-z_][\w.]*)", row)}
    dotted = {name for name in found if name.startswith("d2l_lightning.")}
    assert len(dotted) > 8
    for name in dotted:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), name
    classes = {name.partition(".")[0] for name in found if name[0].isupper() and len(name) > 1}
    others = {"Trainer", "DataLoader", "LightningDataModule", "LightningModule"}
    assert {"ProgressBoard", "FashionMNIST", "KaggleHouse"} <= classes
    assert classes - others <= set(d2l_lightning.__all__)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    "page",  # tests/test_notebooks.py runs the tutorials
    [name for name, text in PAGES.items() if "```python" in text and "tutorials" not in name],
)
def test_python_code_runs_or_is_quoted_from_the_file_that_is_named(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "PricePredictor.load" in PAGES[page]:
        write_house_run(Path("runs/houses"), k=2)
    if "DATA_HUB" in PAGES[page]:
        monkeypatch.setenv("D2L_LIGHTNING_CACHE", str(tmp_path / "cache"))
    scope: dict[str, object] = {}
    with mock.patch.dict(DATA_HUB):
        for file, block in re.findall(rf"(?:{QUOTE})?```python\n(.*?)```", PAGES[page], re.DOTALL):
            if file:
                assert block in (ROOT / file).read_text()
            else:
                lean = "Trainer(max_epochs=1, logger=False, enable_checkpointing=False"
                exec(re.sub(r"Trainer\(max_epochs=\d+", lean, block), scope)


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if "\nfrom d2l_lightning" in text])
def test_python_code_imports_the_package_first(page: str) -> None:
    # It sets how threads wait before torch is loaded.
    for block in re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL):
        packages = re.findall(r"^(?:from|import) (\w+)", block, re.MULTILINE)
        if "d2l_lightning" in packages:
            assert next(p for p in packages if p not in sys.stdlib_module_names) == "d2l_lightning"


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "code", text, flags=re.DOTALL)


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


LINKS = [
    (page, link)
    for page, text in PAGES.items()
    for link in dict.fromkeys(re.findall(r"\]\(([^)\s]+)\)", without_code(text)))
    if "://" not in link
]


@pytest.mark.parametrize(("page", "link"), LINKS, ids=" -> ".join)
def test_a_link_leads_to_a_file_and_a_heading_of_the_repository(page: str, link: str) -> None:
    file, _, anchor = link.partition("#")
    target = (ROOT / page).parent / file if file else ROOT / page
    assert target.is_file()
    assert target.resolve().is_relative_to(ROOT)
    if anchor:
        assert anchor in anchors(target.read_text())


def test_links_with_anchors_and_all_pages_of_docs_are_among_the_links() -> None:
    assert ("docs/performance.md", "design.md#members-side-by-side") in LINKS
    pages = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")} - {"README.md"}
    tutorials = {page for page in pages if page.startswith("tutorials/")}
    assert linked_from("docs/README.md") >= pages - tutorials
    notebooks = {f"notebooks/{Path(page).stem}.ipynb" for page in tutorials}
    assert linked_from("docs/notebooks.md") >= tutorials | notebooks


def linked_from(page: str) -> set[str]:
    return {link for linking, link in LINKS if linking == page}


def test_anchors_are_those_of_github() -> None:
    text = "# From a clone, to `it`!\n\n```sh\n# no heading\n```\n## K-fold: 4.10\n"
    assert anchors(text) == {"from-a-clone-to-it", "k-fold-410"}


@pytest.mark.parametrize("page", sorted(set(PAGES) - {"CHANGELOG.md"}))
def test_files_that_a_page_names_exist(page: str) -> None:
    folders = r"(?<![\w/.])(?:configs|d2l_lightning|docs|experiments|tests|\.ci)/[\w/.-]*\w"
    for name in re.findall(folders, PAGES[page]):
        assert (ROOT / name).exists() or "NAME" in name, name


def test_the_page_on_performance_lists_all_jobs_of_the_benchmark() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", PAGES["docs/performance.md"], re.MULTILINE)
    assert listed == list(load_experiment("benchmark").JOBS)


def test_the_readme_is_short_and_has_three_pictures() -> None:
    assert len(README.split()) <= 1200
    pictures = re.findall(r"!\[[^\]]{20,}\]\((docs/images/\w+\.png)\)", README)
    assert len(pictures) == README.count("![") == 3


def readme_command(marker: str) -> str:
    (block,) = re.findall(rf"<!-- {marker} -->\n```sh\n(.*?)```", README, re.DOTALL)
    (line,) = block.splitlines()
    return str(line)


@pytest.mark.parametrize(
    ("marker", "lock", "last"),
    [
        ("run", "requirements.lock", "experiments/kaggle_house.py"),
        ("test", "requirements-dev.lock", "-m pytest -n 2 --dist worksteal"),
    ],
)
def test_the_first_two_commands_are_one_line_each(marker: str, lock: str, last: str) -> None:
    steps = readme_command(marker).split(" && ")
    assert steps[0] == "python3 -m venv .venv"
    assert steps[1] == f".venv/bin/pip install --require-hashes -r {lock}"
    assert steps[2].startswith(".venv/bin/pip install --no-deps --no-build-isolation ")
    assert steps[3:] == [f".venv/bin/python {last}"]
    assert (ROOT / lock).is_file()


def test_ci_runs_the_readmes_test_command() -> None:
    (extract,) = re.findall(r"^command=\$\((.*)\)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    done = subprocess.run(["bash", "-c", extract], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == readme_command("test")


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_the_documented_commands_are_those_that_wrote_the_locks(lock: str) -> None:
    command = (ROOT / lock).read_text().splitlines()[1].removeprefix("#").strip()
    assert command.endswith(f" -o {lock}")
    assert command in CONTRIBUTING.splitlines()


def make_images() -> ModuleType:
    spec = util.spec_from_file_location("make_images", ROOT / "docs" / "make_images.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pictures_can_be_made_again(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = make_images()

    def run_quickly(main: Any, flags: list[str]) -> None:
        run_experiment(main, [*flags, *QUICK[main.__module__.split(".")[-1]]])

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(script, "run_experiment", run_quickly)
    monkeypatch.setattr(script, "IMAGES", workplace)
    script.main()
    made = {path.name for path in workplace.glob("*.png")}
    assert made == {path.name for path in (ROOT / "docs" / "images").iterdir()}
    assert all(f"(images/{name})" in "".join(PAGES.values()) for name in made)


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "images").iterdir()), ids=lambda path: path.name)
def test_a_picture_is_small_and_wide_enough(path: Path) -> None:
    assert path.stat().st_size < 120_000
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == make_images().WIDTH
