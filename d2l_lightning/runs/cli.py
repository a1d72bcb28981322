"""The command line of experiments: flags, config files, exit statuses."""

import inspect
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from jsonargparse import ActionConfigFile, ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from d2l_lightning.errors import InputError
from d2l_lightning.runs.folder import RESULTS
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.streams import forgiving_streams


class _Parser(ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise InputError(re.sub(r'Parser key "([^"]+)":', r"\1:", message)) from ex


class _ConfigFile(ActionConfigFile):
    """A --config whose errors name the file."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except (InputError, TypeError) as error:
            raise InputError(f"--config {values}: {error}") from error


class Experiment:
    """An experiment with the flags that its ``main`` implies.

    ``main`` takes the ``Run``, then settings, then parts. A setting is an argument with a type and a default;
    it becomes a flag. A part is an argument whose default is a class or function, such as
    ``model=PriceRegressor``. The part's own arguments with defaults become flags, with its own help, unless
    ``main``, ``Run`` or an earlier part has a flag of that name; parts share such a flag. ``main`` gets the
    part with these settings filled in, and calls it with the other arguments.

    Flags take their defaults from ``configs/EXPERIMENT.yaml`` beside the folder of the script, if it exists.

    Args:
        main: The experiment.

    Attributes:
        name: The name of the script.
        parser: The parser.
    """

    def __init__(self, main: Callable[..., None]) -> None:
        self.main = main
        script = Path(inspect.getfile(main))
        self.name, self.folder = script.stem, script.parent
        config = self.folder.parent / "configs" / f"{self.name}.yaml"
        description = (inspect.getdoc(main) or "").split("\n\nArgs:")[0]
        self.parser = _Parser(description=description, default_config_files=[str(config)])
        self.parser.add_argument(
            "--config", action=_ConfigFile, help="A YAML file of flags; those after it override it."
        )
        first, *parameters = inspect.signature(main).parameters.values()
        positional = [p for p in parameters if p.kind is p.POSITIONAL_ONLY]
        parts = [p for p in parameters if callable(p.default) and p.default is not p.empty]
        for parameter in positional:
            self.parser.add_argument(parameter.name, type=parameter.annotation)
        skip: set[str | int] = {p.name for p in (first, *positional, *parts)}
        own = self.parser.add_function_arguments(main, as_group=False, skip=skip)
        self.settings = [*(p.name for p in positional), *own]
        run_flags = {*inspect.signature(Run).parameters, *inspect.signature(Trainer).parameters}
        known = {*self.settings, *run_flags}
        # The settings of each part.
        self.parts: dict[str, list[str]] = {}
        for part in parts:
            names = _settings(part.default)
            self.parts[part.name] = [name for name in names if name not in run_flags]
            required = _required(part.default)
            _add(self.parser, part.default, skip={*required, *(n for n in names if n in known)})
            known.update(names)
        self.parser.add_class_arguments(Run, as_group=False, skip={"experiment", "config", "source"})

    def parse(self, argv: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any], str]:
        """Return the arguments of ``main`` and of ``Run``, and the text of config.yaml.

        Raises:
            InputError: If a flag is unknown or its value has a wrong type.
        """
        flags = self.parser.parse_args(self._join_lists(argv))
        values = {name: value for name, value in vars(flags).items() if not name.startswith("__")}
        del values["config"]
        # What says where, not what, is left out, so that the file can be run as it is.
        for name in ("config", "run_dir", "overwrite"):
            flags.pop(name)
        config = self.parser.dump(flags, skip_unset=False, skip_validation=True)
        defaults = inspect.signature(self.main).parameters
        arguments = {name: values[name] for name in self.settings}
        for part, names in self.parts.items():
            arguments[part] = partial(defaults[part].default, **{name: values[name] for name in names})
        used = {*self.settings, *(name for names in self.parts.values() for name in names)}
        return arguments, {name: value for name, value in values.items() if name not in used}, config

    def run(self, argv: Sequence[str]) -> None:
        """Run the experiment.

        Raises:
            InputError: If something that was passed in is wrong.
            KeyboardInterrupt: If the user stops the run; its text says how far it was.
        """
        arguments, run_arguments, config = self.parse(argv)
        run = Run(self.name, config, source=self.folder, **run_arguments)
        call = inspect.signature(self.main).bind_partial(run)
        call.arguments.update(arguments)
        try:
            with run:
                self.main(*call.args, **call.kwargs)
        except KeyboardInterrupt as stop:
            if not run.started:
                raise KeyboardInterrupt(
                    f"stopped before training; nothing was written to {run.folder}"
                ) from stop
            finished = (run.folder / RESULTS).exists()
            left = "the results, but not all figures" if finished else "config.yaml and metrics, no results"
            raise KeyboardInterrupt(f"{str(stop) or 'stopped'}; {run.folder} holds {left}") from stop

    def _join_lists(self, argv: Sequence[str]) -> list[str]:
        """Turn ``--hidden_sizes 256 128`` into ``--hidden_sizes [256,128]``, which jsonargparse reads."""
        lists = {
            f"--{action.dest}": get_args(hint)
            for action in self.parser._actions
            if get_origin(hint := getattr(action, "_typehint", None)) in (list, Sequence)
        }
        joined: list[str] = []
        items: list[str] | None = None
        for word in [*argv, "--"]:
            if items is not None and word.startswith("--"):
                if len(items) != 1 or not items[0].startswith("["):
                    # Quoted, so that a text of digits or with a comma is one text.
                    texts = lists[joined[-1]] == (str,)
                    items = [f"[{','.join(json.dumps(item) if texts else item for item in items)}]"]
                joined += items
                items = None
            if items is not None:
                items.append(word)
            else:
                joined.append(word)
                items = [] if word in lists else None
        return joined[:-1]


def _add(parser: ArgumentParser, part: Callable[..., Any], skip: set[str | int]) -> list[str]:
    add = parser.add_class_arguments if inspect.isclass(part) else parser.add_function_arguments
    return add(part, as_group=False, skip=skip)


def _required(part: Callable[..., Any]) -> set[str | int]:
    """Return the names of a part's arguments without a default, which ``main`` passes."""
    parameters = inspect.signature(part).parameters.values()
    return {
        p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }


@cache
def _settings(part: Callable[..., Any]) -> list[str]:
    """Return the names of a part's arguments with a default, followed into what it passes them on to."""
    return _add(ArgumentParser(), part, skip=_required(part))


def run_experiment(main: Callable[..., None], argv: Sequence[str] | None = None) -> None:
    """Run an experiment from the command line.

    Exit status: 0 when it is done, 2 with one line when something that was passed in is wrong, 130 when
    stopped.

    Args:
        main: The experiment, see ``Experiment``.
        argv: The flags; those of the command line if not given.
    """
    name = Path(inspect.getfile(main)).stem
    with forgiving_streams():
        try:
            Experiment(main).run(sys.argv[1:] if argv is None else argv)
        except (InputError, OSError, MisconfigurationException) as error:
            print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt as stop:
            print(f"\n{name}: {stop or 'stopped before anything was done'}", file=sys.stderr)
            sys.exit(130)
