"""The command line of experiments: flags, config files, exit statuses."""

import errno
import inspect
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, get_args, get_origin

from jsonargparse import ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from d2l_lightning.errors import InputError, without_password
from d2l_lightning.runs.help import COMMON_FLAGS
from d2l_lightning.runs.importing import stop_guarding
from d2l_lightning.runs.limits import machine_limits
from d2l_lightning.runs.parser import ConfigFile, SettingsParser
from d2l_lightning.runs.place import one_voice
from d2l_lightning.runs.report import one_line, print_line
from d2l_lightning.runs.run import Run
from d2l_lightning.runs.streams import forgiving_streams
from d2l_lightning.runs.trackers import VARIABLES

PREFIX = "D2L_LIGHTNING_"
PRECEDENCE = (
    "A flag beats an environment variable, such as D2L_LIGHTNING_LR for --lr; the variable beats a file of "
    "--config, and this file beats the defaults above."
)


class Experiment:
    """An experiment with the flags that its ``main`` implies.

    ``main`` takes the ``Run``, then settings, then parts. A setting is an argument with a type and a default;
    it becomes a flag. A part is an argument whose default is a class or function, such as
    ``model=PriceRegressor``. The part's own arguments with defaults become flags, with its own help, unless
    ``main``, ``Run`` or an earlier part has a flag of that name; parts share such a flag. ``main`` gets the
    part with these settings filled in, and calls it with the other arguments.

    A flag on the command line beats an environment variable, which beats a file of ``--config``, which beats
    ``configs/EXPERIMENT.yaml`` beside the folder of the script, which beats the default in the code. The
    variable of ``--lr`` is ``D2L_LIGHTNING_LR``.

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
        self.parser = SettingsParser(config, prog=script.name, description=description, epilog=PRECEDENCE)
        self.parser.add_argument("--config", action=ConfigFile)
        first, *parameters = inspect.signature(main).parameters.values()
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
        parts = [p for p in parameters if callable(p.default) and p.default is not p.empty]
        skip: set[str | int] = {first.name, *(p.name for p in parts)}
        add = partial(self.parser.add_function_arguments, main, as_group=False)
        if positional:
            others: set[str | int] = {p.name for p in (first, *parameters) if p.name not in positional}
            add(as_positional=True, skip=others)
        self.settings = [*positional, *add(skip={*skip, *positional})]
        run_flags = {*inspect.signature(Run).parameters, *inspect.signature(Trainer).parameters}
        known = {*self.settings, *run_flags}
        # The settings of each part.
        self.parts: dict[str, list[str]] = {}
        for part in parts:
            names = settings_of(part.default)
            self.parts[part.name] = [name for name in names if name not in run_flags]
            required = _required(part.default)
            _add(self.parser, part.default, skip={*required, *(n for n in names if n in known)})
            known.update(names)
        self.parser.add_class_arguments(
            Run, as_group=False, skip={"experiment", "config", "source", "command"}
        )
        own = [*self.settings, *(name for names in self.parts.values() for name in names)]
        every = [*COMMON_FLAGS, *inspect.signature(Run).parameters]
        self.parser.headings = {"flags of this experiment": own, "flags of every run": every}

    def parse(self, argv: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any], str]:
        """Return the arguments of ``main`` and of ``Run``, and the text of config.yaml.

        Raises:
            InputError: If a flag is unknown or its value has a wrong type.
        """
        variables = self._variables()
        try:
            flags = self.parser.parse_args(_in_order(self._join_lists(argv), list(variables.values())))
        except InputError as error:
            variable = next(
                (v for v in variables if str(error).startswith(f"{variables[v][2:].partition('=')[0]}:")),
                None,
            )
            raise InputError(
                f"the environment variable {variable}: {error}" if variable else str(error)
            ) from error
        values = {name: value for name, value in vars(flags).items() if not name.startswith("__")}
        del values["config"]
        # What says where, not what, is left out, so that the file can be run as it is.
        for name in ("config", "run_dir", "overwrite", "resume"):
            flags.pop(name)
        for name, value in vars(flags).items():
            flags[name] = without_password(value) if isinstance(value, str) else value
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
            StoppedError: If a signal stops the run; its text says how far it was and how to resume it.
        """
        with one_voice():
            arguments, run_arguments, config = self.parse(argv)
        command = self._command(argv)
        sys.argv[:] = map(without_password, sys.argv)  # Weights & Biases keeps them
        with machine_limits(arguments):
            run = Run(self.name, config, source=self.folder, command=command, **run_arguments)
            if run.finished and not run.is_first:
                return
            if run.finished:
                print_line(f"{self.name}: the run in {run.folder} is finished; there is nothing to resume")
                return
            call = inspect.signature(self.main).bind_partial(run)
            call.arguments.update(arguments)
            with run:
                self.main(*call.args, **call.kwargs)

    def _command(self, argv: Sequence[str]) -> str:
        """Return the command line of the run, without passwords and the flags that say how it starts."""
        script = sys.argv[0] if argv == sys.argv[1:] else inspect.getfile(self.main)
        variables = [word for name, word in self._variables().items() if name.startswith(PREFIX)]
        words = ["python", script, *variables, *argv]
        for flag in ("--run_dir", "--resume", "--overwrite"):
            words = [
                word
                for place, word in enumerate(words)
                if word != flag and not word.startswith(f"{flag}=") and words[place - 1] != flag
            ]
        return shlex.join(map(without_password, words))

    def _variables(self) -> dict[str, str]:
        """Return what environment variables set, by the variable, as words of a command line."""
        # A variable that Weights & Biases reads beats the config files too.
        words = {v: f"--{name}=null" for name, v in VARIABLES.items() if os.environ.get(v)}
        names = {f"{PREFIX}{action.dest.upper()}": action.dest for action in self.parser._actions}
        return words | {v: f"--{names[v]}={os.environ[v]}" for v in names if os.environ.get(v)}

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


def _in_order(argv: Sequence[str], variables: Sequence[str]) -> list[str]:
    """Return the words of a command line in the order in which they override each other."""
    files: list[str] = []
    flags: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--config":
            files += [word, *islice(words, 1)]
        else:
            (files if word.startswith("--config=") else flags).append(word)
    return [*files, *variables, *flags]


def _add(parser: ArgumentParser, part: Callable[..., Any], skip: set[str | int]) -> list[str]:
    add = parser.add_class_arguments if inspect.isclass(part) else parser.add_function_arguments
    return add(part, as_group=False, skip=skip)


def _required(part: Callable[..., Any]) -> set[str | int]:
    """Return the names of a part's arguments without a default, which ``main`` passes."""
    parameters = inspect.signature(part).parameters.values()
    return {
        p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }


def flag_parser(*parts: Callable[..., Any]) -> Callable[[str, Any], Any]:
    """Return a function that takes the name and value of a flag, and returns the value as the flag has it.

    The flags are the arguments with a default of classes and functions, as those of an experiment's parts.
    The function raises an InputError for a name that is no flag, or a value that the flag cannot have.
    """
    parser = SettingsParser()
    names: list[str] = []
    for part in parts:
        _add(parser, part, skip={*_required(part), *names})
        names += settings_of(part)

    def parse(name: str, value: Any) -> Any:
        if name not in names:
            close = get_close_matches(name, names)
            hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(sorted(names))}"
            raise InputError(f"{name} is no setting that can be searched; {hint}")
        try:
            if value is None:  # of an object, null would mean that the flag is not given
                return parser.parse_args([f"--{name}=null"])[name]
            return parser.parse_object({name: value})[name]
        except InputError as error:
            raise InputError(" ".join(str(error).split())) from error

    return parse


@cache
def settings_of(part: Callable[..., Any]) -> list[str]:
    """Return the names of a part's arguments with a default, followed into what it passes them on to."""
    return _add(ArgumentParser(), part, skip=_required(part))


def changed_settings(part: Any) -> dict[str, Any]:
    """Return the settings of a part, as ``main`` gets it, that differ from their defaults."""
    if not isinstance(part, partial):
        return {}
    parser = ArgumentParser()
    _add(parser, part.func, skip=_required(part.func))
    defaults = vars(parser.get_defaults())
    return {name: value for name, value in part.keywords.items() if value != defaults.get(name)}


def run_experiment(main: Callable[..., None], argv: Sequence[str] | None = None) -> None:
    """Run an experiment from the command line.

    Exit status: 0 when it is done, 2 with one line when something that was passed in is wrong, 128 plus the
    signal's number when a signal stopped it (130 for Ctrl-C, 143 for SIGTERM).

    Args:
        main: The experiment, see ``Experiment``.
        argv: The flags. If not given, those of the command line; none in a notebook, which has no command
            line.
    """
    with exit_statuses(Path(inspect.getfile(main)).stem):
        stop_guarding()
        Experiment(main).run(_command_line() if argv is None else argv)


@contextmanager
def exit_statuses(name: str) -> Iterator[None]:
    """Turn errors of the user and signals in this context into one line and an exit status.

    Args:
        name: The name of the program, which begins the line.
    """
    with forgiving_streams():
        try:
            yield
        except (InputError, OSError, MisconfigurationException) as error:
            text = _advice(error) if isinstance(error, OSError) else str(error)
            print(one_line(f"{name}: {text}"), file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt as stop:
            text = str(stop) or "stopped before anything was done"
            print(f"\n{one_line(f'{name}: {text}')}", file=sys.stderr)
            sys.exit(128 + getattr(stop, "signum", signal.SIGINT))


def _command_line() -> list[str]:
    # In a notebook, the words of the command line are those of the kernel.
    own = hasattr(sys.modules["__main__"], "__file__") or sys.argv[0] in ("", "-", "-c")
    return sys.argv[1:] if own else []


def _advice(error: OSError) -> str:
    """Return what could not be read or written, and what to do."""
    if error.filename is None or error.errno is None:
        return str(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
    place = "free some space, or choose another --run_dir"
    advice = {errno.ENOSPC: place, errno.EDQUOT: place, errno.EROFS: "choose another folder"} | dict.fromkeys(
        (errno.EACCES, errno.EPERM), "change its permissions, or choose another file or folder"
    )
    what = f"cannot {'write' if full else 'read or write'} {error.filename}: {error.strerror}"
    return f"{what}; {advice[error.errno]}" if error.errno in advice else what
