"""The experiment on bandits: the regret agrees with theory."""

from pathlib import Path

import pytest

from d2l_lightning.runs.cli import run_experiment
from d2l_lightning.runs.run import Run
from tests.conftest import load_experiment, run_results

experiment = load_experiment("bandits")


@pytest.mark.figures
def test_the_regret_agrees_with_theory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strategies = ["--arms", "0.2", "0.5", "0.8", "--epsilons", "0", "0.1", "1"]
    flags = [*strategies, "--steps", "2000", "--repeats", "50"]
    results = run_results("bandits", tmp_path / "run", *flags)
    regret = results["regret"]
    assert list(regret) == ["epsilon_0", "epsilon_0.1", "epsilon_1", "ucb"]
    # The expected regret of a random pull is the mean gap.
    assert regret["epsilon_1"] == pytest.approx(2000 * 0.3, rel=0.02)
    # With epsilon 0.1 it is a tenth of that, plus a little until the best arm is found.
    assert 0.1 * 600 - 5 < regret["epsilon_0.1"] < 0.1 * 600 + 60
    assert regret["ucb"] < results["ucb_bound"]
    assert regret["ucb"] < regret["epsilon_1"] / 5
    assert (tmp_path / "run" / "figures" / "regret.png").exists()
    assert "regret after 2000 pulls" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_regret(tmp_path: Path) -> None:
    flags = ["--steps", "100", "--repeats", "5"]
    results = [
        run_results("bandits", tmp_path / str(k), *flags, "--seed", str(seed))
        for k, seed in enumerate((3, 3, 4))
    ]
    assert results[0] == results[1] != results[2]


def test_it_can_be_called_from_python(tmp_path: Path) -> None:
    with Run("bandits", run_dir=str(tmp_path / "run"), logger="none") as run:
        experiment.main(run, steps=10, repeats=2)
    assert (tmp_path / "run" / "results.json").exists()


def test_equal_arms_have_no_regret(tmp_path: Path) -> None:
    results = run_results(
        "bandits", tmp_path / "run", "--arms", "0.4", "0.4", "--steps", "20", "--repeats", "3"
    )
    assert set(results["regret"].values()) == {0}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arms", "0.5"], "arms must be at least two"),
        (["--arms", "0.5", "1.5"], "arms must be from 0 to 1, not 1.5"),
        (["--epsilons", "-0.1"], "epsilons must be from 0 to 1"),
        (["--epsilons", "0.1", "0.1"], "epsilons must differ from each other"),
        (["--steps", "0"], "steps must be positive"),
        (["--repeats", "-3"], "repeats must be positive"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run_experiment(experiment.main, [*flags, "--run_dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
