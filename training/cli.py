"""Parses the command line into a `Config`: one flag for each setting of `training.config`.

Only this module imports absl. It does not import TensorFlow, so a wrong flag is reported within a
second.
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

# (messages of absl and Python, replacement)
_CONVERSIONS = (
    (r"invalid literal for int\(\) with base 10: .*", "expected an integer"),
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
        UserError: a flag is unknown, has a wrong value, or cannot take effect.
        SystemExit: for --help, after printing it.
    """
    if any(a in ("--help", "-help", "-h", "--helpfull") for a in arguments[1:]):
        print(help_text())
        sys.exit(0)
    values = _flag_values()
    try:
        rest = values(flag_files.expand(arguments))
    except flags.UnrecognizedFlagError as error:
        booleans = [name for name in values if values[name].boolean]
        hint = advice(error.flagname, list(values), booleans)
        raise UserError(
            f"unknown flag --{error.flagname}{hint} (--help lists all flags)", flag=error.flagname
        ) from error
    except (flags.Error, ValueError) as error:  # ValueError: --noNAME has a value.
        text = _plain(str(error))
        named = re.search(r"--(\w+)=", text)
        raise UserError(text, flag=named and named[1]) from error
    if rest[1:]:
        words = f"{' '.join(rest[1:]):.80}"
        raise UserError(f"unexpected arguments {words}: expected flags, which start with --")
    _resolve_aliases(values)
    config = Config(given=frozenset(name for name in SETTINGS if values[name].present))
    config = config.with_values(**{name: values[name].value for name in SETTINGS})
    config = config_checks.complete(config)
    config_checks.check(config)
    return config


def help_text() -> str:
    """Returns the text of --help: all flags by group with default, unit and meaning."""
    lines = [
        "usage: python3 main.py --data_dir=DIR --global_batch_size=N [flag ...]",
        "       horovodrun -np N ./hvd_wrapper.sh python3 main.py ...",
        "",
        "Trains DLRM. --flagfile=FILE reads flags from a file, one per line; later flags override",
        "earlier ones. Defaults are in brackets. --NAME turns a switch on, --noNAME turns it off.",
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
    alias = f" (alias --{found.alias})" if found.alias else ""
    lines = [f"  --{found.name}{shown}{unit}{alias}"]
    if found.choices:
        lines.append(f"      one of {', '.join(found.choices)}")
    return lines + textwrap.wrap(
        found.help, 94, initial_indent=" " * 6, subsequent_indent=" " * 6,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _flag_values() -> flags.FlagValues:
    """Returns a flag for each setting and alias, none of them in absl's global `FLAGS`."""
    values = flags.FlagValues()
    for name, found in SETTINGS.items():
        options: dict[str, Any] = {
            "help": found.help,
            "flag_values": values,
            "module_name": __name__,  # Else absl searches the call stack, which is slow.
        }
        if found.choices:
            flags.DEFINE_enum(name, found.default, enum_values=list(found.choices), **options)
            continue
        if found.minimum is not None:
            options["lower_bound"] = found.minimum
        if found.maximum is not None:
            options["upper_bound"] = found.maximum
        _DEFINE[found.kind](name, found.default, **options)
        if found.alias:
            _DEFINE[found.kind](found.alias, None, **options)
    return values


def _resolve_aliases(values: flags.FlagValues) -> None:
    """Moves the value of each alias that is given to the flag that it stands for.

    Raises:
        UserError: flag and alias have different values.
    """
    for name, found in SETTINGS.items():
        if not found.alias or not values[found.alias].present:
            continue
        value, other = values[found.alias].value, values[name].value
        if values[name].present and other != value:
            problem = f"contradicts its alias --{found.alias}={value}: give one of them"
            raise UserError.of_flag(name, other, problem)
        values[name].value = value
        values[name].present = 1


def _plain(text: str) -> str:
    """Returns absl's message about a value without Python's technical terms."""
    for pattern, replacement in _CONVERSIONS:
        text = re.sub(pattern, replacement, text)
    return text
