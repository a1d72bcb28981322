"""Every experiment that trains works in every precision, to its last figure, or refuses it at once."""

import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from d2l_lightning.plots import style
from d2l_lightning.runs.cli import run_experiment
from tests.conftest import ROOT, empty_file, load_experiment
from tests.experiments.test_settings import CASES, Runs
from tests.test_configs import experiment_of

pytestmark = pytest.mark.figures
TINY: dict[str, str] = {}
for _name, _flags, _ in CASES:
    TINY.setdefault(_name, _flags)
NO_TRAINING = (
    *("activations", "backpropagation_cost", "bandits", "exact_polynomials", "generalization"),
    *("matrix_products", "normal_distribution", "predict", "second_derivatives", "vectorization"),
)
for _name in NO_TRAINING:
    del TINY[_name]
REFUSED = {("kaggle_house", "16-true"), ("covariate_shift_houses", "16-true")}
# To save time, the experiments of the exercises run in 64-true and bf16-true only.
EXERCISES = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "exercises.md").read_text(), re.MULTILINE))
# With 16-mixed: members side by side, one model, and gradients by formulas.
SCALED = ("kaggle_house_best", "mlp", "backpropagation")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", empty_file)
        patch.setattr(style, "default_style", nullcontext)
        yield Runs(tmp_path_factory.mktemp("precision"))


@pytest.mark.parametrize(
    ("name", "precision"),
    # True half precision has the faults of bf16-true.
    [
        *sorted((name, precision) for name in TINY for precision in ("64-true", "bf16-true")),
        *((name, "bf16-mixed") for name in sorted(TINY) if name not in {*SCALED, *EXERCISES}),
        *((name, "16-mixed") for name in SCALED),
        *sorted(REFUSED),
    ],
)
def test_an_experiment_works_in_a_precision_or_refuses_it(
    name: str, precision: str, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    at = runs.folder / f"{name}_{precision}"
    experiment = experiment_of(Path(name))
    words = f"{TINY[experiment].format(**runs.places)} --precision {precision} --accelerator cpu".split()
    words += ["--config", str(ROOT / "configs" / f"{name}.yaml"), "--run_dir", str(at)]
    main = load_experiment(experiment).main
    if (name, precision) in REFUSED:
        with pytest.raises(SystemExit) as stop:
            run_experiment(main, words)
        assert stop.value.code == 2
        assert f"--precision {precision} cannot be used here: " in capsys.readouterr().err
        assert not at.exists()
    else:
        run_experiment(main, words)
        assert (at / "results.json").exists()
        assert "warning: could not" not in capsys.readouterr().err
