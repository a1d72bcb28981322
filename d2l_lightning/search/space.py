"""What a search chooses from: the ``parameters`` block of a W&B sweep file as Optuna distributions."""

import json
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from d2l_lightning.errors import InputError, absolute_path
from d2l_lightning.runs.parser import read_config

# The keys of a parameter with each distribution.
KEYS = {
    "constant": {"value"},
    "categorical": {"values"},
    "uniform": {"min", "max"},
    "log_uniform_values": {"min", "max"},
    "q_uniform": {"min", "max", "q"},
    "int_uniform": {"min", "max"},
}
SUPPORTED = f"value, values, min with max, and the distributions {', '.join(KEYS)}"
# Spaces up to this size are shuffled as a whole; from larger ones, settings are drawn until they differ.
SHUFFLED = 100_000


@dataclass(frozen=True)
class SearchSpace:
    """The settings that a search may choose.

    Attributes:
        distributions: The distribution of each parameter that varies.
        constants: The value of each parameter that does not vary.
        choices: The values of each categorical parameter, by the scalar that stands for it in Optuna.
        names: The names of all parameters, in the order of the file.
        method: How a W&B sweep with the same file chooses: bayes, random or grid.
        metric: The metric that this sweep minimizes.
    """

    distributions: Mapping[str, BaseDistribution]
    constants: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    method: str | None = None
    metric: str | None = None

    @property
    def size(self) -> int | None:
        """The number of different settings; None if a parameter has a continuous range."""
        sizes = [_size(each) for each in self.distributions.values()]
        return None if None in sizes else math.prod(filter(None, sizes))

    def combinations(self, seed: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the parameters of all settings of a finite space in a random order.

        Raises:
            InputError: If the space is not finite.
        """
        size = self.size
        if size is None:
            raise InputError(f"the search space is not finite: {', '.join(self._continuous())}")
        generator = random.Random(seed)
        if size <= SHUFFLED:
            yield from map(self._combination, generator.sample(range(size), size))
            return
        seen: set[int] = set()
        while len(seen) < size:
            number = generator.randrange(size)
            if number not in seen:
                seen.add(number)
                yield self._combination(number)

    def _continuous(self) -> list[str]:
        return [name for name, each in self.distributions.items() if _size(each) is None]

    def _combination(self, number: int) -> dict[str, Any]:
        """Return the parameters of a setting by its number, from 0 to ``size - 1``."""
        params = {}
        for name, distribution in self.distributions.items():
            number, place = divmod(number, _size(distribution) or 1)
            params[name] = _values(distribution, place)
        return params

    def settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the setting that parameters of an Optuna trial stand for, with the constants."""
        values = dict(self.constants)
        for name, distribution in self.distributions.items():
            value = params[name]
            if isinstance(distribution, CategoricalDistribution):
                value = self.choices[name][value]
            elif isinstance(distribution, IntDistribution):
                value = int(value)
            elif isinstance(distribution, FloatDistribution) and distribution.step is not None:
                value = _values(distribution, round((value - distribution.low) / distribution.step))
            values[name] = value
        return {name: values[name] for name in self.names}

    def canonical(self) -> dict[str, str]:
        """Return a text for each parameter; two spaces are the same if their texts are."""
        texts = {name: json.dumps({"value": value}) for name, value in self.constants.items()}
        for name, distribution in self.distributions.items():
            texts[name] = distribution_to_json(distribution)
            if name in self.choices:
                texts[name] = json.dumps({"values": list(self.choices[name].values())})
        return {name: texts[name] for name in sorted(texts)}

    def checked(self, parse: Callable[[str, Any], Any]) -> "SearchSpace":
        """Return the space with values as a function parses them, such as ``runs.cli.flag_parser``.

        Raises:
            InputError: If a choice, or a number in a range, cannot be a value of its parameter.
        """
        constants = {name: parse(name, value) for name, value in self.constants.items()}
        choices = {
            name: {scalar: parse(name, value) for scalar, value in values.items()}
            for name, values in self.choices.items()
        }
        for name, distribution in self.distributions.items():
            if isinstance(distribution, FloatDistribution | IntDistribution):
                inside = _values(distribution, 0) if distribution.step else _inside(distribution)
                for value in (distribution.low, inside, distribution.high):
                    parsed = parse(name, value)
                    if isinstance(parsed, bool) or parsed != value:
                        raise InputError(f"{name} is no number, but the search space has a range for it")
        return replace(self, constants=constants, choices=choices)


def _inside(distribution: FloatDistribution | IntDistribution) -> float:
    """Return a number within a continuous range that is no integer."""
    middle = (distribution.low + distribution.high) / 2
    return middle if middle % 1 else (distribution.low + middle) / 2


def _size(distribution: BaseDistribution) -> int | None:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.step is None:
        return None
    return round((distribution.high - distribution.low) / distribution.step) + 1


def _values(distribution: BaseDistribution, place: int) -> Any:
    """Return a value of a finite distribution by its place."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[place]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    value = Decimal(str(distribution.low)) + place * Decimal(str(distribution.step))
    return int(value) if isinstance(distribution, IntDistribution) else float(value)


def read_space(
    file: str | os.PathLike[str], parse: Callable[[str, Any], Any] = lambda name, value: value
) -> SearchSpace:
    """Return the search space of a W&B sweep file; what is not about the space is ignored.

    Args:
        file: The file.
        parse: Returns the value of a parameter, see ``SearchSpace.checked``.

    Raises:
        InputError: If the file cannot be read, or has no usable parameters.
    """
    try:
        content = yaml.safe_load(read_config(absolute_path(file)))
        space = parse_space(content.get("parameters")).checked(parse)
        method, metric = content.get("method"), content.get("metric") or {}
        if method not in (None, "bayes", "random", "grid"):
            raise InputError(f"method must be bayes, random or grid, not {method}")
        if not isinstance(metric, dict) or metric.get("goal", "minimize") != "minimize":
            raise InputError("metric must have the goal minimize: the validation error is minimized")
    except (InputError, yaml.YAMLError, ValueError) as error:
        raise InputError(f"the search space {os.fspath(file)}: {error}") from error
    return replace(space, method=method, metric=metric.get("name"))


def parse_space(parameters: Any) -> SearchSpace:
    """Return the search space of the ``parameters`` block of a W&B sweep file.

    Raises:
        InputError: If a parameter is not one of the supported kinds, or none has more than one value.
    """
    if not isinstance(parameters, Mapping) or not parameters:
        raise InputError("has no parameters; write a block such as `parameters: {lr: {min: 0.01, max: 0.1}}`")
    distributions: dict[str, BaseDistribution] = {}
    constants: dict[str, Any] = {}
    choices: dict[str, Mapping[Any, Any]] = {}
    for name, entry in parameters.items():
        if not isinstance(name, str):
            raise InputError(f"the name of a parameter must be text, not {name!r}")
        try:
            kind = _kind(entry)
            if kind == "constant":
                constants[name] = _plain(entry["value"])
            elif kind == "categorical":
                choices[name] = _choices(entry["values"])
                distributions[name] = CategoricalDistribution(list(choices[name]))
            else:
                distributions[name] = _range(kind, **{key: entry[key] for key in KEYS[kind] & entry.keys()})
        except InputError as error:
            raise InputError(f"the parameter {name} {error}") from error
    space = SearchSpace(distributions, constants, choices, tuple(parameters))
    if space.size == 1:
        raise InputError("nothing to search: no parameter has more than one value")
    return space


def _kind(entry: Any) -> str:
    """Return the distribution of a parameter.

    Raises:
        InputError: If it is not supported, or keys are missing or too many.
    """
    if not isinstance(entry, Mapping):
        raise InputError(f"must have one of: {SUPPORTED}")
    keys = entry.keys() - {"distribution"}
    numbers = [entry.get("min"), entry.get("max")]
    of_range = "int_uniform" if all(type(number) is int for number in numbers) else "uniform"
    implied = {"value": "constant", "values": "categorical", "min": of_range}
    kind = entry.get("distribution", next((implied[key] for key in implied if key in keys), None))
    if kind not in list(KEYS):
        what = (
            f"has {', '.join(map(str, entry)) or 'nothing'}"
            if kind is None
            else f"has the distribution {kind}"
        )
        raise InputError(f"{what}; supported are {SUPPORTED}")
    wrong = sorted(map(str, keys - KEYS[kind]))
    if wrong:
        raise InputError(f"has {wrong[0]}, which is not supported for {kind}; supported are {SUPPORTED}")
    missing = sorted(KEYS[kind] - keys - {"q"})
    if missing:
        raise InputError(f"has no {missing[0]}, which {kind} needs")
    return str(kind)


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold.

    Raises:
        InputError: If it is another one.
    """
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if not isinstance(value, bool | int | float | str | None) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise InputError(f"has the value {value}; values are finite numbers, texts, booleans, null or lists")
    return value


def _choices(values: Any) -> dict[Any, Any]:
    """Return choices by what stands for them: themselves, or JSON if one is a list or they look alike."""
    if not isinstance(values, list) or not values:
        raise InputError("must have a list of values with at least one")
    texts = [json.dumps(_plain(value)) for value in values]
    # In Python, 1 equals 1.0, and True too, which is another value here.
    different = {
        value if type(value) in (int, float) else text for value, text in zip(values, texts, strict=True)
    }
    if len(different) < len(values):
        raise InputError(f"has a value twice: {', '.join(texts)}")
    scalar = not any(isinstance(value, list) for value in values) and len(set(values)) == len(values)
    return dict(zip(values if scalar else texts, values, strict=True))


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        hint = ""
        if isinstance(value, str):
            hint = "; YAML reads 1e-3 as text and 1.0e-3 as a number"
        raise InputError(f"must have a finite number as {key}, not {value!r}{hint}")
    return value


def _range(kind: str, **numbers: Any) -> FloatDistribution | IntDistribution:
    """Return the distribution of a range.

    Raises:
        InputError: If there is no such range.
    """
    low, high = _number("min", numbers["min"]), _number("max", numbers["max"])
    if not low < high:
        raise InputError(f"must have a min below its max, not {low} and {high}")
    if kind == "int_uniform":
        if not isinstance(low, int) or not isinstance(high, int):
            raise InputError(f"must have integers as min and max for int_uniform, not {low} and {high}")
        return IntDistribution(low, high)
    if kind == "log_uniform_values" and low <= 0:
        raise InputError(f"must have a positive min for log_uniform_values, not {low}")
    if kind != "q_uniform":
        return FloatDistribution(low, high, log=kind == "log_uniform_values")
    q = _number("q", numbers.get("q", 1))
    if q <= 0:
        raise InputError(f"must have a positive q, not {q}")
    # The multiples of q within the range.
    step = Fraction(str(q))
    first, last = math.ceil(Fraction(str(low)) / step), math.floor(Fraction(str(high)) / step)
    if first > last:
        raise InputError(f"has no multiple of its q {q} from {low} to {high}")
    if isinstance(q, int):
        return IntDistribution(first * q, last * q, step=q)
    return FloatDistribution(float(first * step), float(last * step), step=q)
