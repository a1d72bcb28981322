"""The README's commands work, in their quick form."""

import gzip
import re
import shlex
from pathlib import Path

import pytest

from d2l_lightning.data.kaggle_house import BUNDLED, KaggleHouse
from d2l_lightning.run import run_experiment
from tests.conftest import ROOT, load_experiment
from tests.data.test_fashion_mnist import write

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
SCRIPTS = [
    shlex.split(command.split("&&")[0].strip())[1:]
    for command in COMMANDS
    if command.startswith("python experiments/")
]


def test_the_first_two_commands_are_a_line_each_and_name_files_that_exist() -> None:
    for marker, last in (("run", "experiments/kaggle_house.py"), ("test", "-m pytest -n 2 --dist worksteal")):
        (block,) = re.findall(rf"<!-- {marker} -->\n```sh\n(.*?)```", README, re.DOTALL)
        (line,) = block.splitlines()
        assert line.endswith(last)
        for lock in re.findall(r"-r (\S+)", line):
            assert (ROOT / lock).is_file()


def test_ci_runs_the_readmes_test_command() -> None:
    assert "<!-- test -->" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("words", SCRIPTS, ids=" ".join)
def test_a_script_runs_as_the_readme_says(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = Path(words[0]).stem
    main = load_experiment(name).main
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(ROOT / "configs")
    Path("my_data").mkdir()
    for kind in ("train", "test"):
        with gzip.open(BUNDLED / f"kaggle_house_pred_{kind}.csv.gz") as stream:
            Path("my_data", f"{kind}.csv").write_bytes(stream.read())
    write(Path("my_data"), (400, 100))
    for file, header in (("labelled", "Id,size,price"), ("new", "Id,size")):
        rows = [",".join(str(i * column) for column in range(1, header.count(",") + 2)) for i in range(30)]
        Path(f"{file}.csv").write_text("\n".join([header, *rows]))
    quick = {
        "kaggle_house": ["--max_epochs", "1", "--accelerator", "cpu"],
        "benchmark": ["--epochs", "1", "--repeats", "1"],
        "vectorization": ["--n", "10", "100"],
        "normal_distribution": [],
        "linear_regression": ["--max_epochs", "1"],
        "polynomial_regression": [*("--max_epochs", "1"), *("--degrees", "3"), *("--epochs", "2")],
        "weight_decay": ["--max_epochs", "1"],
        "activations": [],
        "softmax_regression": ["--max_epochs", "1", "--data_dir", "my_data"],
        "dropout": ["--max_epochs", "1", "--data_dir", "my_data", "--num_masks", "2"],
        "bandits": ["--steps", "50", "--repeats", "3"],
        "concept_shift": [],
        "correct_shift": ["--steps", "20", "--domain_steps", "20"],
        "covariate_shift": [
            *("--max_epochs", "1", "--num_test", "100", "--data_dir", "my_data"),
            *("--trials", "3", "--trial_rows", "20", "--domain_steps", "20"),
        ],
        "covariate_shift_houses": ["--max_epochs", "1", "--domain_steps", "20"],
        "covariate_shift_images": [
            *("--max_epochs", "1"),
            *("--data_dir", "my_data"),
            *("--domain_steps", "20"),
        ],
        "label_shift": [*("--max_epochs", "10"), *("--batch_size", "8"), *("--data_dir", "my_data")],
        "backpropagation": ["--max_epochs", "1", "--data_dir", "my_data"],
        "initialization": [*("--max_epochs", "1"), *("--depths", "2"), *("--data_dir", "my_data")],
        "mlp": ["--max_epochs", "1", "--data_dir", "my_data"],
    }[name]
    if "wandb" in words:
        quick += ["--wandb_mode", "disabled"]
    if "--help" in words:
        with pytest.raises(SystemExit) as stop:
            run_experiment(main, words[1:])
        assert stop.value.code == 0
    else:
        run_experiment(main, [*words[1:], *quick, "--run_dir", "run"])
        assert Path("run/results.json").exists()


def test_the_readmes_python_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 4
    data = KaggleHouse()
    data.setup()
    scope: dict[str, object] = {"X": data.features()[:1460], "y": data.prices}
    for block in blocks:
        lean = re.sub(r"max_epochs=\d+", "max_epochs=1, logger=False, enable_checkpointing=False", block)
        exec(lean, scope)


def test_files_that_the_readme_names_exist() -> None:
    named = re.findall(r"(?:configs|experiments|d2l_lightning|\.ci)/[\w/.]+\w", README)
    assert len(named) > 5
    for name in named:
        assert (ROOT / name).exists(), name
