"""The search space of a W&B sweep file: what it means, what is chosen, and what is refused."""

import json
import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution

from d2l_lightning.data.kaggle_house import KaggleHouse
from d2l_lightning.errors import InputError
from d2l_lightning.models.price_regressor import PriceRegressor
from d2l_lightning.runs.cli import flag_parser
from d2l_lightning.search import space as space_module
from d2l_lightning.search.space import SearchSpace, parse_space, read_space
from tests.conftest import ROOT


def sample(space: SearchSpace, seed: int) -> dict[str, Any]:
    """Return the parameters of a random setting."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    return study.ask(dict(space.distributions)).params


def test_the_sweep_of_the_houses_is_a_search_space() -> None:
    file = ROOT / "configs" / "sweeps" / "kaggle_house.yaml"
    space = read_space(file, flag_parser(KaggleHouse, PriceRegressor))
    parameters = yaml.safe_load(file.read_text())["parameters"]
    assert space.names == tuple(parameters)
    assert (space.method, space.metric, space.size) == ("bayes", "val/log_rmse", None)
    assert space.constants == {"log_price": True}
    chosen = [space.settings(sample(space, seed)) for seed in range(100)]
    for name in ("hidden_sizes", "batch_size"):
        assert {json.dumps(each[name]) for each in chosen} == set(map(json.dumps, parameters[name]["values"]))
    rates = [math.log10(each["lr"]) for each in chosen]
    assert math.log10(0.0003) <= min(rates) <= max(rates) <= math.log10(0.03)
    assert np.mean(rates) == pytest.approx(math.log10(0.003), abs=0.2)  # 3.5 standard errors


@pytest.mark.parametrize(
    ("entry", "distribution"),
    [
        ({"min": 1, "max": 4}, IntDistribution(1, 4)),
        ({"min": 1, "max": 4.0}, FloatDistribution(1, 4)),
        ({"distribution": "uniform", "min": 1, "max": 4}, FloatDistribution(1, 4)),
        ({"distribution": "int_uniform", "min": -3, "max": 4}, IntDistribution(-3, 4)),
        ({"distribution": "log_uniform_values", "min": 1, "max": 4}, FloatDistribution(1, 4, log=True)),
        # The multiples of q within the range.
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25}, FloatDistribution(0, 1, step=0.25)),
        (
            {"distribution": "q_uniform", "min": 0.1, "max": 1, "q": 0.3},
            FloatDistribution(0.3, 0.9, step=0.3),
        ),
        ({"distribution": "q_uniform", "min": 3, "max": 20, "q": 8}, IntDistribution(8, 16, step=8)),
        ({"distribution": "q_uniform", "min": 0.5, "max": 3}, IntDistribution(1, 3)),
    ],
)
def test_each_distribution_is_one_of_optunas(entry: dict[str, Any], distribution: Any) -> None:
    assert dict(parse_space({"lr": entry}).distributions) == {"lr": distribution}


NAMES = st.sampled_from(["lr", "width", "dropout", "seed"])
NUMBERS = st.one_of(st.integers(-1000, 1000), st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-6))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5))
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3))
PAIRS = st.tuples(NUMBERS, NUMBERS).map(sorted).filter(lambda pair: pair[0] < pair[1])


def text_of(value: Any) -> str:
    return json.dumps(float(value) if type(value) is int else value)


ENTRIES = st.one_of(
    st.lists(VALUES, min_size=2, max_size=5, unique_by=text_of).map(lambda values: {"values": values}),
    PAIRS.map(lambda pair: {"min": pair[0], "max": pair[1]}),
    PAIRS.filter(lambda pair: pair[0] > 0).map(
        lambda pair: {"distribution": "log_uniform_values", "min": pair[0], "max": pair[1]}
    ),
    st.tuples(PAIRS, st.sampled_from([1, 3, 0.1, 0.25, 1e-3])).filter(
        lambda both: both[0][1] - both[0][0] >= 2 * both[1]
    ).map(lambda both: {"distribution": "q_uniform", "min": both[0][0], "max": both[0][1], "q": both[1]}),
)  # fmt: skip


def fits(value: Any, entry: Mapping[str, Any]) -> bool:
    """Return whether an entry of a sweep file allows a value."""
    if "values" in entry:
        return json.dumps(value) in map(json.dumps, entry["values"])
    inside = entry["min"] <= value <= entry["max"]
    whole = all(isinstance(entry[key], int) for key in ("min", "max")) and "distribution" not in entry
    q = entry.get("q")
    multiple = q is None or (Fraction(str(value)) / Fraction(str(q))).denominator == 1
    return inside and multiple and isinstance(value, int) == (whole or isinstance(q, int))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, ENTRIES, min_size=1, max_size=3), st.integers(0, 2**31))
def test_settings_are_what_the_file_allows(parameters: dict[str, Any], seed: int) -> None:
    text = yaml.safe_dump(parameters, sort_keys=False)
    space = parse_space(yaml.safe_load(text))
    chosen = space.settings(sample(space, seed))
    assert list(chosen) == list(parameters)
    for name, value in chosen.items():
        assert fits(value, parameters[name]), (name, value)
    # The ends of ranges too, and what a storage keeps of a trial.
    for end in ("low", "high"):
        params = sample(space, seed)
        for name, distribution in space.distributions.items():
            value = getattr(distribution, end, params[name])
            stored = optuna.distributions.json_to_distribution(
                optuna.distributions.distribution_to_json(distribution)
            )
            params[name] = stored.to_external_repr(distribution.to_internal_repr(value))
        for name, value in space.settings(params).items():
            assert fits(value, parameters[name]), (name, value)
    assert space.canonical() == parse_space(dict(reversed(parameters.items()))).canonical()


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(NAMES, ENTRIES, min_size=1, max_size=2))
def test_a_finite_space_has_as_many_combinations_as_its_size(parameters: dict[str, Any]) -> None:
    space = parse_space(parameters)
    if space.size is not None and space.size < 500:
        combinations = list(space.combinations(3))
        assert len({json.dumps(space.settings(each)) for each in combinations}) == space.size
        assert len(combinations) == space.size
        assert combinations == list(space.combinations(3))


def test_combinations_of_a_large_space_are_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space_module, "SHUFFLED", 10)
    space = parse_space({"a": {"min": 1, "max": 5}, "b": {"values": [[1], True, "x"]}})
    combinations = [json.dumps(each) for each in space.combinations()]
    assert len(combinations) == len(set(combinations)) == space.size == 15


def test_an_endless_space_has_no_combinations() -> None:
    with pytest.raises(InputError, match="not finite: lr"):
        next(parse_space({"lr": {"min": 0.1, "max": 1.0}, "n": {"values": [1, 2]}}).combinations())


def test_values_that_look_alike_stay_different() -> None:
    values = [True, 1, "1", "true", None, "null", [1], "[1]", [], ""]
    space = parse_space({"x": {"values": values}})
    chosen = [space.settings(params)["x"] for params in space.combinations()]
    assert sorted(map(json.dumps, chosen)) == sorted(map(json.dumps, values))


def test_two_spaces_are_the_same_if_their_parameters_are() -> None:
    space = parse_space({"lr": {"min": 0.1, "max": 1.0}, "k": {"value": 3}})
    assert space.canonical() == parse_space({"k": {"value": 3}, "lr": {"min": 0.1, "max": 1}}).canonical()
    for other in ({"min": 0.1, "max": 2.0}, {"values": [0.1, 1.0]}, {"value": 0.1}):
        assert space.canonical() != parse_space({"lr": other, "k": {"values": [3, 4]}}).canonical()
        assert (
            space.canonical()["lr"] != parse_space({"lr": other, "k": {"values": [3, 4]}}).canonical()["lr"]
        )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (5, "the parameter lr must have one of: value, values"),
        ({}, "the parameter lr has nothing; supported"),
        ({"probabilities": [1]}, "the parameter lr has probabilities; supported are value, values"),
        ({"parameters": {"a": {"value": 1}}}, "the parameter lr has parameters; supported"),
        ({"distribution": "normal", "mu": 0}, "the parameter lr has the distribution normal; supported"),
        ({"distribution": ["uniform"]}, r"has the distribution \['uniform'\]; supported"),
        ({"distribution": "q_log_uniform_values", "min": 1, "max": 2}, "q_log_uniform_values; supported are"),
        ({"values": [1, 2], "probabilities": [0.5, 0.5]}, "has probabilities, which is not supported for"),
        ({"min": 1, "max": 2, "value": 3}, "has max, which is not supported for constant"),
        ({"min": 1}, "has no max, which uniform needs"),
        ({"max": 1}, "the parameter lr has max; supported"),
        ({"distribution": "categorical"}, "has no values, which categorical needs"),
        ({"values": []}, "must have a list of values with at least one"),
        ({"values": 3}, "must have a list of values"),
        ({"values": [1, 1.0]}, "has a value twice: 1, 1.0"),
        ({"values": [[1], [1]]}, r"has a value twice: \[1\], \[1\]"),
        ({"values": [{"a": 1}, 2]}, "has the value {'a': 1}; values are finite numbers, texts"),
        ({"values": [math.nan, 2]}, "has the value nan; values are finite"),
        ({"min": 2, "max": 1}, "must have a min below its max, not 2 and 1"),
        ({"min": 2, "max": 2}, "must have a min below its max"),
        ({"min": 0.1, "max": math.inf}, "must have a finite number as max, not inf"),
        ({"min": True, "max": 3}, "must have a finite number as min, not True"),
        ({"min": "1e-3", "max": 1}, "as min, not '1e-3'; YAML reads 1e-3 as text and 1.0e-3 as a number"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "must have a positive min for log_unif"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 3}, "must have integers as min and max"),
        ({"distribution": "q_uniform", "min": 0, "max": 3, "q": 0}, "must have a positive q, not 0"),
        ({"distribution": "q_uniform", "min": 1.1, "max": 1.9, "q": 1}, "no multiple of its q 1 from 1.1 to"),
    ],
)  # fmt: skip
def test_a_parameter_that_is_not_supported_is_refused(entry: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        parse_space({"n": {"values": [1, 2]}, "lr": entry})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no parameters; write"),
        ("parameters: {}", "has no parameters"),
        ("parameters: [lr]", "has no parameters"),
        ("lr: 0.1", "has no parameters"),
        ("- lr", "must hold lines such as"),
        ("a: [", "is not YAML"),
        ("parameters: {lr: {value: 1}, n: {values: [3]}}", "nothing to search: no parameter has more than"),
        ("parameters: {1: {values: [1, 2]}}", "the name of a parameter must be text, not 1"),
        ("method: hyperopt\nparameters: {n: {values: [1, 2]}}", "method must be bayes, random or grid"),
        ("metric: {goal: maximize}\nparameters: {n: {values: [1, 2]}}", "must have the goal minimize"),
        ("metric: loss\nparameters: {n: {values: [1, 2]}}", "must have the goal minimize"),
        ("parameters: {nn: {values: [1, 2]}}", "nn is no setting that can be searched"),
        ("parameters: {n: {values: [2026-01-01, 2]}}", "has the value 2026-01-01"),
        ("parameters: {n: {values: [2026-99-01, 2]}}", "month must be in 1..12"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_search_space_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "space.yaml").write_text(content)
    with pytest.raises(InputError, match=message) as raised:
        read_space(tmp_path / "space.yaml", PARSE)
    assert str(raised.value).startswith(f"the search space {tmp_path / 'space.yaml'}")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.yaml: cannot be read: No such file"):
        read_space(tmp_path / "none.yaml")


def part(
    lr: float = 0.1,
    n: int = 3,
    sizes: list[int] | None = None,
    kind: Literal["a", "b"] = "a",
    on: bool = False,
    text: str = "",
    file: str | Path | None = None,
) -> None:
    """Have a flag of each type.

    Args:
        lr: A number.
        n: An integer.
        sizes: A list, or null.
        kind: A choice.
        on: A boolean.
        text: A text.
        file: A path, or null.
    """


PARSE = flag_parser(part)


@pytest.mark.parametrize(
    ("name", "entry", "values"),
    [
        ("lr", {"values": [1, 0.5, "1e-3"]}, [1.0, 0.5, 0.001]),
        ("n", {"values": [1, 2]}, [1, 2]),
        ("sizes", {"values": [None, [], [8, 4]]}, [None, [], [8, 4]]),
        ("kind", {"values": ["a", "b"]}, ["a", "b"]),
        ("on", {"values": [False, True]}, [False, True]),
        ("text", {"values": ["x", "1"]}, ["x", "1"]),
        ("file", {"values": [None, "x.csv"]}, [None, str(Path("x.csv").absolute())]),
    ],
)
def test_values_become_those_of_the_flag(name: str, entry: dict[str, Any], values: list[Any]) -> None:
    space = parse_space({name: entry}).checked(PARSE)
    found = [space.settings(each)[name] for each in space.combinations()]
    assert sorted(map(repr, found)) == sorted(map(repr, values))


@pytest.mark.parametrize(
    ("name", "entry"),
    [("lr", {"min": 0.1, "max": 1.0}), ("lr", {"min": 1, "max": 3}), ("n", {"min": 1, "max": 3}),
     ("n", {"distribution": "q_uniform", "min": 8, "max": 64, "q": 8}),
     ("lr", {"distribution": "log_uniform_values", "min": 1, "max": 100})],
)  # fmt: skip
def test_numbers_of_a_range_are_values_of_the_flag(name: str, entry: dict[str, Any]) -> None:
    space = parse_space({name: entry})
    assert space.checked(PARSE) == space


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("lrr", {"value": 1}, "lrr is no setting that can be searched; did you mean lr?"),
        ("batch", {"value": 1}, "known are file, kind, lr, n, on, sizes, text"),
        ("lr", {"values": [0.1, "x"]}, "lr: Expected a <class 'float'>. Got value: x"),
        ("lr", {"values": [0.1, [1]]}, "lr: Expected"),
        ("lr", {"values": [0.1, None]}, "lr: Expected"),
        ("lr", {"value": True}, "lr: Expected"),
        ("n", {"distribution": "uniform", "min": 1, "max": 4}, "n: Expected a <class 'int'>. Got value: 1.0"),
        ("n", {"distribution": "q_uniform", "min": 1, "max": 4, "q": 0.5}, "n: Expected"),
        ("n", {"values": [1, 2.5]}, "n: Expected"),
        ("kind", {"values": ["a", "c"]}, "kind: Expected .*'a', 'b'.*Got value: c"),
        ("kind", {"min": 0.1, "max": 1.0}, "kind: Expected"),
        ("on", {"min": 0, "max": 1}, "on: Expected"),
        ("text", {"min": 0.1, "max": 1.0}, "text"),
        ("file", {"min": 0.1, "max": 1.0}, "file"),
        ("sizes", {"min": 1, "max": 3}, "sizes: Expected"),
        ("sizes", {"values": [[1], ["a"]]}, "sizes: Expected"),
    ],
)
def test_values_that_a_flag_cannot_have_are_refused(name: str, entry: dict[str, Any], message: str) -> None:
    space = parse_space({name: entry, "x": {"values": [1, 2]}})
    with pytest.raises(InputError, match=message) as raised:
        space.checked(lambda name, value: value if name == "x" else PARSE(name, value))
    assert "\n" not in str(raised.value)
