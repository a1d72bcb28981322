"""What ``--help`` prints: flags under headings, each with a sentence and its default."""

import argparse
import re
import shutil
import textwrap
from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

# The flags of Lightning's Trainer, whose own descriptions are for readers of its code.
TRAINER_FLAGS = {
    "how long to train": {
        "max_epochs": "Train for this many epochs; -1 for no limit, together with --max_steps or --max_time.",
        "min_epochs": "Train for at least this many epochs, even if --max_time is over.",
        "max_steps": "Stop after this many steps of the optimizer; -1 for no limit.",
        "min_steps": "Train for at least this many steps, even if --max_time is over.",
        "max_time": "Stop after this time, as DAYS:HOURS:MINUTES:SECONDS, such as 00:01:30:00.",
    },
    "how training takes steps": {
        "accumulate_grad_batches": "Number of batches whose gradients are averaged for one step.",
        "gradient_clip_val": "The largest gradient that a step takes; larger ones are cut to it.",
        "gradient_clip_algorithm": "Whether gradients are cut by their norm (norm), as without this flag, or "
        "number by number (value).",
        "precision": "Bits of each number: 32-true, as without this flag, 64-true, 16-true or bf16-true; or "
        "16-mixed or bf16-mixed, with 16 bits where they are enough.",
        "deterministic": "Whether to use only operations whose results repeat to the bit; with warn, "
        "operations that have no such form cause a warning.",
        "detect_anomaly": "Whether to stop at the operation whose gradient is not a number. This is slow.",
    },
    "devices and machines": {
        "accelerator": "What to compute on: cpu, gpu, mps, tpu, or auto for the best that there is.",
        "devices": "Number of devices of this machine (of processes, on the CPU), or a list of the devices "
        "such as [0,2], or auto for all.",
        "num_nodes": "Number of machines that train together.",
        "strategy": "How devices train together: auto or ddp, which both give each device a share of every "
        "batch.",
        "benchmark": "Whether cuDNN tries its algorithms for convolutions first and takes the fastest.",
    },
    "how much data to use": {
        "limit_train_batches": "Train on so many batches of each epoch, or on a share of them such as 0.5.",
        "limit_val_batches": "Validate on so many batches, or on a share of them.",
        "limit_test_batches": "Test on so many batches, or on a share of them.",
        "limit_predict_batches": "Predict so many batches, or a share of them.",
        "fast_dev_run": "Try the run on a few batches: one of each kind (true), or so many. The results mean "
        "nothing, and no product is written.",
        "reload_dataloaders_every_n_epochs": "Make the loaders of the data again every so many epochs; 0 for "
        "never.",
    },
    "validation, progress and profiles": {
        "check_val_every_n_epoch": "Validate every so many epochs.",
        "val_check_interval": "Validate within an epoch: after a share of its batches such as 0.25, or after "
        "so many batches.",
        "num_sanity_val_steps": "Try validation on so many batches before training; -1 for all, none without "
        "this flag.",
        "inference_mode": "Whether evaluation uses PyTorch's inference mode, which is faster than no_grad.",
        "log_every_n_steps": "Steps between two values that a model logs within an epoch.",
        "enable_progress_bar": "Whether to show progress bars.",
        "enable_model_summary": "Whether to print the layers of a model before it is trained.",
        "profiler": "Measure the time of the parts of training: simple, advanced or pytorch. The reports are "
        "in the folder profiler of the run folder.",
    },
    "flags of the Trainer that are not used here": {
        "enable_checkpointing": "A run saves its models and its state itself.",
        "model_registry": "No checkpoint is uploaded.",
        "overfit_batches": "Take --limit_train_batches.",
        "plugins": "Plugins are objects of Python.",
        "sync_batchnorm": "Models with batch normalization train on one device.",
    },
}
COMMON_FLAGS = {
    "help": "Print this help and exit.",
    "config": "A YAML file that sets flags in lines such as `lr: 0.1`. It may be given several times.",
    "print_config": "Print all flags with their values as such a file, and exit.",
}
OTHERS = "other flags of Lightning's Trainer"
LEGEND = (
    "N is a whole number, NUMBER any number; null stands for no value. Several values have spaces between "
    "them, such as --flag 1 2 3. Numbers in brackets, such as (3.1), are sections of the book."
)
# The column in which the sentences begin, and the longest list of choices that stands beside a flag.
COLUMN, LONGEST = 24, 60


def help_text(
    parser: argparse.ArgumentParser, defaults: Mapping[str, Any], headings: Mapping[str, Collection[str]]
) -> str:
    """Return the help of a parser.

    Args:
        parser: The parser.
        defaults: The default of each flag, by its name.
        headings: The names of the flags under each heading. Flags that are not named are Lightning's.
    """
    width = max(shutil.get_terminal_size().columns, 2 * COLUMN)
    actions = {_name(action): action for action in parser._actions}
    sentences = ChainMap(COMMON_FLAGS, *TRAINER_FLAGS.values())

    def wrapped(text: str, indent: str = "") -> list[str]:
        # A name in backticks is a flag, or a word such as a value.
        text = re.sub("`+([^`]+)`+", lambda m: f"--{m[1]}" if m[1] in actions else m[1], text)
        lines = textwrap.wrap(text, width - len(indent), break_on_hyphens=False, break_long_words=False)
        return [indent + line for line in lines]

    def flag(name: str) -> list[str]:
        action, default = actions[name], _value(defaults.get(name))
        words = f"  {_invocation(action)}"
        end = f" (default: {default})" if default else " (required)" if action.required else ""
        first, *items = re.split(r"\n(?=- )", sentences.get(name) or action.help or "")
        lines = [line for item in (first + end, *items) for line in wrapped(item, " " * COLUMN)]
        if len(words) + 2 > COLUMN or not lines:
            return [words, *lines]
        return [words.ljust(COLUMN) + lines[0].strip(), *lines[1:]]

    needed = [_invocation(a) for a in actions.values() if a.required and defaults.get(a.dest) is None]
    lines = [*wrapped(" ".join(["usage:", parser.prog, *needed, "[flags]"]), " " * 7), ""]
    lines[0] = lines[0].strip()
    for paragraph in filter(None, (parser.description or "").split("\n\n")):
        lines += [*wrapped(paragraph), ""]
    left = dict(actions)
    for heading, names in {**headings, **TRAINER_FLAGS, OTHERS: actions}.items():
        if shown := [name for name in names if left.pop(name, None)]:
            lines += [f"{heading}:", *(line for name in shown for line in flag(name)), ""]
    return "\n".join([*lines, *wrapped(f"{LEGEND} {parser.epilog or ''}"), ""])


def _name(action: argparse.Action) -> str:
    """Return the name of a flag or argument."""
    return next((flag[2:] for flag in action.option_strings if flag.startswith("--")), action.dest)


def _invocation(action: argparse.Action) -> str:
    """Return a flag with the kind of its value, or with its choices if they are few."""
    hint = getattr(action, "_typehint", Path if action.dest == "config" else None)
    words = list(dict.fromkeys(_words(hint)))
    if "NUMBER" in words and "N" in words:
        words.remove("N")
    kind = f"{{{','.join(words)}}}" if len(words) > 1 else "".join(words)
    if len(words) > 1 and ({"TEXT", "VALUE"} & {*words} or len(kind) > LONGEST):
        kind = "VALUE" if action.option_strings else action.dest.upper()
    several = " ..." if get_origin(hint) in (list, Sequence) else ""
    return f"{f'--{_name(action)}' if action.option_strings else ''} {kind}{several}".strip()


def _words(hint: Any) -> Iterator[str]:
    """Yield the values that a setting of a type can have, or words that stand for them."""
    if get_origin(hint) is Literal:
        yield from (str(value) for value in get_args(hint) if value is not None)
    elif get_args(hint):
        yield from (word for each in get_args(hint) for word in _words(each))
    elif hint is bool:
        yield from ("true", "false")
    elif hint not in (None, type(None)):
        yield {int: "N", float: "NUMBER", str: "TEXT", Path: "PATH"}.get(hint, "VALUE")


def _value(value: Any) -> str:
    """Return a default as one writes it on a command line; an empty text if there is none."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return " ".join(map(_value, value)) or "none"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, Path) and value.is_relative_to(Path.cwd()):
        return str(value.relative_to(Path.cwd()))
    return str(value)
