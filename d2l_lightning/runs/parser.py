"""The parser of flags and config files: settings are plain values, and every error is one line."""

import os
import re
import types
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from difflib import get_close_matches
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from d2l_lightning.errors import InputError, absolute_path
from d2l_lightning.runs.help import help_text

# The limits of a config file, far above what settings need.
MAX_BYTES = 1_000_000
MAX_DEPTH = 50
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# The type of a setting without a type.
ANYTHING = bool | int | float | str | list[bool | int | float | str] | None
# What jsonargparse says of a flag or a key of a config file that it does not know.
_UNKNOWN = re.compile(
    r"(?:ambiguous option: |unrecognized arguments: |Option ')(--)?([\w-]+)(?:[= ].*|' is not accepted|$)"
)
# The settings of this package that have another name in the book.
_IN_THE_BOOK = {
    "learning_rate": "lr",
    "num_epochs": "max_epochs",
    "epochs": "max_epochs",
    "num_gpus": "devices",
}


class SettingsParser(ArgumentParser):
    """A parser of plain settings, with the config file of an experiment between code and flags.

    Args:
        default_config: The file whose values replace the defaults of the code, if it exists.
        texts: Of argparse's parser: ``prog``, the name of the script, ``description``, with which ``--help``
            begins, and ``epilog``, with which it ends.

    Attributes:
        headings: The names of the flags under each heading of ``--help``; the others are Lightning's.
    """

    def __init__(self, default_config: Path | None = None, **texts: Any) -> None:
        self.default_config = default_config
        self.headings: dict[str, list[str]] = {}
        self._open: list[str] = []  # the config files that are being read
        super().__init__(**texts)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise an InputError."""
        raise InputError(self._explained(message)) from ex

    def _explained(self, message: str) -> str:
        """Return a message of jsonargparse with bare names of settings, and names close to a wrong one."""
        message = re.sub(r'Parser key "([^"]+)":', r"\1:", message)
        unknown = _UNKNOWN.match(message)
        if unknown is None:
            return message
        flag, name = unknown.group(1) or "", unknown.group(2)
        names = [action.dest for action in self._actions]
        alias = _IN_THE_BOOK.get(name)
        close = [alias] if alias in names else get_close_matches(name.replace("-", "_"), names)
        close = [flag + each for each in close]
        what = f"{flag}{name} is no {'flag' if flag else 'setting'} of this experiment"
        return f"{what}; did you mean {' or '.join(close)}?" if close else message

    def get_defaults(self, skip_validation: bool = False, **kwargs: Any) -> Namespace:
        """Return the defaults: those of the code, replaced by those of the default config."""
        defaults = super().get_defaults(skip_validation, **kwargs)
        if self.default_config is not None and self.default_config.exists():
            defaults.update(self.parse_path(self.default_config, env=False, defaults=False))
        return defaults

    def format_help(self, *args: Any) -> str:
        """Return the help, with the defaults that hold."""
        return help_text(self, vars(self.get_defaults()), self.headings)

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        """Parse a config file; its relative paths start at the working folder.

        Raises:
            InputError: If the file is not a config file of this experiment; the message names the file.
        """
        name = os.fspath(path)
        kwargs["_skip_validation"] = True  # settings that are required may be elsewhere
        try:
            if name in self._open:
                raise InputError("names itself as another config file")
            self._open.append(name)
            settings = self.parse_string(read_config(absolute_path(path)), name, *args, **kwargs)
            self.validate(settings, skip_required=True)
        except (InputError, TypeError, KeyError) as error:
            reason = str(error.args[0]) if isinstance(error, KeyError) else str(error)
            raise InputError(f"the config file {name}: {self._explained(reason)}") from error
        finally:
            self._open.clear()
        return settings

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add a flag or an argument."""
        action: Any = super().add_argument(*args, **kwargs)
        if hasattr(action, "_typehint"):
            action._check_type_ = partial(_check, action.dest, action._typehint, action._check_type_)
        return action

    def _add_signature_parameter(
        self, container: Any, nested_key: str | None, param: Any, *args: Any, **kwargs: Any
    ) -> None:
        if param.name in kwargs.get("skip", ()):
            return
        # For a setting that is a class, jsonargparse would import whatever a config file names.
        param.annotation = plain(param.annotation, param.name)
        super()._add_signature_parameter(container, nested_key, param, *args, **kwargs)


class ConfigFile(ActionConfigFile):
    """The action of ``--config``."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Set what the file sets."""
        namespace.update(parser.parse_path(values, env=False, defaults=False))


def _check(name: str, hint: Any, check: Any, value: Any, **kwargs: Any) -> Any:
    """Return the value of a setting; agents of Weights & Biases write None for null."""
    optional = type(None) in get_args(hint)
    try:
        if isinstance(value, str):
            with suppress(yaml.YAMLError):  # not every text is YAML
                deque(_events(value), maxlen=0)
        checked = check(None if optional and value == "None" else value, **kwargs)
        return str(absolute_path(value)) if isinstance(checked, Path) else checked
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except UnicodeEncodeError as error:  # bytes of a command line that are not UTF-8
        raise InputError(f"{name}: {value!a} is not text in UTF-8") from error
    except TypeError as error:
        if "Union" not in str(error):
            raise
        kinds = [str(kind) if get_args(kind) else kind.__name__ for kind in get_args(hint)]
        expected = " or ".join(kinds).replace("NoneType", "null").replace("typing.", "")
        raise TypeError(f"{name}: Expected {expected}. Got value: {value}") from error


def plain(hint: Any, name: str) -> Any:
    """Return the part of a type hint that plain values have: numbers, texts, paths and lists of them.

    Raises:
        TypeError: If there is none.
    """
    kept = _plain(hint)
    if kept is None:
        raise TypeError(f"the setting {name} must be a plain value, not {hint}")
    return Literal[None] if kept is type(None) else kept


def _plain(hint: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (Any, object) or getattr(hint, "__name__", "") == "_empty":
        return ANYTHING
    if origin in (Union, types.UnionType):
        kept = [each for each in map(_plain, arguments) if each is not None]
        paths = Path in kept  # text is read as a path then
        return Union[tuple(each for each in kept if not (paths and each is str))] if kept else None  # noqa: UP007
    if isinstance(origin, type) and not issubclass(origin, os.PathLike):
        if not issubclass(origin, Sequence | dict | set) and origin is not Sequence:
            return None
        inner = [each if each is Ellipsis else _plain(each) for each in arguments]
        return None if None in inner else hint
    if origin is Literal:
        return hint
    if hint in (None, type(None)):
        return type(None)
    kind = origin or hint
    if not isinstance(kind, type):
        return None
    if issubclass(kind, os.PathLike):
        return Path
    return hint if issubclass(kind, str | int | float | timedelta | Enum | list | tuple | dict) else None


def read_config(path: Path) -> str:
    """Return the text of a config file.

    Raises:
        InputError: If it is not a YAML mapping in UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise InputError(f"is larger than {MAX_BYTES} bytes")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{content[error.start]:02x} at position {error.start}"
        raise InputError(f"is not text in UTF-8 ({byte}); save it in UTF-8") from error
    empty = True
    try:
        for event in _events(text):
            if isinstance(event, yaml.AliasEvent):  # a few of them make a value of any size
                raise InputError(f"write the value out instead of the alias *{event.anchor}")
            if empty and isinstance(event, yaml.NodeEvent):
                if not isinstance(event, yaml.MappingStartEvent):
                    raise InputError("must hold lines such as `lr: 0.1`")
                empty = False
    except yaml.YAMLError as error:
        raise InputError(f"is not YAML: {error}") from error
    return "{}" if empty else text


def _events(text: str) -> Iterator[yaml.Event]:
    """Yield what YAML holds, piece by piece: the loader itself would recurse, and may crash.

    Raises:
        InputError: If values are nested too deeply.
    """
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise InputError(f"nested deeper than {MAX_DEPTH} levels")
        yield event
