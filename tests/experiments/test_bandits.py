"""The job on bandits: regret is what theory says it is, or less."""

from pathlib import Path

import pytest
import torch

from d2l_lightning.run import run_experiment
from tests.conftest import load_experiment, run_results

experiment = load_experiment("bandits")


def test_regret_is_as_theory_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--arms",
        "0.2",
        "0.5",
        "0.8",
        "--epsilons",
        "0",
        "0.1",
        "1",
        "--steps",
        "2000",
        "--repeats",
        "50",
    ]
    results = run_results("bandits", tmp_path / "run", *flags)
    regret = results["regret"]
    assert list(regret) == ["epsilon_0", "epsilon_0.1", "epsilon_1", "ucb"]
    # Blind pulls cost the mean gap each.
    assert regret["epsilon_1"] == pytest.approx(2000 * 0.3, rel=0.02)
    # A tenth of them cost a tenth of it at least, and finding the best arm not much more.
    assert 0.1 * 600 - 5 < regret["epsilon_0.1"] < 0.1 * 600 + 60
    assert regret["ucb"] < results["ucb_bound"]
    assert regret["ucb"] < regret["epsilon_1"] / 5
    assert (tmp_path / "run" / "figures" / "regret.png").exists()
    assert "regret after 2000 pulls" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_regret(tmp_path: Path) -> None:
    flags = ["--steps", "100", "--repeats", "5"]
    told = [
        run_results("bandits", tmp_path / str(k), *flags, "--seed", str(seed))
        for k, seed in enumerate((3, 3, 4))
    ]
    assert told[0] == told[1] != told[2]


def test_the_bound_is_the_theorems() -> None:
    # Two arms, a gap of a half: 8 ln(n) / 0.5 + (1 + pi^2 / 3) 0.5.
    assert experiment.ucb_bound(torch.tensor([0.25, 0.75]), 1000) == pytest.approx(110.524 + 2.1449, abs=1e-3)
    assert experiment.ucb_bound(torch.tensor([0.5, 0.5]), 1000) == 0


def test_equal_arms_cost_nothing(tmp_path: Path) -> None:
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
        (["--epsilons", "0.1", "0.1"], "epsilons must each be another"),
        (["--steps", "0"], "steps must be positive"),
        (["--repeats", "-3"], "repeats must be positive"),
    ],
)
def test_bad_input(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run_experiment(experiment.main, [*flags, "--run_dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
