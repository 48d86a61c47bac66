"""The command line: a flag for each setting of `training.config`, parsed into a `Config`.

The only module that imports absl. Importing it imports no TensorFlow, so that a wrong flag is an
error within a second.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from training import config_checks, flag_files
from training.config import GROUPS, SETTINGS, Config
from training.foreign_flags import advice
from training.runtime.errors import UserError
from training.setting import Setting

# What Python says of a text that is no number.
_CONVERSIONS = (
    (r"invalid literal for int\(\) with base 10: .*", "expected a whole number"),
    (r"could not convert string to float: .*", "expected a number"),
    (r"\('Non-boolean argument to boolean flag', .*\)", "expected true or false"),
    (r"(--no(\w+)=.*) does not take an argument", r"\1 takes no value: expected --no\2 or --\2"),
)
_DEFINE: dict[type, Callable[..., Any]] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def parse(arguments: Sequence[str]) -> Config:
    """Parses and checks a command line.

    Args:
        arguments: like sys.argv.

    Raises:
        UserError: an unknown flag (with the nearest known one), a bad value, a combination that
            cannot take effect.
        SystemExit: --help, which is printed.
    """
    if any(a in ("--help", "-help", "-h", "--helpfull") for a in arguments[1:]):
        print(help_text())
        sys.exit(0)
    values = _flag_values()
    try:
        rest = values(flag_files.expand(arguments))
    except flags.UnrecognizedFlagError as error:
        booleans = [name for name, found in SETTINGS.items() if found.kind is bool]
        hint = advice(error.flagname, list(SETTINGS), booleans)
        raise UserError(f"unknown flag --{error.flagname}{hint} (--help lists all)") from error
    except (flags.Error, ValueError) as error:  # The latter of --noNAME with a value.
        raise UserError(_in_words(str(error))) from error
    if rest[1:]:
        raise UserError(f"unexpected arguments {' '.join(rest[1:]):.80}: flags start with --")
    config = Config(given=frozenset(name for name in SETTINGS if values[name].present))
    config = config.with_values(**{name: values[name].value for name in SETTINGS})
    config = config_checks.complete(config)
    config_checks.check(config)
    return config


def help_text() -> str:
    """Returns the flags in groups, each with its default, its unit and what it means."""
    lines = [
        "usage: python3 main.py --data_dir=DIR --global_batch_size=N [flag ...]",
        "       horovodrun -np N ./hvd_wrapper.sh python3 main.py ...",
        "",
        "Trains DLRM. --flagfile=FILE reads flags from a file, one a line; flags after it replace",
        "its own. Defaults stand in brackets. --NAME turns a true/false flag on, --noNAME off.",
    ]
    for section, group in GROUPS.items():
        lines += ["", f"{group.title}:"]
        for found in SETTINGS.values():
            if found.section == section:
                lines += _help_lines(found)
    return "\n".join(lines)


def _help_lines(found: Setting) -> list[str]:
    default = found.default
    if isinstance(default, bool):
        default = str(default).lower()
    shown = "" if default is None else f" [{default}]"
    unit = f" ({found.unit})" if found.unit else ""
    lines = [f"  --{found.name}{shown}{unit}"]
    if found.choices:
        lines.append(f"      one of {', '.join(found.choices)}")
    return lines + textwrap.wrap(
        found.help, 94, initial_indent=" " * 6, subsequent_indent=" " * 6,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _flag_values() -> flags.FlagValues:
    """Returns a flag for each setting, none of them in absl's global `FLAGS`."""
    values = flags.FlagValues()
    for name, found in SETTINGS.items():
        options: dict[str, Any] = {"help": found.help, "flag_values": values}
        if found.choices:
            flags.DEFINE_enum(name, found.default, enum_values=list(found.choices), **options)
            continue
        if found.minimum is not None:
            options["lower_bound"] = found.minimum
        if found.maximum is not None:
            options["upper_bound"] = found.maximum
        _DEFINE[found.kind](name, found.default, **options)
    return values


def _in_words(text: str) -> str:
    """Returns absl's message about a flag's value without Python's words for it."""
    for pattern, what in _CONVERSIONS:
        text = re.sub(pattern, what, text)
    return text
