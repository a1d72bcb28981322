"""``--help`` of every experiment reads like help."""

import inspect
import re
from collections.abc import Sequence
from datetime import timedelta
from inspect import unwrap
from pathlib import Path
from typing import Any, Literal

import pytest

from d2l_lightning.runs import help as help_module
from d2l_lightning.runs.cli import Experiment
from d2l_lightning.runs.run import Run
from tests.conftest import ROOT, load_experiment

NAMES = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))
# Python, reST, and what argparse and jsonargparse write by themselves.
CODE = re.compile(
    r"Args:|`|:\w+:`|type: |Optional|Union|Literal|Sequence|NoneType|timedelta|ITEM|\(\)|\bNone\b|<class"
    r"|default: (null|True|False)|Default: |required.*default|[Cc]ontext|==SUPPRESS==|\btold?\b"
)


def sections(text: str) -> dict[str, dict[str, str]]:
    """Return the text beside each flag of a help, by heading."""
    found: dict[str, dict[str, str]] = {}
    for heading, block in re.findall(r"^(\w[^\n]*):\n((?:  .*\n)+)", text, re.MULTILINE):
        flags = re.split(r"^  (?=\S)", block, flags=re.MULTILINE)[1:]
        words = [" ".join(flag.split()).split(" ", maxsplit=1) for flag in flags]
        found[heading] = {flag.removeprefix("--").lower(): "".join(beside) for flag, *beside in words}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_an_experiment_has_a_sentence_for_each_flag_and_no_code(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    experiment = unwrap(Experiment)(load_experiment(name).main)  # a parser that no run has used
    parser = experiment.parser
    text = parser.format_help()
    assert not CODE.findall(text)
    assert max(map(len, text.splitlines())) <= 80
    usage, description, *_ = text.split("\n\n")
    assert re.fullmatch(rf"usage: {name}\.py( [A-Z]+| --\w+ [A-Z]+)* \[flags\]", usage)
    assert description.endswith(".")
    found = sections(text)
    headings = list(found)
    assert headings == ["flags of this experiment", "flags of every run", *help_module.TRAINER_FLAGS]
    actions = {help_module._name(action): action for action in parser._actions}
    assert sorted(flag for flags in found.values() for flag in flags) == sorted(actions)  # each once
    own = {*experiment.settings, *(flag for flags in experiment.parts.values() for flag in flags)}
    assert found["flags of this experiment"].keys() == own
    for flag, beside in (pair for flags in found.values() for pair in flags.items()):
        sentence = re.sub(r" \((default: [^)]*|required)\)", "", beside)
        assert re.search(r"[A-Z].* .*[.)]$", sentence), f"--{flag} has no sentence"
    for flag in own:  # each choice is named
        choices = {*help_module._words(getattr(actions[flag], "_typehint", None))}
        assert [choice for choice in choices if choice.islower() and choice not in text] == []


def test_values_are_named_in_words_and_defaults_as_one_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def experiment(  # noqa: D417
        run: Run,
        job: Literal["one_that_is_long", "another_that_is_long", "a_third_that_is_long_too"],
        /,
        count: int = 3,
        rate: float = 5.0,
        rates: Sequence[float] = (0.1, -2.0),
        widths: list[int] | None = None,
        none: Sequence[int] = (),
        kinds: Sequence[Literal["a", "b"]] = ("a",),
        kind: Literal["a", "b"] | None = None,
        flag: bool = False,
        auto: int | Literal["auto"] = "auto",
        either: int | float = 1,
        path: Path = Path("data") / "x.csv",
        span: str | timedelta | None = None,
        text: str = "",
        anything: Any = None,
    ) -> None:
        """Do it.

        Args:
            run: The run.
            job: What to do.
                - `one_that_is_long`: with ``rates``.
                - other words of no meaning.
            count: A count.
        """

    monkeypatch.setenv("COLUMNS", "100")
    text = Experiment(experiment).parser.format_help()
    assert text.startswith("usage: test_help.py JOB [flags]\n\nDo it.\n\n")
    shown = sections(text)["flags of this experiment"]
    lines = " | ".join(re.sub(r" +", " ", line) for line in text.splitlines())
    expected = [
        "JOB What to do. (required)",
        "- one_that_is_long: with --rates.",
        "- other words",
        "--count N A count. (default: 3)",
        "--rate NUMBER (default: 5)",
        "--rates NUMBER ... (default: 0.1 -2)",
        "--widths N",
        "--none N ... (default: none)",
        "--kinds {a,b} ... (default: a)",
        "--kind {a,b} |",
        "--flag {true,false} (default: false)",
        "--auto {N,auto} (default: auto)",
        "--either NUMBER (default: 1)",
        "--path PATH (default: data/x.csv)",
        "--span VALUE |",
        "--text TEXT |",
        "--anything VALUE |",
    ]
    assert [line for line in expected if f" {line}" not in lines.replace("| (default", "(default")] == []
    assert len(shown) == 15


def test_a_required_flag_is_in_the_usage_unless_the_config_gives_it(tmp_path: Path) -> None:
    assert "usage: predict.py --run PATH --data PATH [flags]" in helped("predict")
    for folder in ("experiments", "configs"):
        (tmp_path / folder).mkdir()
    script = tmp_path / "experiments/own.py"
    script.write_text("def main(run, rows: int) -> None:\n    pass\n")
    own: dict[str, Any] = {"__name__": "own"}
    exec(compile(script.read_text(), script, "exec"), own)
    assert "usage: own.py --rows N [flags]" in Experiment(own["main"]).parser.format_help()
    assert "--rows N              (required)" in Experiment(own["main"]).parser.format_help()
    (tmp_path / "configs/own.yaml").write_text("rows: 1000\n")
    text = inspect.unwrap(Experiment)(own["main"]).parser.format_help()
    assert "usage: own.py [flags]" in text
    assert "required" not in text
    assert "--rows N              (default: 1000)" in text


def helped(name: str) -> str:
    return Experiment(load_experiment(name).main).parser.format_help()


def test_a_flag_of_another_version_of_lightning_has_lightnings_words(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = {**help_module.TRAINER_FLAGS["how long to train"]}
    fewer.pop("max_time")
    monkeypatch.setitem(help_module.TRAINER_FLAGS, "how long to train", fewer)
    text = helped("activations")
    assert sections(text)[help_module.OTHERS].keys() == {"max_time"}
    assert "Stop training after this amount of time" in " ".join(text.split())
